"""Classifiers that leave early: the first sure exit answers, and no layer behind it runs."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from brickyard.core.errors import ArtifactError, DataError
from brickyard.modularize import ExitClassifier, add_exits, fit_exit_classifier
from brickyard.modularize.early_exit import first_sure

from .encoders import KINDS, backbone

ROWS = [[4 + first, 4 + second] for first in range(14) for second in (1, 5, 9)]
LABELS = [int(row[0] > 10) for row in ROWS]


def fitted(kind="bert"):
    encoder = add_exits(backbone(kind), exits=(1, 2, 3), max_tokens=8)
    return fit_exit_classifier(encoder, ROWS, LABELS)


def test_the_first_sure_exit_answers():
    probabilities = {
        1: torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6]]),
        4: torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]),
    }
    found = first_sure(probabilities, 0.75)
    assert found.labels.tolist() == [0, 1, 1]
    assert found.exits.tolist() == [1, 4, 4]
    torch.testing.assert_close(found.confidence, torch.tensor([0.9, 0.8, 0.7]))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_behind_a_sure_exit_do_not_run(kind):
    classifier = fitted(kind)
    encoder = classifier.encoder
    embedded = encoder.encode_all(ROWS)
    first = classifier.probabilities(embedded[1], 1).amax(1)
    limit = float(first.median()) - 1e-5  # half of the texts are sure at the first exit
    ran: list[int] = []
    for place, layer in enumerate(encoder._layers, start=1):
        layer.register_forward_hook(lambda *_, place=place: ran.append(place))
    for row, best in zip(ROWS, first, strict=True):
        ran.clear()
        answers = classifier.classify([row], confidence=limit)
        assert ran == list(range(1, int(answers.exits) + 1))
        assert (len(ran) == 1) == bool(best >= limit)
    torch.testing.assert_close(encoder.encode(ROWS), embedded[3], atol=1e-5, rtol=1e-5)


def test_answers_do_not_depend_on_batches():
    classifier = fitted()
    alone = classifier.classify(ROWS, confidence=0.8)
    together = classifier.classify(ROWS, confidence=0.8, batch_size=5)
    assert torch.equal(alone.labels, together.labels)
    assert torch.equal(alone.exits, together.exits)
    assert len(alone.exits.unique()) > 1


def test_the_regression_is_the_best_one():
    classifier = fitted()
    embedded = classifier.encoder.encode_all(ROWS)
    labels = torch.tensor(LABELS)
    for exit, weight in classifier.weights.items():
        weight = weight.double().requires_grad_()
        scores = F.linear(embedded[exit].double(), weight[:, :-1], weight[:, -1])
        loss = F.cross_entropy(scores, labels) + 1e-3 * weight[:, :-1].square().sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        assert float(gradient.abs().max()) < 1e-4


def test_a_sweep_tells_what_limits_give():
    classifier = fitted()
    rows = classifier.sweep(ROWS, LABELS, confidences=[0.5, 0.8, 1.0])
    assert (rows[0].layers, rows[2].layers) == (1.0, 3.0)
    assert 1 < rows[1].layers < 3
    answers = classifier.classify(ROWS, confidence=0.8)
    assert rows[1].accuracy == pytest.approx(float((answers.labels == torch.tensor(LABELS)).float().mean()))
    assert rows[2].accuracy > 0.65
    with pytest.raises(DataError, match="42 texts and 1 labels came"):
        classifier.sweep(ROWS, [0], confidences=[0.5])


def test_a_classifier_is_read_back(tmp_path):
    classifier = fitted()
    classifier.save(tmp_path / "classifier.safetensors")
    again = ExitClassifier.load(tmp_path / "classifier.safetensors", classifier.encoder)
    assert all(torch.equal(one, again.weights[exit]) for exit, one in classifier.weights.items())
    other = add_exits(backbone(), exits=(1, 2), max_tokens=8)
    with pytest.raises(
        ArtifactError, match=r"is for exits \['1', '2', '3'\].*this encoder has exits \[1, 2\]"
    ):
        ExitClassifier.load(tmp_path / "classifier.safetensors", other)
    with pytest.raises(ArtifactError, match="cannot be read as a classifier"):
        ExitClassifier.load(tmp_path / "none", other)


def test_a_damaged_classifier_is_refused(tmp_path):
    classifier, path = fitted(), tmp_path / "classifier.safetensors"
    changes = {1: lambda one: one[:-1], 2: lambda one: one * torch.nan, 3: lambda one: one.int()}
    for exit, change in changes.items():
        weights = {str(exit): one.contiguous() for exit, one in classifier.weights.items()}
        save_file({**weights, str(exit): change(classifier.weights[exit]).contiguous()}, path)
        with pytest.raises(ArtifactError, match="more classes for one exit than for another, or values that"):
            ExitClassifier.load(path, classifier.encoder)
    with pytest.raises(ArtifactError, match="its folder does not exist; make it first"):
        classifier.save(tmp_path / "none" / "classifier.safetensors")


def test_bad_arguments_are_refused():
    classifier = fitted()
    for confidence in (0.0, 5, float("nan")):
        with pytest.raises(DataError, match=rf"confidence = {confidence} is not allowed; allowed: above 0"):
            classifier.sweep(ROWS, LABELS, confidences=[0.5, confidence])
    with pytest.raises(DataError, match=r"label 7 is not known; allowed: 0 to \d"):
        classifier.sweep(ROWS, [7, *LABELS[1:]], confidences=[0.5])
    for confidence in (0.0, 1.5):
        with pytest.raises(DataError, match=r"confidence in \(0, 1\]"):
            classifier.classify(ROWS, confidence=confidence)
    with pytest.raises(DataError, match="0 texts in batches of 1"):
        classifier.classify([], confidence=0.5)
    for labels in ([0], [0] * len(ROWS), [2 * label for label in LABELS]):
        with pytest.raises(DataError, match=r"classes 0, 1, \.\.\. of which every one occurs"):
            fit_exit_classifier(classifier.encoder, ROWS, labels)
    with pytest.raises(DataError, match="decay = 0;"):
        fit_exit_classifier(classifier.encoder, ROWS, LABELS, decay=0)
