"""Masked layers compute what the plain ones do, and give back what they were given."""

import pytest
import torch
from torch import nn

from brickyard.continual import Tasks
from brickyard.continual.layers import MaskedLayer, OwnPart
from brickyard.continual.masks import Filled, Shielded
from brickyard.core.errors import ConfigError

PLAIN = {
    "linear": (nn.Linear(6, 5), (3, 6)),
    "linear of tokens": (nn.Linear(6, 5, bias=False), (2, 4, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, (3, 1), padding="same", dilation=2, bias=False), (2, 4, 7, 7)),
}


def learned(layer: MaskedLayer, name: str = "first") -> MaskedLayer:
    layer.tasks.add(name)
    layer.add_task(num_classes=3)
    layer.begin_masks(torch.randn(layer.pool.shape))
    layer.fix_mask()
    return layer


@pytest.mark.parametrize("kind", PLAIN)
def test_a_full_mask_computes_what_the_plain_layer_does(kind):
    plain, shape = PLAIN[kind]
    layer = learned(MaskedLayer(plain, Tasks(), density=1.0))
    x = torch.randn(shape)
    assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize("kind", PLAIN)
def test_what_is_cut_out_is_plain_and_computes_the_same(kind):
    plain, shape = PLAIN[kind]
    layer = learned(MaskedLayer(plain, Tasks(), density=0.3))
    cut = layer.extract(layer.active(), lambda part: part)
    x = torch.randn(shape)
    assert type(cut) is type(plain)
    assert str(cut) == str(plain)
    assert torch.equal(cut(x), layer(x))
    assert int((cut.weight != 0).sum()) == layer.keep == round(0.3 * plain.weight.numel())


def test_every_mask_keeps_at_least_one_weight():
    layer = learned(MaskedLayer(nn.Linear(4, 4), Tasks(), density=0.001))
    assert int(layer.mask(0).sum()) == 1


def test_weights_that_are_off_are_never_minus_zero():
    layer = learned(MaskedLayer(nn.Linear(8, 8, bias=False), Tasks(), density=0.5))
    weight = layer.active()["weight"]
    assert not torch.signbit(weight[~layer.mask(0)]).any()


def test_room_for_a_mask_is_taken_before_what_training_needs():
    layer = MaskedLayer(nn.Linear(8, 8), Tasks(), density=0.5)
    layer.tasks.add("first")
    layer.add_task(num_classes=3)
    room = layer.get_buffer("mask0")
    layer.begin_masks(torch.randn(8, 8))
    layer.fix_mask()
    assert layer.get_buffer("mask0") is room
    assert int(layer.mask(0).sum()) == layer.keep


@pytest.mark.parametrize(("density", "way"), [(0.2, Filled), (0.8, Shielded)])
def test_only_free_weights_are_trained_and_written_back(density, way):
    torch.manual_seed(0)
    layer = learned(MaskedLayer(nn.Linear(12, 12), Tasks(), density=density))
    layer.close_task()
    layer.taken &= torch.rand(12, 12) < 0.5  # so that many are free of many
    learned(layer, "second")
    before, free = layer.pool.clone(), layer.mask(1) & ~layer.taken
    assert free.any()
    layer.begin_weights(exclusive=True)
    assert isinstance(layer.trainee, way)
    optimizer = torch.optim.Adam([layer.free], 0.1, fused=True)
    for _ in range(3):
        layer.trainee.fill()
        layer(torch.randn(5, 12)).square().sum().backward()
        layer.trainee.hand_on()
        optimizer.step()
    layer.trainee.fill()
    trained = layer.active()["weight"].clone()
    layer.keep_weights()
    assert torch.equal(layer.pool != before, free)
    assert torch.equal(layer.active()["weight"], trained)


@pytest.mark.parametrize("density", [0.2, 0.8])
def test_overlapping_training_reaches_all_weights_of_the_mask(density):
    layer = learned(MaskedLayer(nn.Linear(8, 8), Tasks(), density=density))
    layer.close_task()
    learned(layer, "second")
    layer.begin_weights(exclusive=False)
    layer.free.data += 1.0
    before = layer.pool.clone()
    layer.keep_weights()
    assert torch.equal(layer.pool != before, layer.mask(1))


def test_a_layer_in_training_is_not_moved():
    layer = learned(MaskedLayer(nn.Linear(8, 8), Tasks(), density=0.5))
    layer.begin_weights(exclusive=True)
    with pytest.raises(RuntimeError, match="being learned"):
        layer.double()
    layer.keep_weights()
    assert layer.double().pool.dtype == torch.float64


def test_a_dropped_task_leaves_nothing():
    layer = learned(MaskedLayer(nn.Linear(8, 8), Tasks(), density=0.5))
    x = torch.randn(2, 8)
    before, state = layer(x), {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    learned(layer, "second")
    layer.begin_weights(exclusive=True)
    layer.drop_task()
    layer.tasks.drop()
    after = layer.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert torch.equal(layer(x), before)


def test_a_head_gives_scores_of_the_task_s_classes():
    layer = learned(MaskedLayer(nn.Linear(8, 5), Tasks(), density=0.5, is_head=True))
    assert layer(torch.randn(2, 8)).shape == (2, 3)


def test_other_padding_is_refused():
    with pytest.raises(ConfigError, match="pads with 'reflect'; masks need padding_mode='zeros'"):
        MaskedLayer(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), Tasks(), density=0.5)


def test_what_is_ready_follows_the_weights():
    layer = learned(MaskedLayer(nn.Linear(4, 4), Tasks(), density=0.5))
    x = torch.randn(1, 4)
    layer(x)
    with torch.no_grad():
        layer.pool.mul_(2.0)
    assert torch.equal(layer.active()["weight"], torch.where(layer.mask(0), layer.pool, 0))
    assert layer.double()(x.double()).dtype == torch.float64


def test_every_task_has_its_own_statistics():
    part = OwnPart(nn.BatchNorm1d(3), Tasks())
    for number, name in enumerate(("first", "second")):
        part.tasks.add(name)
        part.add_task(num_classes=2)
        part.parts[number].train()
        part(torch.randn(64, 3) + 10 * (number + 1))
        part.parts[number].eval()
    means = [float(norm.running_mean.mean()) for norm in part.parts]
    assert means[1] > 1.5 * means[0] > 0.5
    assert float(part.fresh.running_mean.abs().max()) == 0


def test_a_mixture_adds_the_parts_of_its_tasks():
    part = OwnPart(nn.Linear(3, 2), Tasks(), is_head=True)
    for name in ("first", "second", "third"):
        part.tasks.add(name)
        part.add_task(num_classes=2)
    x = torch.randn(4, 3)
    part.tasks.mixture = torch.tensor([0.5, 0.0, 0.5])
    assert torch.allclose(part(x), 0.5 * part.parts[0](x) + 0.5 * part.parts[2](x))


def test_weights_that_masks_hold_are_told_after_loading():
    state = learned(learned(MaskedLayer(nn.Linear(6, 5), Tasks(), density=0.2)), "second").state_dict()
    other = learned(learned(MaskedLayer(nn.Linear(6, 5), Tasks(), density=0.2)), "second")
    other.load_state_dict(state)
    assert torch.equal(other.taken, other.mask(0) | other.mask(1))
    assert torch.equal(other.mask(0).sum(), torch.tensor(other.keep))
