"""Looks at the neurons of a transformer while it reads texts, switches some off, and tells what that changes.

A neuron's activation is what the second matrix of its feed-forward network reads: the activated
pre-activation, in a gated network times the other factor. Everything is done by hooks that are removed
afterwards, so the model stays as it is, bit for bit.

What a model says is, for a causal language model, the loss of each text's tokens; for any other one an
embedding, the mean of the last layer over the text's tokens. A language model is told by its `logits` over
the vocabulary, which do not change when a later token does.

Shape suffixes: B batch, T tokens, N neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.errors import ModularizeError
from brickyard.modularize.intake import FeedForward, Inputs, example_inputs, find_anatomy
from brickyard.modularize.text_encoder import Progress, Texts, Tokens, at_rest, embed_texts


class NeuronProbe:
    """Reads texts with a transformer and looks at its neurons, or switches some off.

    Args:
        model: A transformer called with `input_ids` and `attention_mask`; left as it is.
        tokens: Turns texts into ids.
        inputs: Arguments by name of one run, by which its parts are found; None to make some up.
        batch_size: Texts at once.

    Attributes:
        parts: Its feed-forward networks in the order in which they run.
        causal: Whether it is a causal language model.
        value_norms: For each network the lengths of the neurons' columns of the second matrix, `[neurons]`.

    Raises:
        ModularizeError: It has no feed-forward network that can be looked into, or reads two texts at once.
    """

    def __init__(
        self, model: nn.Module, tokens: Tokens, *, inputs: Inputs | None = None, batch_size: int = 32
    ) -> None:
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise ModularizeError(
                f"a {type(model).__name__} reads two texts at once; give its encoder as a model of its own"
            )
        inputs = example_inputs(model) if inputs is None else inputs
        anatomy = find_anatomy(model, inputs)
        self.model, self.tokens, self.batch_size = model, tokens, batch_size
        self.parts: list[FeedForward] = [part for layer in anatomy.layers for part in layer.feed_forwards]
        if not self.parts:
            why = anatomy.whole[0].reason if anatomy.whole else "none was found"
            raise ModularizeError(f"{type(model).__name__} has no feed-forward network to look into: {why}")
        self._last = anatomy.layers[-1].path
        self.causal = _is_causal(model, inputs)
        self.value_norms = [self._values(part).norm(dim=0).cpu() for part in self.parts]

    def _values(self, part: FeedForward) -> Tensor:
        """Return the second matrix, `[width, neurons]`."""
        weight = self.model.get_submodule(part.values).get_parameter("weight").detach().float()
        return weight.t() if part.transposed else weight

    def keys(self, part: FeedForward) -> Tensor:
        """Return the first matrix of a feed-forward network, `[neurons, width]`."""
        weight = self.model.get_submodule(part.keys).get_parameter("weight").detach()
        return weight.t() if part.transposed else weight

    def activity(self, texts: Texts, *, progress: Progress | None = None) -> list[Tensor]:
        """Return the mean over each text's tokens of the absolute activation of each neuron.

        Args:
            texts: Texts, or rows of ids.
            progress: Called with the texts that are done and all of them.

        Returns:
            For each feed-forward network `[texts, neurons]`.
        """

        def run(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            sums_BN = self._summed(input_ids, attention_mask, Tensor.abs)
            return sums_BN / attention_mask.sum(1, keepdim=True)

        found = self._read(texts, run, progress)
        return list(found.split([part.neurons for part in self.parts], dim=1))

    def means(self, texts: Texts, *, progress: Progress | None = None) -> list[Tensor]:
        """Return the mean activation, with its sign, of each neuron over all tokens of texts.

        Args:
            texts: Texts, or rows of ids.
            progress: Called with the texts that are done and all of them.

        Returns:
            For each feed-forward network `[neurons]`.
        """

        def run(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            sums_BN = self._summed(input_ids, attention_mask, Tensor.float)
            return torch.cat([sums_BN, attention_mask.sum(1, keepdim=True).float()], dim=1)

        total = self._read(texts, run, progress).double().sum(0)
        means = (total[:-1] / total[-1]).float()
        return list(means.split([part.neurons for part in self.parts]))

    def _summed(
        self, input_ids: Tensor, attention_mask: Tensor, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the sums over each text's tokens of changed activations, `[batch, neurons of all parts]`."""
        held: dict[str, Tensor] = {}

        def keep(part: FeedForward) -> Callable[[Tensor], None]:
            def look(hidden: Tensor) -> None:
                own_BTN = change(hidden.reshape(*attention_mask.shape, -1).float())
                held[part.values] = (own_BTN * attention_mask[..., None].float()).sum(1)

            return look

        with self._hooked([keep(part) for part in self.parts]):
            self.model(input_ids=input_ids, attention_mask=attention_mask)
        return torch.cat([held[part.values] for part in self.parts], dim=1)

    def says(self, texts: Texts, *, progress: Progress | None = None) -> Tensor:
        """Return what the model says of texts.

        Args:
            texts: Texts, or rows of ids; of a language model each needs two tokens.
            progress: Called with the texts that are done and all of them.

        Returns:
            Embeddings `[texts, width]`; of a causal language model `[texts, 2]`, the summed loss of a text's
            tokens from the second on, and their number.
        """
        return self._read(texts, self._loss if self.causal else self._embed, progress)

    def _read(self, texts: Texts, run: Callable[..., Tensor], progress: Progress | None) -> Tensor:
        return embed_texts(
            self.model, self.tokens, texts, batch_size=self.batch_size, progress=progress, run=run
        )

    def _loss(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1].float()
        mask = attention_mask[:, 1:].float()
        loss = F.cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")
        return torch.stack([(loss * mask).sum(1), mask.sum(1)], dim=1)

    def _embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        held: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            held.append(output if isinstance(output, Tensor) else output[0])

        handle = self.model.get_submodule(self._last).register_forward_hook(keep)
        try:
            given = self.model(input_ids=input_ids, attention_mask=attention_mask)
        finally:
            handle.remove()
        last = getattr(given, "last_hidden_state", None)
        hidden = (held[-1] if last is None else last).reshape(*attention_mask.shape, -1).float()
        mask = attention_mask[..., None].float()
        return (hidden * mask).sum(1) / mask.sum(1)

    @contextmanager
    def without(self, neurons: Sequence[Tensor]) -> Iterator[None]:
        """Set neurons to 0 inside a `with` block.

        Args:
            neurons: For each feed-forward network the numbers of the neurons.
        """
        keeps = [torch.ones(part.neurons) for part in self.parts]
        for keep, gone in zip(keeps, neurons, strict=True):
            keep[gone] = 0

        def rule(keep: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda hidden: hidden * keep.to(hidden)

        with self._hooked([rule(keep) for keep in keeps]):
            yield

    @contextmanager
    def sparse(self, share: float) -> Iterator[None]:
        """Set the neurons that give least to 0, in each network and for each token, inside a `with` block.

        What a neuron gives is its absolute activation times the length of its column of the second matrix.

        Args:
            share: Share of the neurons, in [0, 1).
        """
        if not 0 <= share < 1:
            raise ModularizeError(f"share = {share} is not allowed; allowed: 0 or more and less than 1")

        def rule(norms: Tensor) -> Callable[[Tensor], Tensor]:
            gone = round(share * len(norms))

            def mask(hidden: Tensor) -> Tensor:
                given = hidden.abs() * norms.to(hidden)
                return hidden.scatter(-1, given.topk(gone, dim=-1, largest=False, sorted=False).indices, 0.0)

            return mask

        with self._hooked([rule(norms) for norms in self.value_norms]):
            yield

    @contextmanager
    def _hooked(self, rules: Sequence[Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
        """Look at what each second matrix reads, and put what a rule returns in its place, unless None."""

        def hook(rule: Callable[[Tensor], Tensor | None]) -> Any:
            def change(module: nn.Module, args: tuple[Any, ...]) -> Any:
                changed = rule(args[0])
                return None if changed is None else (changed, *args[1:])

            return change

        with ExitStack() as stack:
            for part, rule in zip(self.parts, rules, strict=True):
                layer = self.model.get_submodule(part.values)
                stack.callback(layer.register_forward_pre_hook(hook(rule)).remove)
            yield


def _is_causal(model: nn.Module, inputs: Inputs) -> bool:
    """Tell whether a model gives scores of the next token that later tokens have no say in."""
    ids = inputs.get("input_ids")
    if ids is None or ids.shape[1] < 2:
        return False
    other = ids.clone()
    other[:, -1] = ids[:, 0] if bool((ids[:, 0] != ids[:, -1]).all()) else (ids[:, -1] + 1)
    with at_rest(model):
        one, two = (
            getattr(model(**{**inputs, "input_ids": given}), "logits", None) for given in (ids, other)
        )
    vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
    if one is None or two is None or one.dim() != 3 or one.shape[-1] != vocab_size:
        return False
    return bool(torch.allclose(one[:, :-1], two[:, :-1], atol=1e-5) and not torch.equal(one, two))


def fresh_twin(model: nn.Module, *, seed: int) -> nn.Module:
    """Return a model of the same class and size with weights as they are before training; a control.

    Args:
        model: A model of transformers.
        seed: Seed of the weights.

    Raises:
        ModularizeError: It is no model of transformers.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "save_pretrained"):
        raise ModularizeError(
            f"a {type(model).__name__} is no model of transformers, so how its weights began is not known; "
            "give a control of your own, or none"
        )
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: nn.Module = type(model)(config)
    return made.to(device).eval()
