"""Stage 0: properties and classes are learnt at every size, and a stopped run goes on."""

import numpy as np
import pytest
import torch

from brickyard.core.errors import TrainError
from brickyard.core.space import block_subsets
from brickyard.train.backbone import BackboneTraining
from brickyard.train.joint import Batch, TrainSettings, split_gates


def nested(network):
    """Opens the first bricks of every block, as many as the limit says."""
    subsets = block_subsets(network.space)

    def gates(limits):
        part = [
            np.arange(subset.count) < np.maximum(1, np.round(limits[:, None] * subset.count))
            for subset in subsets
        ]
        return split_gates(torch.from_numpy(np.concatenate(part, axis=1).astype(np.float32)), subsets)

    return gates


def test_properties_are_learnt(presence, spots, vocabulary):
    settings = TrainSettings(steps=100, batch_size=32, learning_rate=1e-2, lowest_limit=0.3)
    run = BackboneTraining(
        presence, group_sizes=vocabulary.sizes, batches=spots, settings=settings, nested=nested(presence)
    )
    records = list(run.run(record_every=20))
    assert records[-1].step == 100
    assert records[-1].loss < 0.5 * records[0].loss
    assert records[-1].accuracy > 0.85
    assert 0.3 < records[-1].open_share < records[0].open_share < 0.9
    assert not presence.training
    assert all(subset.gates is None for subset in block_subsets(presence.space))


def test_without_boxes_the_whole_picture_is_judged(presence, spots, vocabulary):
    def unboxed(step: int, rng: np.random.Generator) -> Batch:
        batch = spots(step, rng)
        return Batch(batch.pictures, batch.objects)

    settings = TrainSettings(steps=60, batch_size=32, learning_rate=1e-2)
    run = BackboneTraining(presence, group_sizes=vocabulary.sizes, batches=unboxed, settings=settings)
    records = list(run.run(record_every=15))
    assert records[-1].loss < records[0].loss
    assert records[-1].accuracy > 0.6
    assert {record.open_share for record in records} == {1.0}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_classes_are_learnt_at_every_size_and_precision(classes, corners, precision):
    network = classes()
    settings = TrainSettings(
        steps=60, batch_size=32, learning_rate=1e-2, lowest_limit=0.3, precision=precision
    )
    seen = set()
    network.root.stem.conv.register_forward_hook(lambda _layer, _inputs, output: seen.add(output.dtype))
    run = BackboneTraining(
        network, group_sizes=None, batches=corners, settings=settings, nested=nested(network)
    )
    records = list(run.run(record_every=20))
    assert records[-1].accuracy > 0.9
    assert records[-1].loss < 0.5 * records[0].loss
    assert seen == {torch.float32 if precision == "fp32" else torch.bfloat16}


def test_a_run_that_was_stopped_ends_as_one_that_was_not(classes, corners, tmp_path):
    settings = TrainSettings(steps=6, batch_size=32, checkpoint_every=3)

    def make(folder):
        network = classes()
        return BackboneTraining(
            network,
            group_sizes=None,
            batches=corners,
            settings=settings,
            folder=folder,
            nested=nested(network),
        )

    whole = make(None)
    list(whole.run())
    for _ in make(tmp_path).run(record_every=3):
        break
    second = make(tmp_path)
    assert [record.step for record in second.run()] == [6]
    expected, found = whole.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert list(make(tmp_path).run()) == []


def test_the_checkpoint_of_another_network_is_refused(classes, presence, corners, tmp_path):
    settings = TrainSettings(steps=1, batch_size=32)
    list(
        BackboneTraining(
            classes(), group_sizes=None, batches=corners, settings=settings, folder=tmp_path
        ).run()
    )
    other = BackboneTraining(
        presence, group_sizes=(3, 2), batches=corners, settings=settings, folder=tmp_path
    )
    with pytest.raises(TrainError, match=r"\(head_kind, image_size, in_channels, num_outputs differ\)"):
        list(other.run())


def test_a_loss_that_is_not_finite_stops_the_run(classes, corners):
    def broken(step: int, rng: np.random.Generator) -> Batch:
        batch = corners(step, rng)
        return Batch(batch.pictures * float("inf"), batch.objects)

    run = BackboneTraining(classes(), group_sizes=None, batches=broken, settings=TrainSettings(steps=2))
    with pytest.raises(TrainError, match="the loss is nan at step 0; lower the learning rate"):
        list(run.run())
