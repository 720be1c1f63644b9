"""Bricks: the active part of their tensors, and gates."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from brickyard.core.brick import Brick, Extract, Width
from brickyard.core.cut import Cut
from brickyard.core.decision import Choice, Decision, Subset


class Table(Brick):
    """Rows cut by a subset of pairs, columns by a prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = Width(Subset("rows", 3), 6, 2)
        self.columns = Width(Choice("columns", (1, 2, 4)), 4)
        self.weight = nn.Parameter(torch.arange(24.0).reshape(6, 4))
        self.register_parameter("bias", None)

    def decisions(self) -> Iterator[Decision]:
        yield self.rows.decision
        yield self.columns.decision

    def cuts(self) -> dict[str, tuple[Cut, ...]]:
        return {"weight": (self.rows.cut(0), self.columns.cut(1))}

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        return nn.Identity()


def test_a_whole_tensor_is_not_copied():
    table = Table()
    assert table.active()["weight"] is table.weight
    assert table.active()["bias"] is None


@pytest.mark.parametrize(("rows", "kept"), [((0, 2), [0, 1, 4, 5]), ((1, 2), [2, 3, 4, 5]), ((), [])])
def test_active_follows_both_decisions(rows: tuple[int, ...], kept: list[int]):
    table = Table()
    table.rows.decision.value, table.columns.decision.value = rows, 2
    active = table.active()["weight"]
    assert active is not None
    assert torch.equal(active, table.weight[kept, :2])


def test_gradients_reach_only_what_is_active():
    table = Table()
    table.rows.decision.value = (1,)
    weight = table.active()["weight"]
    assert weight is not None
    weight.sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.sum(1).tolist() == [0, 0, 4, 4, 0, 0]


def test_gates_multiply_each_sample_apart():
    width = Width(Subset("rows", 2), 4, 2)
    x = torch.ones(2, 4, 3, 3)
    assert width.gate(x) is x
    width.decision.gates = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    assert width.gate(x)[:, :, 0, 0].tolist() == [[1, 1, 0, 0], [0.5, 0.5, 1, 1]]
    assert width.gate(torch.ones(2, 5, 4), axis=-1)[1, 4].tolist() == [0.5, 0.5, 1, 1]
