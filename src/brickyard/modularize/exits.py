"""An encoder gets exits: embeddings of texts after some of its layers, each with a head.

ModularStarEncoder (arXiv 2503.03008): one trunk, embeddings at chosen layers, heads of their own or one head
that is told the layer by an embedding. What differs: any backbone whose layers stand in one list, and the
mean over tokens in place of one token at the end.

Layers are found by what they compute (`brickyard.modularize.intake`). The list that holds them becomes a
brick, in place; its decision `exit_layer` says how many run. What a backbone computes behind its layers, such
as a last normalisation, it computes behind every exit.

Shape suffixes: B batch, T tokens, D width of the states.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.bricks.exits import ExitHead, ExitLayers
from brickyard.core.decision import Choice
from brickyard.core.embedding import TextEmbedder, mean_pool, states_of
from brickyard.core.errors import ModularizeError
from brickyard.core.network import Network
from brickyard.modularize.intake import Inputs, example_inputs, find_anatomy
from brickyard.modularize.text_encoder import Progress, TextEncoder, Texts, Tokens, at_rest, embed_texts

EXIT = "exit_layer"
"""Name of the decision: after how many layers the stream leaves."""

HeadKind = Literal["own", "shared", "none"]
HEADS: tuple[HeadKind, ...] = get_args(HeadKind)

_TOLERANCE = 1e-4  # most that embeddings of the two ways to compute them may differ by
_PROBE_TOKENS = 5


class _EnoughError(Exception):
    """Leaves the backbone at an exit."""


class MultiExitEncoder:
    """An encoder with exits; made by `add_exits`.

    Attributes:
        network: Backbone and heads as a network of bricks, with the decision `exit_layer`, and those of
            experts that the backbone had before; a search decides them, `configure` sets them.
        exits: The exits, each the number of layers in front of it, ascending.
        head: `own`, `shared` or `none`.
        embed_dim: Width of embeddings.
        tokens: Turns texts into inputs.
    """

    def __init__(
        self, network: Network, *, head: HeadKind, embed_dim: int, tokens: Tokens, path: str, tail: str | None
    ) -> None:
        self.network, self.head, self.embed_dim, self.tokens = network, head, embed_dim, tokens
        self._path, self._tail = path, tail

    @property
    def exits(self) -> tuple[int, ...]:
        """The exits, each the number of layers in front of it, ascending."""
        return tuple(self._layers.exit.values)

    @property
    def backbone(self) -> nn.Module:
        """The backbone, the object that was handed in."""
        return self.network.root.get_submodule("backbone")

    @property
    def width(self) -> int:
        """Width of the states of the tokens."""
        backbone: Any = self.backbone
        return int(backbone.config.hidden_size)

    def config(self, exit: int) -> dict[str, Any]:
        """Return the config of an exit; experts of the backbone, if it has any, stay as they are chosen."""
        return {**self.network.space.active(), EXIT: exit}

    @property
    def _layers(self) -> ExitLayers:
        layers = self.backbone.get_submodule(self._path)
        if not isinstance(layers, ExitLayers):
            raise ModularizeError("this encoder was reverted; add exits to its backbone anew")
        return layers

    def encode(
        self,
        texts: Texts,
        *,
        exit: int | None = None,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> Tensor:
        """Embed texts at an exit; the layers behind it do not run.

        Args:
            texts: Texts, or rows of ids without padding.
            exit: The exit; None for the one that is active in the network, at first the last.
            batch_size: Texts at once.
            progress: Called with the texts that are done and all of them.

        Returns:
            Unit vectors `[texts, embed_dim]`.

        Raises:
            ConfigError: There is no such exit.
            DataError: There are no texts, or they cannot be read.
        """
        with self.network.configured(self.config(self._layers.exit.value if exit is None else exit)):
            root = self.network.root
            return embed_texts(root, self.tokens, texts, batch_size=batch_size, progress=progress)

    def encode_all(
        self, texts: Texts, *, batch_size: int = 32, progress: Progress | None = None
    ) -> dict[int, Tensor]:
        """Embed texts at all exits by one run of the layers.

        Args:
            texts: Texts, or rows of ids without padding.
            batch_size: Texts at once.
            progress: Called with the texts that are done and all of them.

        Returns:
            Unit vectors `[texts, embed_dim]` by exit, ascending; those of `encode`, up to rounding.

        Raises:
            DataError: There are no texts, or they cannot be read.
        """

        def run(**batch: Tensor) -> Tensor:
            return torch.stack(list(self.embed(**batch).values()), dim=1)

        found = embed_texts(
            self.network, self.tokens, texts, batch_size=batch_size, progress=progress, run=run
        )
        return dict(zip(self.exits, found.unbind(1), strict=True))

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> dict[int, Tensor]:
        """Embed a batch at all exits by one run of the backbone, with gradients; for training.

        Args:
            input_ids: Ids `[batch, tokens]`.
            attention_mask: 1 at real tokens, 0 at padding.

        Returns:
            Unit vectors `[batch, embed_dim]` by exit, ascending.
        """
        states = self.states(input_ids, attention_mask)
        return {exit: self._headed(mean_pool(state, attention_mask), exit) for exit, state in states.items()}

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> dict[int, Tensor]:
        """Return the states of the tokens at all exits, without heads, by one run of the backbone.

        Args:
            input_ids: Ids `[batch, tokens]`.
            attention_mask: 1 at real tokens, 0 at padding.

        Returns:
            States `[batch, tokens, width]` by exit, ascending, with gradients.
        """
        layers, backbone = self._layers, self.backbone
        found: dict[int, Tensor] = {}

        def keep(exit: int) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                found[exit] = _first_tensor(output)

            return hook

        stack = dict(enumerate(layers._modules.values(), start=1))
        handles = [stack[exit].register_forward_hook(keep(exit)) for exit in self.exits]
        try:
            with self.network.configured(self.config(self.exits[-1])):
                last = states_of(backbone(input_ids=input_ids, attention_mask=attention_mask))
        finally:
            for handle in handles:
                handle.remove()
        tail = None if self._tail is None else backbone.get_submodule(self._tail)
        return {
            exit: last if exit == self.exits[-1] else (found[exit] if tail is None else tail(found[exit]))
            for exit in self.exits
        }

    @torch.no_grad()
    def embed_until(
        self, input_ids: Tensor, attention_mask: Tensor, enough: Callable[[int, Tensor], bool]
    ) -> dict[int, Tensor]:
        """Embed a batch exit after exit, and stop when that is enough; layers behind do not run.

        Args:
            input_ids: Ids `[batch, tokens]`.
            attention_mask: 1 at real tokens, 0 at padding.
            enough: From an exit and its unit vectors `[batch, embed_dim]` to whether to stop there; not asked
                at the last exit.

        Returns:
            Unit vectors by exit, ascending, up to the one that was enough; without gradients.
        """
        layers, backbone = self._layers, self.backbone
        tail = None if self._tail is None else backbone.get_submodule(self._tail)
        found: dict[int, Tensor] = {}

        def look(exit: int) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                state = _first_tensor(output)
                state = state if tail is None else tail(state)
                found[exit] = self._headed(mean_pool(state, attention_mask), exit)
                if enough(exit, found[exit]):
                    raise _EnoughError

            return hook

        stack = list(layers._modules.values())
        *early, last = self.exits
        handles = [stack[exit - 1].register_forward_hook(look(exit)) for exit in early]
        try:
            with self.network.configured(self.config(self.exits[-1])):
                states = states_of(backbone(input_ids=input_ids, attention_mask=attention_mask))
            found[last] = self._headed(mean_pool(states, attention_mask), last)
        except _EnoughError:
            pass  # the layers behind are not needed
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _headed(self, pooled_BD: Tensor, exit: int) -> Tensor:
        head = self.network.root.get_submodule("head")
        if isinstance(head, ExitHead):
            pooled_BD = head.project(pooled_BD, exit)
        return F.normalize(pooled_BD, dim=-1)

    def truncate(self, exit: int) -> TextEncoder:
        """Cut the encoder at an exit: layers behind it and heads of other exits are gone.

        Args:
            exit: The exit.

        Returns:
            A plain encoder that shares nothing with this one and gives the same embeddings, bit for bit, as
            `encode` at that exit.

        Raises:
            ConfigError: There is no such exit.
        """
        plain = self.network.extract(self.config(exit))
        assert isinstance(plain, TextEmbedder)
        _tell_depth_(plain.backbone, exit)
        return TextEncoder(plain.eval(), self.tokens)

    def revert(self) -> nn.Module:
        """Put a plain list of all layers back into the backbone, in place, with the weights it has now.

        Returns:
            The backbone.

        Raises:
            ModularizeError: It was reverted already.
        """
        layers, backbone = self._layers, self.backbone
        backbone.set_submodule(self._path, _plain(layers))
        return backbone


def add_exits(
    model: nn.Module,
    *,
    exits: Sequence[int],
    tokenizer: Any = None,
    head: HeadKind = "own",
    embed_dim: int | None = None,
    max_tokens: int = 128,
    inputs: Inputs | None = None,
    seed: int = 0,
) -> MultiExitEncoder:
    """Give an encoder exits, in place.

    Args:
        model: A backbone that takes `input_ids` and `attention_mask` and gives `last_hidden_state`, such as
            `AutoModel` loads; changed.
        exits: After how many layers there are exits, ascending, from 1. Layers behind the last exit never
            run.
        tokenizer: Its tokenizer; None where only ids are embedded.
        head: `own`: a projection for each exit. `shared`: one projection, and an embedding of the layer for
            each exit. `none`: the mean over the tokens itself.
        embed_dim: Width of embeddings; that of the backbone if None. A fresh head of that width changes
            nothing but for the embeddings of the layer; other widths start orthogonal.
        max_tokens: Most tokens of a text; longer texts are cut.
        inputs: Arguments by name of one run of the model, by which its layers are found; None to make some
            up.
        seed: Seed of the heads.

    Returns:
        The encoder. All layers up to its last exit run at first.

    Raises:
        ModularizeError: A setting is out of range, the model has not one list of layers that run one after
            the other, or it does not read that many tokens; it is then as it was.

    Example:
        >>> encoder = add_exits(AutoModel.from_pretrained(name), exits=(2, 4, 6), tokenizer=tokenizer)
        >>> train(encoder)
        >>> encoder.truncate(2).save("small")
    """
    config: Any = getattr(model, "config", None)
    if head not in HEADS:
        raise ModularizeError(f"head = {head!r} is unknown; known: {', '.join(HEADS)}")
    if any(isinstance(part, ExitLayers) for part in model.modules()):
        raise ModularizeError(f"this {type(model).__name__} has exits already; revert its encoder first")
    path = _layers_path(model, example_inputs(model) if inputs is None else inputs)
    original = model.get_submodule(path)
    if not isinstance(original, nn.ModuleList):
        raise ModularizeError(
            f"{type(model).__name__} keeps its layers in a {type(original).__name__}; exits need a ModuleList"
        )
    count = len(original)
    width, vocab_size = (getattr(config, name, None) for name in ("hidden_size", "vocab_size"))
    says = getattr(config, "num_hidden_layers", None) == count
    if not says or not isinstance(width, int) or not isinstance(vocab_size, int):
        raise ModularizeError(
            f"{type(model).__name__} has {count} layers in {path}, but its config does not say so by "
            "num_hidden_layers, or lacks hidden_size or vocab_size; give the backbone that AutoModel loads"
        )
    wanted = tuple(exits)
    known = all(type(exit) is int and 1 <= exit <= count for exit in wanted)
    if not wanted or not known or list(wanted) != sorted(set(wanted)):
        raise ModularizeError(
            f"exits = {list(wanted)} is not allowed; allowed: ascending numbers of 1 to {count}"
        )
    if head == "none" and embed_dim not in (None, width):
        raise ModularizeError(f"embed_dim = {embed_dim} needs a head; without one it is {width}")
    if (embed_dim is not None and embed_dim < 1) or max_tokens < 1:
        raise ModularizeError(f"embed_dim = {embed_dim} and max_tokens = {max_tokens} must be above 0")
    embed_dim = width if embed_dim is None else embed_dim
    choice = Choice(EXIT, wanted)
    heads: nn.Module = nn.Identity()
    if head != "none":
        heads = ExitHead(width, embed_dim, exit=choice, shared=head == "shared", seed=seed)
        heads.to(next(model.parameters()))
    padding = int(getattr(config, "pad_token_id", None) or 0)
    tokens = Tokens(tokenizer, max_tokens=max_tokens, padding=padding, ids_below=vocab_size)
    try:
        model.set_submodule(path, ExitLayers(original, exit=choice))
        network = Network(TextEmbedder(model, heads), input_shape=(max_tokens,), vocab_sizes=(vocab_size,))
        tail = _find_tail(model, path, max_tokens)
        encoder = MultiExitEncoder(
            network, head=head, embed_dim=embed_dim, tokens=tokens, path=path, tail=tail
        )
        _check(encoder)
    except BaseException:
        model.set_submodule(path, original)
        raise
    return encoder


def _layers_path(model: nn.Module, inputs: Inputs) -> str:
    """Return the path of the one list that holds all layers."""
    found = find_anatomy(model, inputs).layers
    lists = sorted({layer.path.rpartition(".")[0] for layer in found})
    if len(lists) != 1:
        raise ModularizeError(
            f"{type(model).__name__} has {len(lists)} lists of layers {lists}; exits need one, so give the "
            "encoder alone"
        )
    return lists[0]


def _plain(layers: ExitLayers) -> nn.ModuleList:
    plain = nn.ModuleList(layers._modules.values())
    plain.training = layers.training
    return plain


def _first_tensor(output: Any) -> Tensor:
    """Return the stream from what a layer gives: a tensor, or a tuple that begins with it."""
    first = output if isinstance(output, Tensor) else output[0]
    assert isinstance(first, Tensor)
    return first


def _same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors are the same place in memory."""
    return one.shape == other.shape and one.data_ptr() == other.data_ptr()


def _find_tail(model: nn.Module, path: str, max_tokens: int) -> str | None:
    """Return the path of the module behind the layers; None if the last layer gives the states.

    Raises:
        ModularizeError: Layers do not run once each, one after the other, or something unknown follows them.
    """
    layers: Any = model.get_submodule(path)
    stack = list(layers)
    runs: list[int] = []
    made: list[Tensor] = []
    behind: list[tuple[str, Tensor]] = []

    def layer_hook(module: nn.Module, args: Any, output: Any) -> None:
        runs.append(next(number for number, layer in enumerate(stack) if layer is module))
        made.append(_first_tensor(output))

    def other_hook(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)]
            if made and isinstance(output, Tensor) and any(part is made[-1] for part in given):
                behind.append((name, output))

        return hook

    handles = [layer.register_forward_hook(layer_hook) for layer in stack]
    handles += [
        part.register_forward_hook(other_hook(name), with_kwargs=True)
        for name, part in model.named_modules()
        if name and name != path and not name.startswith(f"{path}.")
    ]
    vocab_size = int(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    device = next(model.parameters()).device
    ids = (torch.arange(3, 3 + max_tokens, device=device) % vocab_size)[None]
    try:
        with at_rest(model):
            states = states_of(model(input_ids=ids, attention_mask=torch.ones_like(ids)))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModularizeError(
            f"{type(model).__name__} gives no states of {max_tokens} tokens: {error}; lower max_tokens, or "
            "give the backbone that AutoModel loads"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if runs != list(range(len(stack))):
        raise ModularizeError(
            f"the layers of {type(model).__name__} run in the order {runs}, expected each once from 0 to "
            f"{len(stack) - 1}; layers that are used several times have no exits"
        )
    if _same(states, made[-1]):
        return None
    tail = next((name for name, output in reversed(behind) if _same(output, states)), None)
    if tail is None:
        raise ModularizeError(
            f"no single module leads from the last layer of {type(model).__name__} to its states, so that "
            "exits before it cannot be read"
        )
    return tail


def _check(encoder: MultiExitEncoder) -> None:
    """Compare all exits in one run with runs that end at each.

    Raises:
        ModularizeError: They differ.
    """
    tokens = min(_PROBE_TOKENS, encoder.tokens.max_tokens)
    vocab_size = encoder.network.vocab_sizes[0]
    rows = [[(3 + place) % vocab_size for place in range(tokens)], [5 % vocab_size]]
    device = next(encoder.network.parameters()).device
    batch = encoder.tokens.batch(rows, device)
    with at_rest(encoder.network):
        for exit, found in encoder.embed(**batch).items():
            with encoder.network.configured(encoder.config(exit)):
                difference = float((encoder.network(**batch) - found).abs().max())
            if not difference <= max(_TOLERANCE, 16 * torch.finfo(found.dtype).eps):
                raise ModularizeError(
                    f"a {type(encoder.backbone).__name__} that ends after layer {exit} differs from its "
                    f"state there by {difference:.3g}; it computes something that its layers do not show"
                )


def _tell_depth_(backbone: Any, depth: int) -> None:
    """Let the config of a cut model of transformers, and of its parts, tell how many layers there are."""
    whole = backbone.config
    config = copy.deepcopy(whole)
    config.num_hidden_layers = depth
    kinds = getattr(config, "layer_types", None)
    if isinstance(kinds, Sequence):
        config.layer_types = list(kinds[:depth])
    for part in backbone.modules():
        if getattr(part, "config", None) is whole:
            part.config = config


def settings_of(encoder: MultiExitEncoder) -> Mapping[str, Any]:
    """Return the arguments of `add_exits` that make such an encoder again, as JSON values."""
    return {
        "exits": list(encoder.exits),
        "head": encoder.head,
        "embed_dim": encoder.embed_dim,
        "max_tokens": encoder.tokens.max_tokens,
    }
