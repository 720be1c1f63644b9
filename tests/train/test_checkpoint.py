"""Checkpoints: everything comes back bit for bit; those of other runs are refused by name."""

import pytest
import torch
from torch import nn

from brickyard.core.errors import TrainError
from brickyard.train.checkpoint import load_checkpoint, save_checkpoint

SETTINGS = {"steps": 4, "rate": 0.1, "sizes": (1, 2)}


def trained(steps: int) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """Two modules after some steps of AdamW."""
    torch.manual_seed(7)
    first, second = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 1)
    parameters = [{"params": first.parameters(), "weight_decay": 0.1}, {"params": second.parameters()}]
    optimizer = torch.optim.AdamW(parameters, lr=0.05)
    for step in range(steps):
        advance(first, second, optimizer, step)
    return first, second, optimizer


def advance(first: nn.Module, second: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    torch.manual_seed(100 + step)
    optimizer.zero_grad()
    second(first(torch.randn(8, 3))).square().mean().backward()
    optimizer.step()


def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path):
    first, second, optimizer = trained(3)
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, modules={"a": first, "b": second}, optimizer=optimizer, step=3, settings=SETTINGS)
    other = trained(0)
    step = load_checkpoint(
        path, modules={"a": other[0], "b": other[1]}, optimizer=other[2], settings=SETTINGS
    )
    assert step == 3
    advance(first, second, optimizer, 3)
    advance(*other, 3)
    for one, two in zip((first, second), other[:2], strict=True):
        assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    states = [each.state_dict()["state"] for each in (optimizer, other[2])]
    assert set(states[0]) == set(states[1]) == set(range(6))
    for index, entries in states[0].items():
        assert all(torch.equal(value, states[1][index][name]) for name, value in entries.items())
    assert other[2].param_groups[0]["weight_decay"] == 0.1
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_damaged_checkpoint_is_told(tmp_path):
    first, second, optimizer = trained(1)
    modules, path = {"a": first, "b": second}, tmp_path / "run.safetensors"
    save_checkpoint(path, modules=modules, optimizer=optimizer, step=1, settings=SETTINGS)
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-4], whole.replace(b'"step"', b'"stop"')):
        path.write_bytes(damaged)
        with pytest.raises(TrainError, match=r"run\.safetensors is damaged .*; remove it to start anew"):
            load_checkpoint(path, modules=modules, optimizer=optimizer, settings=SETTINGS)


def test_other_settings_are_refused_with_the_names_that_differ(tmp_path):
    first, second, optimizer = trained(1)
    modules, path = {"a": first, "b": second}, tmp_path / "run.safetensors"
    save_checkpoint(path, modules=modules, optimizer=optimizer, step=1, settings=SETTINGS)
    with pytest.raises(TrainError, match=r"other settings \(rate, seed differ\); repeat the former settings"):
        load_checkpoint(
            path, modules=modules, optimizer=optimizer, settings={**SETTINGS, "rate": 0.2, "seed": 1}
        )
