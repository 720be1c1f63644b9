"""Layers whose active weights follow from the task: masked weights, and small parts of a task's own."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.continual.masks import (
    Filled,
    Popup,
    Shielded,
    mixed_weight,
    pack,
    top_k_mask,
    under_mask,
    unpack,
)
from brickyard.continual.tasks import Tasks
from brickyard.core.brick import Brick, Extract
from brickyard.core.decision import Decision
from brickyard.core.errors import ConfigError

_CONVOLUTIONS: dict[type[nn.Module], Any] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d}
MASKED_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Layers that are masked."""
HEAD_WEIGHTS = 10
"""Weights that a mask keeps of a head for each of its rows, if the density alone gives fewer."""


class TaskBrick(Brick):
    """A leaf that reads the task.

    Attributes:
        tasks: The decision that all of them share.
    """

    tasks: Tasks

    def decisions(self) -> Iterator[Decision]:
        """Yield the task."""
        yield self.tasks

    @abstractmethod
    def add_task(self, *, num_classes: int) -> None:
        """Make room for the task that was added to `tasks` last.

        Args:
            num_classes: Its number of classes, which heads give scores of.
        """

    @abstractmethod
    def drop_task(self) -> None:
        """Forget the last task, and what training has not written into the common weights."""

    @abstractmethod
    def task_state(self, number: int) -> dict[str, Tensor]:
        """Return what a task has of its own, but for masks and weights, by name."""

    @abstractmethod
    def load_task_state(self, state: Mapping[str, Tensor]) -> None:
        """Give the last task what `task_state` returned.

        Raises:
            RuntimeError: Names or shapes differ.
        """

    @abstractmethod
    def trained(self) -> list[nn.Parameter]:
        """Return the vectors and the like of the last task that are trained beside masks and weights."""


class MaskedLayer(TaskBrick):
    """A linear layer or convolution whose weights a task selects from a common pool by a mask.

    Its bias, if there is one, belongs to the task. While a task is learned, its mask follows from scores;
    then the weights under it are trained.

    Args:
        plain: The layer; its weights become the pool.
        tasks: The task.
        density: Share of the weights that a mask keeps, above 0, up to 1; rounded, at least one weight, and
            of a head at least `HEAD_WEIGHTS` for each row (all, where it has fewer).
        is_head: Whether it gives the scores of the classes, of which a task may have fewer than there are
            rows.

    Attributes:
        pool: The weights that masks select from; never active as they are.
        keep: Weights that a mask keeps.
        taken: Which weights some learned task's mask holds.
        along: Weights that are trained along with the scores, of the pool's shape, None where there are none.
        trainee: While the last task is trained, its weights: `fill` writes them before each step and
            `hand_on` hands their gradient on to the scores, or the weights that may change.
    """

    pool: nn.Parameter
    taken: Tensor
    fresh_bias: nn.Parameter | None

    def __init__(
        self, plain: nn.Linear | nn.Conv1d | nn.Conv2d, tasks: Tasks, *, density: float, is_head: bool = False
    ) -> None:
        super().__init__()
        if isinstance(plain, nn.Conv1d | nn.Conv2d) and plain.padding_mode != "zeros":
            raise ConfigError(
                f"a convolution pads with {plain.padding_mode!r}; masks need padding_mode='zeros'",
                path="padding_mode",
                value=plain.padding_mode,
            )
        self.tasks, self.is_head = tasks, is_head
        self.kind: Any = type(plain)
        self.arguments: dict[str, Any] = (
            {}
            if isinstance(plain, nn.Linear)
            else {
                "stride": plain.stride,
                "padding": plain.padding,
                "dilation": plain.dilation,
                "groups": plain.groups,
            }
        )
        self.pool = nn.Parameter(plain.weight.detach().clone(), requires_grad=False)
        self.keep = max(1, round(density * self.pool.numel()))
        if is_head:  # a row that is left without weights never answers
            self.keep = min(max(self.keep, HEAD_WEIGHTS * self.pool.shape[0]), self.pool.numel())
        fresh = None if plain.bias is None else nn.Parameter(plain.bias.detach().clone(), requires_grad=False)
        self.register_parameter("fresh_bias", fresh)
        self.biases = nn.ParameterList()
        self.rows: list[int] = []
        self.register_buffer("taken", torch.zeros_like(self.pool, dtype=torch.bool), persistent=False)
        self.scores: nn.Parameter | None = None
        self.free: nn.Parameter | None = None
        self.along: nn.Parameter | None = None
        self.trainee: Popup | Filled | Shielded | None = None
        self._ready: tuple[int, int, Tensor] | None = None

    def mask(self, number: int) -> Tensor:
        """Return the mask of a task, of the pool's shape."""
        return unpack(self.get_buffer(f"mask{number}"), self.pool.shape)

    def active(self) -> dict[str, Tensor | None]:
        """Return weight and bias of the task in use."""
        if self.tasks.mixture is not None:
            return self._mixed(self.tasks.mixture)
        number = self.tasks.number
        bias = self.biases[number] if len(self.biases) else None
        return {"weight": self._head(self._weight(number), number), "bias": self._head(bias, number)}

    def _mixed(self, mixture: Tensor) -> dict[str, Tensor | None]:
        weight = mixed_weight(mixture, self.pool, self.mask)
        bias = None
        if len(self.biases):
            bias = torch.stack(list(self.biases)).T @ mixture
        return {"weight": self._head(weight, 0), "bias": self._head(bias, 0)}

    def _head(self, tensor: Any, number: int) -> Any:
        """Leave the rows of the task's classes, in a head."""
        if tensor is None or not self.is_head or self.rows[number] == tensor.shape[0]:
            return tensor
        return tensor[: self.rows[number]]

    def _weight(self, number: int) -> Tensor:
        if self.trainee is not None and number == len(self.tasks.values) - 1:
            return self.trainee.weight
        return self._selected(number)

    def _selected(self, number: int) -> Tensor:
        """Return the pool under a mask; kept from call to call until task or pool change."""
        version = self.pool._version
        if self._ready is None or self._ready[:2] != (number, version):
            # where, not a product: a weight that is off is 0, never -0, whatever later tasks make of it
            self._ready = number, version, torch.where(self.mask(number), self.pool.detach(), 0)
        return self._ready[2]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if self.trainee is not None:
            raise RuntimeError("a task is being learned; move or convert the network before or after that")
        self._ready = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._ready = None
        self.taken.zero_()
        for number in range(len(self.rows)):
            self.taken |= self.mask(number)

    def forward(self, x: Tensor) -> Tensor:
        """Compute what the plain layer does, with the weights of the task in use."""
        weights = self.active()
        weight = weights["weight"]
        assert weight is not None
        if self.kind is nn.Linear:
            return F.linear(x, weight, weights["bias"])
        y: Tensor = _CONVOLUTIONS[self.kind](x, weight, weights["bias"], **self.arguments)
        return y

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build the plain layer with the weights of the task in use, zeros where the mask has none."""
        weight, bias = weights["weight"], weights["bias"]
        assert weight is not None
        out_features, in_features = weight.shape[0], weight.shape[1] * self.arguments.get("groups", 1)
        sizes = (in_features, out_features, *([weight.shape[2:]] if self.kind is not nn.Linear else []))
        plain: nn.Module = self.kind(*sizes, bias=bias is not None, **self.arguments)
        plain.register_parameter("weight", nn.Parameter(weight))
        plain.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        return plain

    def add_task(self, *, num_classes: int) -> None:
        """Give the new task a bias of its own and room for its mask, which `set_mask` or `fix_mask` fills.

        The room is taken first: what stays behind large memory that is freed later keeps that from being
        used again, and each task would need more.
        """
        packed = torch.zeros(math.ceil(self.pool.numel() / 8), dtype=torch.uint8, device=self.pool.device)
        self.register_buffer(f"mask{len(self.rows)}", packed)
        if self.fresh_bias is not None:
            self.biases.append(nn.Parameter(self.fresh_bias.detach().clone()))
        self.rows.append(num_classes if self.is_head else self.pool.shape[0])

    def drop_task(self) -> None:
        """Forget the last task, and scores or weights that are being trained."""
        number = len(self.rows) - 1
        self.scores = self.free = self.along = self.trainee = self._ready = None
        self._buffers.pop(f"mask{number}", None)
        self.rows.pop()
        if len(self.biases):
            self.biases = nn.ParameterList(list(self.biases)[:-1])

    def begin_masks(self, scores: Tensor, *, along: bool = False, exclusive: bool = True) -> None:
        """Let the last task's mask follow from scores, which are trained.

        Args:
            scores: The scores to start from, of the pool's shape.
            along: Whether weights are trained along with them; those under the mask that `fix_mask` gives are
                where `begin_weights` starts from, the others are dropped.
            exclusive: Whether only weights that no earlier task's mask holds are.
        """
        self.scores = nn.Parameter(scores.detach().clone())
        free = (~self.taken if exclusive else torch.ones_like(self.taken)) if along else None
        self.trainee = Popup(self.scores, self.pool.detach(), self.keep, free=free)
        self.along = self.trainee.along

    def fix_mask(self) -> None:
        """End the training of scores: keep the mask that they give, drop them."""
        assert self.scores is not None
        mask = top_k_mask(self.scores.detach().abs(), self.keep)
        self.scores = self.trainee = None
        self.set_mask(mask)

    def set_mask(self, mask: Tensor) -> None:
        """Give the last task its mask, of the pool's shape."""
        self.get_buffer(f"mask{len(self.rows) - 1}").copy_(pack(mask))
        self._ready = None

    def begin_weights(self, *, exclusive: bool) -> None:
        """Train the weights under the last task's mask.

        Args:
            exclusive: Whether only those that no earlier task's mask holds.
        """
        weight = self._selected(len(self.rows) - 1).clone()
        if self.along is not None:
            weight = torch.where(self.mask(len(self.rows) - 1), self.along.detach(), 0)
        self.along = None
        self.trainee = under_mask(weight, self._trains(exclusive=exclusive))
        self.free = self.trainee.trained

    def _trains(self, *, exclusive: bool) -> Tensor:
        """Return which weights the last task trains."""
        mask = self.mask(len(self.rows) - 1)
        return mask & ~self.taken if exclusive else mask

    def load_weights(self, values: Tensor, *, exclusive: bool) -> None:
        """Write trained weights of the last task into the pool.

        Args:
            values: The weights that `begin_weights` trains, in the order of the pool.
            exclusive: As for `begin_weights`.

        Raises:
            RuntimeError: Their number differs.
        """
        trains = self._trains(exclusive=exclusive)
        if values.shape != (int(trains.sum()),):
            raise RuntimeError(f"expected {int(trains.sum())} weights, got {values.numel()}")
        with torch.no_grad():
            self.pool[trains] = values.to(self.pool)

    def keep_weights(self) -> None:
        """End the training of weights: write them into the pool."""
        assert isinstance(self.trainee, Filled | Shielded)
        self.trainee.fill()
        trains = self.trainee.trains
        with torch.no_grad():
            self.pool[trains] = self.trainee.weight[trains]
        self.free = self.trainee = None

    def close_task(self) -> None:
        """Take the weights under the last task's mask."""
        self.taken |= self.mask(len(self.rows) - 1)

    def trained(self) -> list[nn.Parameter]:
        """Return the last task's bias."""
        return [self.biases[-1]] if len(self.biases) else []

    def task_state(self, number: int) -> dict[str, Tensor]:
        """Return a task's bias."""
        return {"bias": self.biases[number].detach()} if len(self.biases) else {}

    def load_task_state(self, state: Mapping[str, Tensor]) -> None:
        """Give the last task its bias."""
        for bias in self.trained():
            if list(state) != ["bias"] or state["bias"].shape != bias.shape:
                raise RuntimeError(f"expected a bias of shape {tuple(bias.shape)}")
            bias.data.copy_(state["bias"])


class OwnPart(TaskBrick):
    """A part of which every task has its own copy: a normalisation, or a head.

    Args:
        plain: What a new task starts from; as a head, what its in_features and bias are taken from.
        tasks: The task.
        is_head: Whether it is a linear layer that gives the scores of the classes; a new task's is drawn anew
            then, with as many rows as it has classes.
    """

    def __init__(self, plain: nn.Module, tasks: Tasks, *, is_head: bool = False) -> None:
        super().__init__()
        self.tasks, self.is_head = tasks, is_head
        self.fresh = copy.deepcopy(plain).requires_grad_(False)
        self.parts = nn.ModuleList()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the part of the task in use; in a mixture, the weighted sum of those of all tasks in it."""
        if self.tasks.mixture is None:
            return self._part(self.tasks.number, x)
        shares = enumerate(self.tasks.mixture)
        terms = [share * self._part(number, x) for number, share in shares if float(share.detach())]
        return torch.stack(terms).sum(0)

    def _part(self, number: int, x: Tensor) -> Tensor:
        part: Any = self.parts[number]
        y: Tensor = part(x)
        return y

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Cut the part of the task in use out."""
        plain = recurse(self.parts[self.tasks.number])
        if getattr(plain, "momentum", None) is not None and hasattr(plain, "num_batches_tracked"):
            plain.register_buffer(
                "num_batches_tracked", None
            )  # only averages without momentum need the count
        return plain

    def add_task(self, *, num_classes: int) -> None:
        """Give the new task its part."""
        part = copy.deepcopy(self.fresh)
        if self.is_head:
            assert isinstance(part, nn.Linear)
            part = nn.Linear(part.in_features, num_classes, bias=part.bias is not None).to(part.weight)
        self.parts.append(part.train(self.training).requires_grad_(True))

    def drop_task(self) -> None:
        """Forget the last task's part."""
        del self.parts[len(self.parts) - 1]

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters of the last task's part."""
        return list(self.parts[-1].parameters())

    def task_state(self, number: int) -> dict[str, Tensor]:
        """Return the state dict of a task's part."""
        return dict(self.parts[number].state_dict())

    def load_task_state(self, state: Mapping[str, Tensor]) -> None:
        """Give the last task's part its state dict."""
        self.parts[-1].load_state_dict(state)
