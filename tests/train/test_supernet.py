"""Supernets: which configs a step trains, that all of them learn, and that a stopped run goes on exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from brickyard.core.errors import TrainError
from brickyard.core.network import Network
from brickyard.core.sequence import PADDING
from brickyard.networks import build
from brickyard.networks.translation import END, START
from brickyard.train.supernet import (
    NO_LABEL,
    Sandwich,
    SupernetSettings,
    SupernetTraining,
    TrainBatch,
    searched,
    warm_cosine,
)


def words(step: int, rng: np.random.Generator) -> TrainBatch:
    """Texts of which the first token tells the class."""
    ids = rng.integers(3, 20, (32, 6))
    labels = rng.integers(0, 3, 32)
    ids[:, 0] = 3 + labels
    ids[:, 4:] = np.where(rng.random((32, 1)) < 0.5, PADDING, ids[:, 4:])
    return TrainBatch((torch.from_numpy(ids),), torch.from_numpy(labels))


def copies(step: int, rng: np.random.Generator) -> TrainBatch:
    """Texts whose translation is the text."""
    ids = torch.from_numpy(rng.integers(3, 8, (32, 4)))
    start, end = torch.full((32, 1), START), torch.full((32, 1), END)
    labels = torch.cat([ids, end], dim=1)
    labels[:4, 3:] = NO_LABEL
    return TrainBatch((ids, torch.cat([start, ids], dim=1)), labels)


def corners(step: int, rng: np.random.Generator) -> TrainBatch:
    """Pictures of which one quarter is bright."""
    labels = rng.integers(0, 4, 32)
    pictures = 0.3 * rng.standard_normal((32, 1, 16, 16)).astype(np.float32)
    for picture, label in enumerate(labels):
        pictures[picture, 0, 8 * (label // 2) :, 8 * (label % 2) :][:8, :8] += 1
    return TrainBatch((torch.from_numpy(pictures),), torch.from_numpy(labels))


def fresh(name: str) -> Network:
    torch.manual_seed(11)
    arguments = {"in_channels": 1, "num_outputs": 4} if name.startswith("ofa") else {}
    return build(name, **arguments)


TASKS = {"text_encoder_pico": words, "translation_pico": copies, "ofa_mobile_pico": corners}


def weights(training: SupernetTraining) -> dict[str, torch.Tensor]:
    return training.network.state_dict()


def test_a_step_trains_largest_smallest_and_others_between():
    space = fresh("text_encoder_pico").space
    configs = Sandwich(space, SupernetSettings(random_configs=3))
    first = configs(0)
    inner = searched(space)
    assert [decision.name for decision in space if decision.name not in inner] == ["classes"]
    assert first[0] == space.largest()
    assert first[-1] == space.largest().replace(inner.smallest())
    assert len(set(first)) == len(first) == 5
    assert all(config["classes"] == (0, 1, 2) for config in first)
    assert configs(0) == first
    assert configs(1)[1:-1] != first[1:-1]
    assert Sandwich(space, SupernetSettings(random_configs=3, seed=1))(0)[1:-1] != first[1:-1]


def test_kinds_become_elastic_one_after_the_other():
    space = fresh("ofa_mobile_pico").space
    settings = SupernetSettings(steps=80, widen=("kernel", "depth", "expand"), random_configs=4)
    configs = Sandwich(space, settings)
    assert [configs.frozen(step) for step in (0, 10, 20, 30, 79)] == [
        *[("kernel", "depth", "expand"), ("depth", "expand"), ("expand",), (), ()]
    ]
    assert configs(0) == [space.largest()]
    for config in configs(15):
        assert all(config[d.name] == d.largest() for d in space if not d.name.endswith("kernel"))
    assert any(value == 3 for name, value in configs(15)[-1].items() if name.endswith("kernel"))
    assert configs(79)[-1] == space.largest().replace(searched(space).smallest())


@pytest.mark.parametrize(
    ("name", "accuracy"), [("text_encoder_pico", 0.8), ("translation_pico", 0.4), ("ofa_mobile_pico", 0.8)]
)
def test_all_sizes_learn(name, accuracy):
    settings = SupernetSettings(
        steps=60, learning_rate=1e-2, random_configs=1, label_smoothing=0.0, weight_decay=0.0
    )
    training = SupernetTraining(fresh(name), batches=TASKS[name], settings=settings)
    records = list(training.run(record_every=15))
    assert [record.step for record in records] == [15, 30, 45, 60]
    assert records[-1].loss < 0.7 * records[0].loss
    assert records[-1].smallest_loss < 0.8 * records[0].smallest_loss
    assert records[-1].accuracy > accuracy
    assert 2 <= records[-1].configs <= 3
    assert training.network.space.active() == training.network.space.largest()
    assert not training.network.training


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(name, precision, tmp_path):
    settings = SupernetSettings(steps=6, checkpoint_every=3, precision=precision)

    def make(folder):
        return SupernetTraining(fresh(name), batches=TASKS[name], settings=settings, folder=folder)

    whole = make(None)
    list(whole.run())
    for _ in make(tmp_path).run(record_every=3):
        break
    second = make(tmp_path)
    assert [record.step for record in second.run()] == [6]
    found = weights(second)
    assert all(torch.equal(value, found[key]) for key, value in weights(whole).items())
    assert list(make(tmp_path).run()) == []


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    settings = SupernetSettings(steps=1)
    arguments = {"batches": words, "folder": tmp_path, "identity": {"data": "a"}}
    list(SupernetTraining(fresh("text_encoder_pico"), settings=settings, **arguments).run())
    other = {**arguments, "identity": {"data": "b"}}
    run = SupernetTraining(fresh("text_encoder_pico"), settings=replace(settings, seed=1), **other)
    with pytest.raises(TrainError, match=r"\(data, seed differ\)"):
        list(run.run())


def test_the_smaller_learn_from_the_largest():
    settings = SupernetSettings(steps=1, distill=1.0, random_configs=0)
    training = SupernetTraining(fresh("text_encoder_pico"), batches=words, settings=settings)
    scores = torch.randn(5, 3)
    labels = torch.tensor([0, 1, 2, 0, 1])
    alike, _ = training._loss(scores, labels, scores.softmax(-1))
    other, _ = training._loss(scores, labels, scores.flip(0).softmax(-1))
    entropy = -(scores.softmax(-1) * scores.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(alike, entropy)
    assert other > alike
    alone, plain = training._loss(scores, labels, None)
    assert float(alone) != pytest.approx(float(alike))
    assert plain == pytest.approx(float(torch.nn.functional.cross_entropy(scores, labels)))


def test_padding_is_not_learnt():
    def padded(step: int, rng: np.random.Generator) -> TrainBatch:
        batch = copies(step, rng)
        return TrainBatch(batch.inputs, batch.labels.masked_fill(batch.labels == END, NO_LABEL))

    runs = []
    for shift in (0, 1):

        def strange(step: int, rng: np.random.Generator, shift: int = shift) -> TrainBatch:
            batch = padded(step, rng)
            target = batch.inputs[1].clone()
            target[:, -1] = (target[:, -1] + shift) % 12  # only read where nothing is to be learnt
            return TrainBatch((batch.inputs[0], target), batch.labels)

        run = SupernetTraining(
            fresh("translation_pico"), batches=strange, settings=SupernetSettings(steps=1, random_configs=0)
        )
        runs.append(next(run.run()))
    assert runs[0].loss == runs[1].loss


def test_the_rate_rises_and_falls():
    rates = [warm_cosine(step, steps=100, warmup=0.2) for step in range(100)]
    assert rates[0] == pytest.approx(0.025)
    assert int(np.argmax(rates)) in (19, 20)
    assert max(rates) <= 1
    assert rates[-1] < 0.001
    assert warm_cosine(0, steps=10, warmup=0.0) > 0.99


def test_a_loss_that_is_not_finite_stops_the_run():
    def broken(step: int, rng: np.random.Generator) -> TrainBatch:
        batch = corners(step, rng)
        return TrainBatch((batch.inputs[0] * float("inf"),), batch.labels)

    run = SupernetTraining(fresh("ofa_mobile_pico"), batches=broken, settings=SupernetSettings(steps=2))
    with pytest.raises(TrainError, match="the loss is nan at step 0; lower the learning rate"):
        list(run.run())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps = 0 must be above 0"),
        ({"random_configs": -1}, "random_configs = -1 must not be negative"),
        ({"distill": 1.5}, r"distill = 1.5 must lie in \[0, 1\]"),
        ({"widen_share": 0.0}, "widen_share = 0.0 must lie"),
        ({"widen": ("depth", "depth")}, "names a kind twice"),
        ({"precision": "fp16"}, "must be 'fp32' or 'bf16'"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(TrainError, match=message):
        SupernetSettings(**values)


def test_an_unknown_kind_is_refused_with_those_there_are():
    settings = SupernetSettings(widen=("kernels",))
    with pytest.raises(TrainError, match=r"'kernels'; kinds of decisions .*: depth, expand, kernel"):
        SupernetTraining(fresh("ofa_mobile_pico"), batches=corners, settings=settings)
