"""Statistics of a subnet against a slow estimate layer by layer; the network stays as it was."""

import pytest
import torch
from torch import nn

from brickyard.bricks import calibrate_, extract_calibrated
from brickyard.core.errors import ConfigError
from brickyard.core.network import Network
from brickyard.core.plain import Constant
from brickyard.networks import build
from brickyard.testing import prepared, sampled_configs

PICO = ["ofa_resnet_pico", "ofa_mobile_pico", "residual_cnn_pico", "mobile_cnn_pico"]


def batches(network: Network) -> list[torch.Tensor]:
    return [2.0 + 3.0 * network.example_inputs(batch=8, seed=seed)[0] for seed in range(3)]


def reference(plain: nn.Module, inputs: list[torch.Tensor]) -> nn.Module:
    """Torch's own cumulative average in an extracted module."""
    plain.eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        for x in inputs:
            plain(x)
    return plain.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", PICO)
def test_equals_the_cumulative_average_of_torch(name: str):
    network = prepared(build(name))
    for config in sampled_configs(network.space, samples=4):
        found = extract_calibrated(network, batches(network), config)
        if any(isinstance(module, Constant) for module in found.modules()):
            continue  # torch has no layer there any more; see the next test
        expected = reference(network.extract(config), batches(network))
        for x in batches(network):
            torch.testing.assert_close(found(x), expected(x), atol=1e-4, rtol=1e-4)
        assert {m.momentum for m in found.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


@torch.no_grad()
def test_the_first_layer_is_normalised_by_its_own_mean_and_variance():
    network = prepared(build("ofa_resnet_pico"))
    config = network.space.smallest()
    plain, inputs = extract_calibrated(network, batches(network), config), batches(network)
    conv, norm = plain.stem.conv, plain.stem.norm  # type: ignore[union-attr]
    outputs = [conv(x).transpose(0, 1).flatten(1) for x in inputs]
    assert torch.allclose(norm.running_mean, sum(y.mean(1) for y in outputs) / 3, atol=1e-4)
    assert torch.allclose(norm.running_var, sum(y.var(1) for y in outputs) / 3, rtol=1e-4)


@torch.no_grad()
def test_a_branch_without_bricks_leaves_the_bias_of_its_norm():
    """Without input, a normalisation sees zeros whose mean is zero, and adds its bias."""
    network = prepared(build("residual_cnn_pico"))
    config = network.space.largest().replace({"stage1.block1": ()})
    plain = extract_calibrated(network, batches(network), config)
    block, whole = plain.stages[1][1], network.root.stages[1][1]  # type: ignore[index, union-attr]
    assert torch.allclose(block.body.value.flatten(), whole.body.norm2.bias, atol=1e-6)


def test_the_network_stays_as_it_was():
    network = build("ofa_mobile_pico").train()
    network.root.stem.norm.eval()  # type: ignore[union-attr]
    active = network.space.smallest()
    network.configure(active)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    plain = extract_calibrated(network, batches(network), network.space.largest())
    assert not any(module.training for module in plain.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert network.space.active() == active
    assert network.root.stem.norm.momentum == 0.1  # type: ignore[union-attr]


def test_a_failure_leaves_the_network_as_it_was():
    network = build("ofa_mobile_pico").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(RuntimeError):
        extract_calibrated(network, [*batches(network), torch.zeros(2, 7, 16, 16)])
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(module.training for module in network.modules())


def test_no_batches_are_refused():
    network = build("ofa_mobile_pico")
    with pytest.raises(ConfigError, match="no batches to calibrate with; give one or more"):
        extract_calibrated(network, [])


@torch.no_grad()
def test_networks_without_batch_normalisation_are_just_cut_out():
    network = build("translation_pico", dropout=0.5)
    inputs = network.example_inputs(batch=3)
    plain = extract_calibrated(network, [inputs], network.space.smallest())
    expected = network.eval().extract(network.space.smallest())
    assert torch.equal(plain(*inputs), expected(*inputs))


@torch.no_grad()
def test_a_plain_module_gets_the_mean_over_batches_and_keeps_its_modes():
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.5)).train()
    first, second = torch.randn(6, 2), torch.randn(6, 2) + 3
    calibrate_(module, [first, (second,)])
    means, variances = first.mean(0) + second.mean(0), first.var(0) + second.var(0)
    torch.testing.assert_close(module[0].running_mean, means / 2)
    torch.testing.assert_close(module[0].running_var, variances / 2)
    assert module.training
    assert module[0].momentum == 0.1
    before = module[0].running_mean.clone()
    with pytest.raises(ConfigError, match="no batches to calibrate with"):
        calibrate_(module, [])
    assert torch.equal(module[0].running_mean, before)
