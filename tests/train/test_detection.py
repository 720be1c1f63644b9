"""Losses of detectors against slow ones; gates and tasks of their own for each picture; a toy is learnt."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from brickyard.core.errors import TrainError
from brickyard.networks import build
from brickyard.train.augment import flip_and_move, mirror_and_move
from brickyard.train.backbone import BackboneTraining
from brickyard.train.detection import (
    BackboneDetection,
    JointDetection,
    Places,
    box_loss,
    class_marks,
    focal_loss,
    spreads,
)
from brickyard.train.joint import Batch, JointTraining, TrainSettings
from brickyard.train.tasks import ObjectClassQuestions, PropertyQuestions


def batch_of(boxes, objects):
    boxes = np.array(boxes, dtype=np.float32)
    return Batch(torch.zeros(len(boxes), 3, 32, 32), np.array(objects, dtype=np.int16), boxes)


def test_a_box_moved_by_three_deviations_and_a_half_cell_less_still_overlaps_enough():
    for width, height in ((8.0, 8.0), (3.0, 11.0), (30.0, 20.0)):
        reach = (6 * float(spreads(torch.tensor([[width, height]]))) - 1) / 2
        shared = (width - reach) * (height - reach)
        assert shared / (2 * width * height - shared) == pytest.approx(0.7, abs=1e-4)


def test_heat_is_one_at_centers_and_the_larger_hill_elsewhere():
    batch = batch_of([[[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75], [0, 0, 0, 0]]], [[[0], [1], [-1]]])
    places = Places(batch, (8, 8), torch.device("cpu"))
    target = places.heat(class_marks(batch.objects, 3))
    assert target.shape == (1, 3, 8, 8)
    assert (target == 1).nonzero().tolist() == [[0, 0, 2, 2], [0, 1, 4, 4]]
    assert not target[0, 2].any()
    deviation = float(spreads(torch.tensor([[4.0, 4.0]])))
    for row in range(8):
        for column in range(8):
            distance = (row - 2) ** 2 + (column - 2) ** 2
            expected = math.exp(-distance / (2 * deviation**2))
            assert float(target[0, 0, row, column]) == pytest.approx(expected, abs=1e-5)
    both = places.heat(np.ones((1, 3, 1), dtype=np.float32))
    assert torch.equal(both[0, 0], torch.maximum(target[0, 0], target[0, 1]))


def test_focal_loss_is_that_of_a_slow_sum():
    logits, target = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4) * 0.9
    target[0, 1, 2, 2] = target[1, 0, 0, 3] = 1.0
    weight = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    total, centers = 0.0, 0
    for place in np.ndindex(2, 3, 4, 4):
        p, t = 1 / (1 + math.exp(-float(logits[place]))), float(target[place])
        part = (1 - p) ** 2 * math.log(p) if t == 1 else (1 - t) ** 4 * p**2 * math.log(1 - p)
        total -= part * float(weight[place[:2]])
        centers += int(t == 1) * int(weight[place[:2]])
    assert centers == 2
    assert float(focal_loss(logits, target, weight)) == pytest.approx(total / centers, rel=1e-4)


def test_box_loss_is_zero_for_right_boxes_alone():
    batch = batch_of([[[0.1, 0.2, 0.6, 0.45]]], [[[0]]])
    places = Places(batch, (8, 8), torch.device("cpu"))
    boxes = torch.zeros(1, 4, 8, 8)
    center = 0.35 * 8, 0.325 * 8
    row, column = int(center[1]), int(center[0])
    boxes[0, :, row, column] = torch.tensor([4.0, 2.0, center[0] - column, center[1] - row])
    assert float(box_loss(boxes, places)) == pytest.approx(0, abs=1e-5)
    boxes[0, 0, row, column] = 5.0
    assert float(box_loss(boxes, places)) == pytest.approx(0.25 / 2, abs=1e-5)
    empty = Places(batch_of([[[0, 0, 0, 0]]], [[[-1]]]), (8, 8), torch.device("cpu"))
    assert float(box_loss(boxes, empty)) == 0


def test_pictures_without_boxes_are_refused():
    with pytest.raises(TrainError, match="needs boxes"):
        Places(Batch(torch.zeros(1, 3, 8, 8), np.zeros((1, 1, 1), np.int16)), (2, 2), torch.device("cpu"))
    with pytest.raises(TrainError, match=r"distill = 0.5 is for networks that classify"):
        JointDetection(TrainSettings(distill=0.5))


def test_maps_outside_of_the_task_do_not_count():
    batch = batch_of([[[0.1, 0.1, 0.6, 0.6], [0.4, 0.5, 0.9, 0.9]]], [[[0], [2]]])
    ask = ObjectClassQuestions(3)
    questions = ask(batch.objects, np.random.default_rng(0))
    questions.tasks[:] = [[1, 0, 0]]
    logits, boxes = torch.randn(1, 3, 8, 8), torch.rand(1, 4, 8, 8)
    objective = partial(JointDetection(TrainSettings()), limits=torch.ones(1))
    first = objective((None, boxes), {"score": logits}, batch, questions, None)[0]
    other = logits.clone()
    other[:, 1:] += 3
    assert torch.equal(first, objective((None, boxes), {"score": other}, batch, questions, None)[0])
    other[:, 0] += 3
    assert not torch.equal(first, objective((None, boxes), {"score": other}, batch, questions, None)[0])


def test_subsets_of_classes_mostly_hold_a_class_of_the_picture(rng):
    objects = np.full((4000, 3, 1), -1, dtype=np.int16)
    objects[:3000, 0, 0] = rng.integers(0, 5, 3000)
    objects[:1500, 1, 0] = rng.integers(0, 5, 1500)
    found = ObjectClassQuestions(5)(objects, rng)
    sizes = found.tasks.sum(1)
    assert sizes.min() == 1
    assert (sizes == 5).mean() > 0.25
    assert found.labels[:3000].mean() > 0.85
    assert not found.labels[3000:].any()
    asked = [
        any(thing >= 0 and task[thing] for thing in picture)
        for picture, task in zip(objects[:, :, 0], found.tasks, strict=True)
    ]
    assert found.labels.tolist() == asked


@pytest.mark.parametrize("move", [mirror_and_move, flip_and_move])
def test_boxes_follow_moved_pictures(move, rng):
    side = 64
    pictures = np.zeros((16, 1, side, side), dtype=np.float32)
    boxes = np.zeros((16, 2, 4), dtype=np.float32)
    objects = np.full((16, 2, 1), -1, dtype=np.int16)
    for number in range(16):
        x, y = rng.integers(4, 30, 2)
        pictures[number, 0, y : y + 20, x : x + 26] = 1
        boxes[number, 0] = np.array([x, y, x + 26, y + 20]) / side
        objects[number, 0] = 3
    moved, kept, places = move(torch.from_numpy(pictures), objects, boxes, rng)
    there = kept[:, 0, 0] >= 0
    assert there.sum() >= 10
    assert (kept[:, 1] == -1).all()
    assert not np.allclose(places[there, 0], boxes[there, 0], atol=0.02)
    for picture, box in zip(moved[there, 0].numpy(), places[there, 0], strict=True):
        rows, columns = np.nonzero(picture > 0.5)
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / side
        assert np.abs(seen - box).max() <= 2 / side


def test_words_at_places_are_learnt_and_hold_for_a_pair_that_was_never_asked(vocabulary, spots, rows):
    torch.manual_seed(3)
    network = build("center_pico", num_outputs=5, image_size=16)
    stage0 = TrainSettings(steps=130, learning_rate=1e-2, anneal=0.0, lowest_limit=1.0)
    training = BackboneTraining(
        network,
        group_sizes=vocabulary.sizes,
        batches=spots,
        settings=stage0,
        objective=BackboneDetection(vocabulary.sizes),
    )
    records = list(training.run(record_every=30))
    assert records[-1].loss < 0.5 * records[0].loss
    known = [task for task in vocabulary.combinations("color", "pattern") if task.text != "red holed"]
    assembler = rows(5, network)
    costs = np.full(sum(subset.count for subset in assembler.subsets), 0.05, dtype=np.float32)
    joint = JointTraining(
        network,
        assembler,
        gate=assembler.gate,
        costs=costs,
        batches=spots,
        ask=PropertyQuestions(vocabulary, known),
        settings=TrainSettings(steps=40, learning_rate=3e-3, anneal=0.0, lowest_limit=0.9),
        objective=JointDetection(TrainSettings()),
    )
    list(joint.run())
    unseen = vocabulary.parse("red holed")
    words = tuple(vocabulary.index(word) for word in unseen.words)
    config = network.space.largest().replace({"head.words": words})
    batch = spots(0, np.random.default_rng(99))
    with torch.no_grad(), network.configured(config):
        heat = network(batch.pictures)[0][:, 0]
    hits, misses = [], []
    for picture, thing in zip(*np.nonzero(batch.objects[:, :, 0] >= 0), strict=True):
        x0, y0, x1, y1 = batch.boxes[picture, thing]
        score = float(heat[picture, int((y0 + y1) / 2 * 4), int((x0 + x1) / 2 * 4)])
        is_hit = batch.objects[picture, thing].tolist() == [0, 1]
        (hits if is_hit else misses).append(score)
    assert np.mean(hits) > np.mean(misses) + 0.15


def test_a_stopped_run_goes_on_bit_exactly(vocabulary, spots, tmp_path):
    settings = TrainSettings(steps=6, checkpoint_every=2, learning_rate=1e-2)

    def training(folder):
        torch.manual_seed(5)
        network = build("center_pico", num_outputs=5, image_size=16)
        return BackboneTraining(
            network,
            group_sizes=vocabulary.sizes,
            batches=spots,
            settings=settings,
            folder=folder,
            objective=BackboneDetection(vocabulary.sizes),
        )

    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = training(tmp_path / "whole")
    list(whole.run())
    next(training(tmp_path / "stopped").run(record_every=4))
    again = training(tmp_path / "stopped")
    list(again.run())
    states = (whole.network.state_dict(), again.network.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
