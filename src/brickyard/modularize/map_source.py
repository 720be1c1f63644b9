"""Opens a model to be mapped, with its tokenizer and the experts that its neurons form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from brickyard.core.errors import ModularizeError
from brickyard.modularize.folder import load_modular, load_transformer
from brickyard.modularize.intake import token_limit
from brickyard.modularize.neurons import NeuronProbe
from brickyard.modularize.partition import Partition, partition_neurons
from brickyard.modularize.text_encoder import Tokens
from brickyard.modularize.transformer import ModularTransformer, active_neurons


def open_probe(
    name: str, *, max_tokens: int, batch_size: int
) -> tuple[NeuronProbe, list[Tensor | None] | None]:
    """Open a model to look at its neurons.

    Args:
        name: Folder or hub id of a model of transformers, or a network folder with experts.
        max_tokens: Most tokens of a text; of longer texts the first ones are read.
        batch_size: Texts at once.

    Returns:
        The dense model, and for each feed-forward network the expert of each neuron, where a network folder
        says so.

    Raises:
        ModularizeError: There is no such model, it has no tokenizer, or nothing to look into.
        ArtifactError: The network folder is altered.
        MissingExtraError: transformers is not installed.
    """
    if max_tokens < 2 or batch_size < 1:
        raise ModularizeError(
            f"max_tokens = {max_tokens} and batch_size = {batch_size} are not allowed; allowed: 2 or more, "
            "and 1 or more"
        )
    model, processor = load_transformer(name)
    labels: dict[str, Tensor] | None = None
    if (Path(name) / "network.json").is_file():
        modular = load_modular(name)
        labels = experts_of(modular)
        model = modular.revert().eval()
    if processor is None or not hasattr(processor, "convert_tokens_to_ids"):
        raise ModularizeError(f"{name} comes without a tokenizer, so it cannot read texts")
    most = min(max_tokens, token_limit(model) or max_tokens)
    probe = NeuronProbe(model, Tokens(processor, max_tokens=most), batch_size=batch_size)
    return probe, None if labels is None else [labels.get(part.keys) for part in probe.parts]


def experts_of(modular: ModularTransformer) -> dict[str, Tensor]:
    """Return the expert of each neuron in the order of the dense model, -1 for those of none.

    Args:
        modular: A transformer with experts.
    """
    found = {}
    for path, order in modular.orders().items():
        split = modular.experts[path].split
        labels = order.new_full(order.shape, -1)
        places = order.argsort()
        inside = places < split.subset.count * split.expert_width
        labels[inside] = places[inside] // split.expert_width
        found[path] = labels
    return found


def partition_probe(
    probe: NeuronProbe, num_experts: int, *, method: Partition, seed: int, texts: Sequence[str] = ()
) -> list[Tensor]:
    """Return the expert of each neuron of each feed-forward network by a partition.

    Args:
        probe: The model.
        num_experts: Experts of each network; must divide its neurons.
        method: How neurons are grouped.
        seed: Seed of the partition, and of the order of the texts.
        texts: Texts whose tokens tell which neurons are active together; for `coactivation`.

    Raises:
        ModularizeError: Neurons cannot be split so, or texts are lacking.
        MissingExtraError: scikit-learn is not installed.
    """
    active: dict[str, Tensor] = {}
    if method == "coactivation":
        order = np.random.default_rng(seed).permutation(len(texts))
        batches = np.split(order, range(probe.batch_size, len(order), probe.batch_size))
        sample = (probe.tokens([texts[place] for place in batch]) for batch in batches if len(batch))
        active = active_neurons(probe.model, probe.parts, sample)
    return [
        partition_neurons(
            probe.keys(part), num_experts, method=method, active_TF=active.get(part.activation), seed=seed
        )
        for part in probe.parts
    ]
