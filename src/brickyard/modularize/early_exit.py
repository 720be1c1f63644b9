"""Classification of texts that leaves an encoder as soon as it is sure.

At every exit a softmax regression reads the embedding. A text takes the answer of the first exit at which
the highest probability reaches a limit, else that of the last exit. BranchyNet (arXiv 1709.01686) does so by
the entropy in place of the probability. Nothing of the encoder is trained here.

Shape suffixes: N texts, E width of embeddings, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F

from brickyard.core.errors import ArtifactError, DataError
from brickyard.core.files import write_bytes
from brickyard.modularize.exits import MultiExitEncoder
from brickyard.modularize.text_encoder import Texts, at_rest

_ITERATIONS = 200


@dataclass(frozen=True)
class Answers:
    """What a classifier says of texts.

    Attributes:
        labels: Class of each text, `[texts]`.
        confidence: Its probability, `[texts]`.
        exits: The exit that gave it, `[texts]`.
    """

    labels: Tensor
    confidence: Tensor
    exits: Tensor


@dataclass(frozen=True)
class LimitRow:
    """What a limit gives.

    Attributes:
        confidence: The limit.
        accuracy: Share of right answers.
        layers: Mean number of layers in front of the exits that gave the answers.
    """

    confidence: float
    accuracy: float
    layers: float


class ExitClassifier:
    """An encoder with a softmax regression at every exit; made by `fit_exit_classifier`.

    Attributes:
        encoder: The encoder.
        weights: `[classes, embed_dim + 1]` by exit, the last column the bias.
    """

    def __init__(self, encoder: MultiExitEncoder, weights: dict[int, Tensor]) -> None:
        self.encoder, self.weights = encoder, weights

    def probabilities(self, embeddings: Tensor, exit: int) -> Tensor:
        """Return probabilities `[texts, classes]` from embeddings `[texts, embed_dim]` of an exit."""
        weight = self.weights[exit].to(embeddings.device)
        return F.linear(embeddings.float(), weight[:, :-1], weight[:, -1]).softmax(1)

    def classify(self, texts: Texts, *, confidence: float, batch_size: int = 1) -> Answers:
        """Classify texts.

        Args:
            texts: Texts, or rows of ids without padding.
            confidence: Probability at which an answer is taken, in (0, 1]; 1 asks the last exit but for
                probabilities that round to 1.
            batch_size: Texts at once. Layers run until all texts of a batch have their answers, so 1 saves
                most; answers do not depend on it.

        Returns:
            The answers, in the order of the texts.

        Raises:
            DataError: An argument is out of range, or a text cannot be read.
        """
        rows = self.encoder.tokens.ids(texts)
        if not rows or batch_size < 1 or not 0 < confidence <= 1:
            raise DataError(
                f"{len(rows)} texts in batches of {batch_size} with confidence = {confidence} cannot be "
                "classified; give one or more of each, and a confidence in (0, 1]"
            )
        device = next(self.encoder.network.parameters()).device
        parts: list[Answers] = []
        with at_rest(self.encoder.network):
            for start in range(0, len(rows), batch_size):
                batch = self.encoder.tokens.batch(rows[start : start + batch_size], device)
                found: dict[int, Tensor] = {}

                def enough(exit: int, embeddings: Tensor, found: dict[int, Tensor] = found) -> bool:
                    found[exit] = self.probabilities(embeddings, exit)
                    best = torch.stack([one.amax(1) for one in found.values()]).amax(0)
                    return bool((best >= confidence).all())

                embedded = self.encoder.embed_until(**batch, enough=enough)
                for exit in embedded.keys() - found.keys():
                    found[exit] = self.probabilities(embedded[exit], exit)
                parts.append(first_sure(found, confidence))
        return Answers(
            labels=torch.cat([part.labels for part in parts]),
            confidence=torch.cat([part.confidence for part in parts]),
            exits=torch.cat([part.exits for part in parts]),
        )

    def sweep(
        self, texts: Texts, labels: Sequence[int], *, confidences: Sequence[float], batch_size: int = 32
    ) -> list[LimitRow]:
        """Tell what limits would give, from one run of all layers; choose one on texts that were held out.

        Args:
            texts: Texts, or rows of ids without padding.
            labels: Class of each.
            confidences: The limits.
            batch_size: Texts at once.

        Raises:
            DataError: Numbers of texts and labels differ, a label or limit is out of range, or a text cannot
                be read.
        """
        classes = len(next(iter(self.weights.values())))
        if len(texts) != len(labels):
            raise DataError(f"{len(texts)} texts and {len(labels)} labels came; give one label for each text")
        if unknown := sorted(set(labels) - set(range(classes))):
            raise DataError(f"label {unknown[0]} is not known; allowed: 0 to {classes - 1}")
        if wrong := [limit for limit in confidences if not 0 < limit <= 1]:
            raise DataError(f"confidence = {wrong[0]} is not allowed; allowed: above 0, up to 1")
        embedded = self.encoder.encode_all(texts, batch_size=batch_size)
        found = {exit: self.probabilities(one, exit) for exit, one in embedded.items()}
        right = torch.tensor(list(labels))
        rows = []
        for confidence in confidences:
            answers = first_sure(found, confidence)
            accuracy = float((answers.labels == right).float().mean())
            rows.append(LimitRow(confidence, accuracy, float(answers.exits.float().mean())))
        return rows

    def save(self, path: str | Path) -> None:
        """Write the regressions, but not the encoder, as a file of safetensors.

        Raises:
            ArtifactError: The folder of the file does not exist.
        """
        if not Path(path).parent.is_dir():
            raise ArtifactError(f"{path} cannot be written: its folder does not exist; make it first")
        write_bytes(Path(path), save({str(exit): one.contiguous() for exit, one in self.weights.items()}))

    @classmethod
    def load(cls, path: str | Path, encoder: MultiExitEncoder) -> ExitClassifier:
        """Read what `save` wrote.

        Args:
            path: The file.
            encoder: The encoder it was fitted to.

        Raises:
            ArtifactError: There is no such file, or its numbers are none for exits and embeddings of such an
                encoder. Whether it was fitted to this very encoder, it does not tell.
        """
        try:
            weights = load(Path(path).read_bytes())
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{path} cannot be read as a classifier: {error}") from None
        widths = {tuple(one.shape[1:]) for one in weights.values()}
        if set(weights) != {str(exit) for exit in encoder.exits} or widths != {(encoder.embed_dim + 1,)}:
            raise ArtifactError(
                f"{path} is for exits {sorted(weights)} and rows of {sorted(widths)} numbers; this encoder "
                f"has exits {list(encoder.exits)} and needs {encoder.embed_dim + 1}"
            )
        sound = all(one.is_floating_point() and bool(one.isfinite().all()) for one in weights.values())
        if len({len(one) for one in weights.values()}) != 1 or not sound:
            raise ArtifactError(
                f"{path} has more classes for one exit than for another, or values that are no numbers"
            )
        return cls(encoder, {exit: weights[str(exit)] for exit in encoder.exits})


def first_sure(probabilities: dict[int, Tensor], confidence: float) -> Answers:
    """Return the answers of the first exits that are sure, else those of the last one.

    Args:
        probabilities: `[texts, classes]` by exit.
        confidence: Probability at which an answer is taken.
    """
    exits = sorted(probabilities)
    best_XN, label_XN = torch.stack([probabilities[exit] for exit in exits]).max(-1)
    sure_XN = best_XN >= confidence
    sure_XN[-1] = True
    place_N = sure_XN.int().argmax(0)
    return Answers(
        labels=label_XN.gather(0, place_N[None])[0].cpu(),
        confidence=best_XN.gather(0, place_N[None])[0].cpu(),
        exits=torch.tensor(exits, device=place_N.device)[place_N].cpu(),
    )


def fit_exit_classifier(
    encoder: MultiExitEncoder,
    texts: Texts,
    labels: Sequence[int],
    *,
    decay: float = 1e-3,
    batch_size: int = 32,
) -> ExitClassifier:
    """Fit a softmax regression at every exit; the encoder stays as it is.

    Args:
        encoder: The encoder.
        texts: Texts, or rows of ids without padding.
        labels: Class of each, counted from 0; every class occurs.
        decay: Weight of the sum of squared weights, without biases, beside the mean cross entropy; above 0.
        batch_size: Texts at once.

    Returns:
        The classifier.

    Raises:
        DataError: Labels do not fit the texts, or a text cannot be read.
    """
    known = sorted(set(labels))
    if len(labels) != len(texts) or known != list(range(len(known))) or len(known) < 2 or not decay > 0:
        raise DataError(
            f"{len(labels)} labels of classes {known[:8]} for {len(texts)} texts with decay = {decay}; give "
            "one label for each text, classes 0, 1, ... of which every one occurs, and a decay above 0"
        )
    right = torch.tensor(list(labels))
    embedded = encoder.encode_all(texts, batch_size=batch_size)
    weights = {exit: _regress(one.double(), right, len(known), decay) for exit, one in embedded.items()}
    return ExitClassifier(encoder, weights)


def _regress(x_NE: Tensor, labels_N: Tensor, classes: int, decay: float) -> Tensor:
    """Return weights and bias `[classes, embed_dim + 1]` of the one best softmax regression."""
    weight = torch.zeros(classes, x_NE.shape[1] + 1, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        scores = F.linear(x_NE, weight[:, :-1], weight[:, -1])
        value = F.cross_entropy(scores, labels_N) + decay * weight[:, :-1].square().sum()
        value.backward()
        return value.detach()

    optimizer.step(loss)
    return weight.detach().float()
