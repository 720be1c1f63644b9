"""Joint training: it learns, keeps the limits, and goes on bit-exactly where it was stopped."""

import numpy as np
import pytest
import torch

from brickyard.core.errors import TrainError
from brickyard.core.space import block_subsets
from brickyard.train.augment import mirror_and_shift
from brickyard.train.joint import (
    Batch,
    JointTraining,
    RecordMeans,
    TrainSettings,
    distillation,
    draw_limits,
    one_cycle,
    split_gates,
)
from brickyard.train.places import object_places, score_maps
from brickyard.train.tasks import ClassQuestions, PropertyQuestions, split_tasks

SHORT = TrainSettings(steps=6, batch_size=32, checkpoint_every=3, lowest_limit=0.3, anneal=0.0)


@pytest.fixture
def joint(classes, corners, rows):
    """Makes a run on the four corners, the same each time."""

    def make(settings=SHORT, folder=None, batches=corners, **options):
        network = classes()
        assembler = rows(4, network)
        costs = np.full(len(assembler.bias), 1 / len(assembler.bias), dtype=np.float32)
        return JointTraining(
            network,
            assembler,
            gate=assembler.gate,
            costs=costs,
            batches=batches,
            ask=ClassQuestions(4),
            settings=settings,
            folder=folder,
            **options,
        )

    return make


def states(run: JointTraining) -> dict[str, torch.Tensor]:
    """Everything that a run has learnt, and the state of its optimizer."""
    values = {f"network.{name}": value for name, value in run.network.state_dict().items()}
    values |= {f"assembler.{name}": value for name, value in run.assembler.state_dict().items()}
    for index, entries in run.optimizer.state_dict()["state"].items():
        values |= {f"{index}.{name}": torch.as_tensor(value) for name, value in entries.items()}
    return {name: value.clone() for name, value in values.items()}


def test_properties_are_learnt_within_the_limits(presence, spots, rows, vocabulary):
    assembler = rows(5, presence)
    costs = np.full(len(assembler.bias), 1 / len(assembler.bias), dtype=np.float32)
    before = assembler.words.detach().clone()
    training = JointTraining(
        presence,
        assembler,
        gate=assembler.gate,
        costs=costs,
        batches=spots,
        ask=PropertyQuestions(vocabulary, split_tasks(vocabulary, unseen_share=0, seed=0).trained),
        settings=TrainSettings(steps=160, batch_size=32, learning_rate=1e-2, lowest_limit=0.3, anneal=0.3),
    )
    records = list(training.run(record_every=20))
    assert [record.step for record in records] == list(range(20, 161, 20))
    assert records[-1].loss < 0.6 * records[0].loss
    assert records[-1].accuracy > 0.8
    assert records[-1].open_share < records[0].open_share
    assert all((spent <= limits + 1e-5).all() for spent, limits in assembler.seen)
    assert len(assembler.seen) == 160
    assert (assembler.words != before).any()
    assert not presence.training
    assert all(decision.value == decision.largest() for decision in presence.space)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(joint, tmp_path):
    whole = joint(augment=mirror_and_shift)
    assert [record.step for record in whole.run(record_every=3)] == [3, 6]
    first = joint(folder=tmp_path, augment=mirror_and_shift)
    assert not first.resume()
    for record in first.run(record_every=3):
        assert record.step == 3
        break
    second = joint(folder=tmp_path, augment=mirror_and_shift)
    assert second.resume()
    assert second.step == 3
    list(second.run())
    expected, found = states(whole), states(second)
    assert set(expected) == set(found)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    finished = joint(folder=tmp_path, augment=mirror_and_shift)
    assert finished.resume()
    assert list(finished.run()) == []


def test_the_checkpoint_of_another_run_is_refused_with_the_names(joint, tmp_path):
    list(joint(folder=tmp_path, identity={"data": "corners"}).run())
    other = TrainSettings(steps=6, batch_size=32, checkpoint_every=3, lowest_limit=0.4, anneal=0.0, seed=2)
    with pytest.raises(TrainError, match=r"other settings \(lowest_limit, seed differ\)"):
        joint(other, folder=tmp_path, identity={"data": "corners"}).resume()
    with pytest.raises(TrainError, match=r"other settings \(data differ\)"):
        joint(folder=tmp_path, identity={"data": "edges"}).resume()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(joint, corners, tmp_path):
    def broken(step: int, rng: np.random.Generator) -> Batch:
        batch = corners(step, rng)
        return batch if step < 4 else Batch(batch.pictures * float("nan"), batch.objects)

    run = joint(folder=tmp_path, batches=broken)
    with pytest.raises(TrainError, match=r"the loss is nan at step 4; lower the learning rate"):
        list(run.run())
    again = joint(folder=tmp_path, batches=broken)
    assert again.resume()
    assert again.step == 3
    assert all(torch.isfinite(value).all() for value in again.network.state_dict().values())


def test_distillation_and_mixed_precision_run(joint):
    settings = TrainSettings(
        steps=3, batch_size=32, lowest_limit=0.3, distill=1.0, precision="bf16", label_smoothing=0.1
    )
    run = joint(settings)
    (record,) = run.run()
    assert np.isfinite(record.loss)
    assert len(run.assembler.seen) == 6
    assert all((limits == 1).all() for _, limits in run.assembler.seen[1::2])


def test_pictures_without_a_limit_learn_from_labels_alone():
    scores, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    loss = distillation(scores, teacher, torch.tensor([1.0, 0.5, 1.0, 0.25]))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert (gradient[[0, 2]] == 0).all()
    wanted = (scores.softmax(1) - teacher.softmax(1))[[1, 3]] / 4
    assert torch.allclose(gradient[[1, 3]], wanted, atol=1e-6)


def test_scores_of_mixed_gates_are_those_of_each_picture_alone(classes, rng):
    network = classes().eval()
    run = JointTraining(
        network,
        torch.nn.Linear(1, 1),
        gate=lambda *arguments: arguments[:2],
        costs=np.ones(12, dtype=np.float32),
        batches=lambda step, rng: None,
        ask=ClassQuestions(4),
        settings=SHORT,
    )
    width = sum(subset.count for subset in block_subsets(network.space))
    gates = torch.from_numpy((rng.random((5, width)) < 0.5).astype(np.float32))
    pictures = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        together = run.network_scores(pictures, torch.ones(5, 4), gates)
        for index in range(5):
            alone = run.network_scores(
                pictures[index : index + 1], torch.ones(1, 4), gates[index : index + 1]
            )
            assert torch.allclose(together[index], alone[0], atol=1e-5)


def test_limits_fall_from_one_to_the_lowest():
    settings = TrainSettings(steps=100, lowest_limit=0.2, anneal=0.5)
    rng = np.random.default_rng(0)
    for step, low in ((0, 1.0), (25, 0.6), (50, 0.2), (99, 0.2)):
        limits = draw_limits(settings, step, 4000, rng)
        assert limits.dtype == np.float32
        assert limits.min() == pytest.approx(low)
        assert limits.max() == 1.0
        if low < 1:
            assert (limits == 1).mean() == pytest.approx(0.1, abs=0.02)
            assert np.isclose(limits, low).mean() == pytest.approx(0.15, abs=0.02)
            assert np.median(limits) < (1 + low) / 2
    at_once = TrainSettings(steps=100, lowest_limit=0.2, anneal=0.0)
    assert draw_limits(at_once, 0, 4000, rng).min() == pytest.approx(0.2)


def test_the_learning_rate_rises_for_a_tenth_and_falls_to_zero():
    factors = [one_cycle(step, 1000) for step in range(1000)]
    assert int(np.argmax(factors)) in (99, 100)
    assert max(factors) == pytest.approx(1, abs=1e-2)
    assert factors[0] < 0.01
    assert factors[-1] < 1e-4
    assert (np.diff(factors[:99]) > 0).all()
    assert (np.diff(factors[101:]) < 0).all()


def test_places_are_the_cells_of_the_centres_and_their_neighbours_are_not_empty():
    boxes = np.array([[[0.0, 0.5, 0.2, 0.7], [0.9, 0.9, 1.0, 1.0]]], dtype=np.float32)
    batch = Batch(torch.zeros(1, 3, 8, 8), np.zeros((1, 2, 1), dtype=np.int16), boxes)
    at, empty = object_places(torch.zeros(1, 2, 5, 5), batch, np.array([0, 0]), np.array([0, 1]))
    assert list(zip(*(part.tolist() for part in at), strict=True)) == [(0, 3, 0), (0, 4, 4)]
    expected = ["11111", "11111", "00111", "00100", "00100"]
    assert ["".join(str(int(cell)) for cell in row) for row in empty[0]] == expected


def test_maps_are_collected_only_inside_the_block(presence):
    pictures = torch.randn(2, 3, 16, 16)
    with score_maps(presence) as maps:
        presence(pictures)
        assert {name: value.shape[1] for name, value in maps.items()} == {"missing": 5, "score": 1}
    maps.clear()
    presence(pictures)
    assert maps == {}


def test_gates_are_split_in_the_order_of_the_blocks(presence):
    subsets = block_subsets(presence.space)
    gates = torch.arange(2 * sum(subset.count for subset in subsets)).reshape(2, -1)
    parts = split_gates(gates, subsets)
    assert list(parts) == [subset.name for subset in subsets]
    assert torch.equal(torch.cat(list(parts.values()), dim=1), gates)


def test_records_hold_means_since_the_last_one():
    means = RecordMeans()
    means.add(1.0, 0.5, 0.2)
    means.add(3.0, 0.7, 0.4)
    record = means.take(2)
    assert (record.step, record.loss, record.accuracy) == (2, 2.0, pytest.approx(0.6))
    means.add(5.0, 1.0, 1.0)
    assert means.take(3).loss == 5.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps = 0 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan must be above 0"),
        ({"lowest_limit": 0.0}, r"lowest_limit = 0\.0 must lie in \(0, 1\]"),
        ({"anneal": 1.5}, r"anneal = 1\.5 must lie in \[0, 1\]"),
        ({"precision": "fp8"}, "precision = 'fp8' must be 'fp32' or 'bf16'"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(TrainError, match=message):
        TrainSettings(**change)
