"""A network whose config is the task: any plain module with its layers masked (arXiv 2210.10209, section 3).

What differs from the paper: every task has its own biases and its own normalisation, statistics and, where
the module has them, scales and shifts; the random weights are scaled for the density of the masks; a mask
keeps at least ten weights of a shared head for each class, since a class without any is never answered.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from brickyard.continual.layers import MASKED_KINDS, MaskedLayer, OwnPart, TaskBrick
from brickyard.continual.tasks import Tasks
from brickyard.core.brick import Brick
from brickyard.core.errors import ConfigError
from brickyard.core.network import Network

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
_OPAQUE = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)

Arm = Literal["exssnet", "ssnet", "supsup"]
"""How weights are trained: only those that no earlier task holds; all of the mask's; none."""


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """What is known of a learned task, beside its tensors.

    Attributes:
        name: Its name.
        num_classes: Number of its classes.
        arm: How its weights were trained.
        free_share: Share of its mask that no earlier task held.
    """

    name: str
    num_classes: int
    arm: Arm
    free_share: float

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return asdict(self)


class TaskNetwork:
    """A network whose one decision is the task; made by `masked`.

    Args:
        network: The network; its decision `task` is `tasks`.
        tasks: The task.
        head: Path of the head in the network's root.

    Attributes:
        records: What is known of the learned tasks, in their order.
    """

    def __init__(self, network: Network, tasks: Tasks, *, head: str) -> None:
        self.network, self.tasks, self.head_path = network, tasks, head
        self.records: list[TaskRecord] = []

    @property
    def parts(self) -> dict[str, TaskBrick]:
        """All leaves that read the task, by path in the root."""
        found = self.network.root.named_modules()
        return {path: module for path, module in found if isinstance(module, TaskBrick)}

    @property
    def layers(self) -> dict[str, MaskedLayer]:
        """The masked layers, by path in the root."""
        return {path: part for path, part in self.parts.items() if isinstance(part, MaskedLayer)}

    @property
    def head(self) -> MaskedLayer | OwnPart:
        """The head."""
        head = self.network.root.get_submodule(self.head_path)
        assert isinstance(head, MaskedLayer | OwnPart)
        return head

    @property
    def head_device(self) -> torch.device:
        """Where the head, and with it the network, computes."""
        return next(self.head.parameters()).device

    @property
    def frozen(self) -> list[str]:
        """Names of parameters that no task changes and no mask selects from, such as embeddings."""
        own = {id(tensor) for part in self.parts.values() for tensor in part.parameters()}
        named = self.network.root.named_parameters()
        return [name for name, tensor in named if id(tensor) not in own]

    @property
    def num_weights(self) -> int:
        """Number of weights that masks select from."""
        return sum(layer.pool.numel() for layer in self.layers.values())

    @property
    def num_kept(self) -> int:
        """Number of weights that each mask keeps."""
        return sum(layer.keep for layer in self.layers.values())

    def scores(self, task: str, inputs: Tensor, *, batch_size: int = 512) -> Tensor:
        """Compute the scores of a task's classes in evaluation mode.

        Args:
            task: Its name.
            inputs: Inputs `[samples, ...]`.
            batch_size: Inputs that are computed at once.

        Returns:
            Scores `[samples, num_classes]`.

        Raises:
            ConfigError: There is no such task.
        """
        self.tasks.number_of(task)
        with self.network.configured({self.tasks.name: task}), evaluation(self.network), torch.no_grad():
            return torch.cat([self.network(part) for part in inputs.split(batch_size)])

    def extract(self, task: str) -> nn.Module:
        """Cut the network of a task out as a plain module that knows nothing of brickyard.

        Weights that the mask leaves out are zeros; the layers keep their shapes.

        Raises:
            ConfigError: There is no such task.
        """
        self.tasks.number_of(task)
        return self.network.extract({self.tasks.name: task})

    def free_share(self) -> float:
        """Return the share of the weights that no learned task's mask holds."""
        taken = sum(int(layer.taken.sum()) for layer in self.layers.values())
        return 1.0 - taken / self.num_weights

    def overlap(self) -> Tensor:
        """Return, for each task, the share of its mask that each other task's mask holds too.

        Returns:
            Shares `[tasks, tasks]`, 1 on the diagonal.
        """
        count = len(self.records)
        common = torch.zeros(count, count, dtype=torch.float64)
        for layer in self.layers.values():
            masks = [layer.mask(number).reshape(-1) for number in range(count)]
            for row, mask in enumerate(masks):
                common[row, row:] += torch.tensor([int((mask & other).sum()) for other in masks[row:]])
        common = common.triu() + common.triu(1).T
        return common / self.num_kept


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode inside a `with` block, and every part back in its own behind it."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def masked(
    module: nn.Module,
    *,
    input_shape: tuple[int, ...],
    density: float = 0.1,
    head: str | None = None,
    heads: Literal["shared", "own"] = "shared",
    weights: Literal["signed", "kept"] = "signed",
    vocab_sizes: Iterable[int] = (),
    seed: int = 0,
) -> TaskNetwork:
    """Make a network that learns task after task of any plain module.

    Linear layers and convolutions (one- and two-dimensional) are masked; every task has its own biases of
    them and its own normalisation. All else, such as embeddings, stays as it is.

    Args:
        module: The module; left as it is.
        input_shape: Shape of one input, without the batch.
        density: Share of each layer's weights that a mask keeps, above 0, up to 1; of a shared head at least
            ten weights for each class.
        head: Path of the linear layer that gives the scores; the last linear layer if None.
        heads: `shared`: one masked head, a task of fewer classes uses its first rows; `own`: each task trains
            a head of its own, which no mask covers.
        weights: `signed`: random weights of one magnitude per layer, `sqrt(2 / (fan_in * sqrt(density)))`;
            `kept`: those of the module, such as pretrained ones.
        vocab_sizes: Where the module reads token ids: how many different ones.
        seed: Seed of the signs.

    Returns:
        The network, without tasks.

    Raises:
        ConfigError: An argument is out of range, or the module cannot be masked.

    Example:
        >>> network = masked(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), input_shape=(8,))
        >>> network.num_kept, network.num_weights
        (66, 384)
    """
    if not 0 < density <= 1:
        raise ConfigError(f"density = {density} must be above 0 and at most 1", path="density", value=density)
    for name, value, allowed in (
        ("heads", heads, ("shared", "own")),
        ("weights", weights, ("signed", "kept")),
    ):
        if value not in allowed:
            raise ConfigError(f"{name} = {value!r} is not allowed; allowed: {', '.join(allowed)}", path=name)
    _check_maskable(module)
    head_path = _head_path(module, head)
    root = copy.deepcopy(module).requires_grad_(False)
    tasks = Tasks()
    made: dict[int, nn.Module] = {}

    def swap(part: nn.Module, path: str) -> nn.Module:
        if id(part) not in made:
            made[id(part)] = new = part
            is_head = path == head_path
            if is_head and heads == "own":
                new = OwnPart(part, tasks, is_head=True)
            elif type(part) in MASKED_KINDS:
                new = MaskedLayer(part, tasks, density=density, is_head=is_head)  # type: ignore[arg-type]
            elif type(part) in _NORMS:
                new = OwnPart(part, tasks)
            else:
                for name, child in part._modules.items():  # a child that has two names has two entries
                    if child is not None:
                        part._modules[name] = swap(child, f"{path}.{name}" if path else name)
            made[id(part)] = new
        return made[id(part)]

    root = swap(root, "")
    network = Network(root, input_shape=input_shape, vocab_sizes=vocab_sizes)
    found = TaskNetwork(network, tasks, head=head_path)
    if weights == "signed":
        generator = torch.Generator().manual_seed(seed)
        for layer in found.layers.values():
            _sign_(layer.pool, density, generator)
    network.eval()
    return found


def _check_maskable(module: nn.Module) -> None:
    for path, part in module.named_modules():
        if isinstance(part, Brick):
            raise ConfigError(
                f"{path or 'the module'} is a brick of a modular network; extract a subnet and mask that",
                path=path,
            )
        if isinstance(part, _OPAQUE):
            raise ConfigError(
                f"{path or 'the module'} is a {type(part).__name__}, which reads the weights of its layers "
                "past them; use one whose projections are linear layers that it calls, such as "
                "brickyard.core.sequence.EncoderLayer",
                path=path,
            )


def _head_path(module: nn.Module, head: str | None) -> str:
    linear = [path for path, part in module.named_modules() if type(part) is nn.Linear]
    if not linear or (head is not None and head not in linear):
        raise ConfigError(
            f"head = {head!r} is no linear layer of the module; it has: {', '.join(linear) or 'none'}",
            path="head",
            value=head,
            allowed=linear,
        )
    return linear[-1] if head is None else head


def _sign_(pool: Tensor, density: float, generator: torch.Generator) -> None:
    """Fill with random signs times a magnitude between those for all weights and for a random mask.

    Without regard to the density (arXiv 1911.13299), signals vanish at a few per cent and nothing is learned;
    with all of it, they explode, since a learned mask picks weights that agree.
    """
    magnitude = math.sqrt(2.0 / (pool[0].numel() * math.sqrt(density)))
    signs = torch.randint(0, 2, pool.shape, generator=generator).to(pool) * 2 - 1
    pool.copy_(signs * magnitude)
