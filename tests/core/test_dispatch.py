"""Every way of computing only the experts in use gives what masking gives."""

import pytest
import torch
from torch.nn import functional as F

from brickyard.core import dispatch as module
from brickyard.core.dispatch import Matrices, dispatch, masked

EXPERTS, WIDTH, USED = 8, 4, 3


def problem(*, resident=0, gated=False, bias=True, dtype=torch.float32, tokens=50, transposed=False):
    neurons = EXPERTS * WIDTH + resident

    def draw(*shape):
        return torch.randn(*shape).to(dtype)

    keys = draw(16, neurons).t() if transposed else draw(neurons, 16)
    values = draw(neurons, 16).t() if transposed else draw(16, neurons)
    matrices = Matrices(
        keys,
        draw(neurons) if bias else None,
        values,
        draw(16) if bias else None,
        draw(neurons, 16) if gated else None,
        draw(neurons) if gated and bias else None,
    )
    x = draw(tokens, 16)
    use = torch.stack([torch.randperm(EXPERTS)[:USED] for _ in range(tokens)])
    return x, use, matrices


def expected(x, use, matrices, share=None):
    """Token after token, neuron runs of its experts and those behind all experts."""
    rows = []
    for number, (token, experts) in enumerate(zip(x, use.tolist(), strict=True)):
        own = [i for expert in experts for i in range(expert * WIDTH, (expert + 1) * WIDTH)]
        own += range(EXPERTS * WIDTH, len(matrices.keys))
        part = Matrices(*(None if t is None else t[own] for t in matrices[:2]), matrices.values[:, own], None)
        if matrices.gated is not None:
            bias = None if matrices.gated_bias is None else matrices.gated_bias[own]
            part = part._replace(gated=matrices.gated[own], gated_bias=bias)
        factor = torch.ones(len(own))
        if share is not None:
            factor[: USED * WIDTH] = share[number].repeat_interleave(WIDTH)
        rows.append(F.linear(part.hidden(token, F.gelu) * factor, part.values, matrices.value_bias))
    return torch.stack(rows)


SETTINGS = [
    {},
    {"gated": True},
    {"bias": False},
    {"gated": True, "bias": False},
    {"resident": 4},
    {"resident": 4, "bias": False},
    {"transposed": True},
    {"tokens": 1},
]


@pytest.mark.parametrize("way", ["local", "rounded", "grouped", "batched", "whole", None])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_each_way_equals_token_after_token(way, settings):
    x, use, matrices = problem(**settings)
    with torch.no_grad():
        y = dispatch(x, use, matrices, F.gelu, num_experts=EXPERTS, expert_width=WIDTH, way=way)
        torch.testing.assert_close(y, expected(x, use, matrices), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("settings", SETTINGS[:-1], ids=str)
def test_batched_products_where_experts_have_about_equally_many_tokens(monkeypatch, settings, shares):
    for other in ("_grouped", "_local"):
        monkeypatch.delattr(module, other)
    x, _, matrices = problem(**settings)
    use = (torch.arange(len(x))[:, None] + torch.tensor([0, 2, 5])) % EXPERTS
    share = torch.rand(len(x), USED) if shares else None
    sizes = {"num_experts": EXPERTS, "expert_width": WIDTH}
    with torch.no_grad():
        y = dispatch(x, use, matrices, F.gelu, **sizes, share_TK=share, way="batched")
    torch.testing.assert_close(y, expected(x, use, matrices, share), atol=1e-4, rtol=1e-5)


def test_batched_products_are_left_alone_where_one_expert_has_most_tokens(monkeypatch):
    x, use, matrices = problem()
    use[:] = torch.tensor([1, 4, 6])
    monkeypatch.setattr(module, "_grouped", lambda work: "grouped")
    sizes = {"num_experts": EXPERTS, "expert_width": WIDTH}
    assert dispatch(x, use, matrices, F.gelu, **sizes, way="batched") == "grouped"
    monkeypatch.setattr(module, "_local", lambda work: "local")
    x, matrices = x.double(), Matrices(*(None if part is None else part.double() for part in matrices))
    assert dispatch(x, use, matrices, F.gelu, **sizes, way="batched") == "local"


@pytest.mark.parametrize("way", ["local", "rounded", "grouped", "batched", "whole"])
def test_results_of_experts_are_multiplied_by_their_shares(way):
    x, use, matrices = problem(resident=4)
    share = torch.rand(len(x), USED)
    sizes = {"num_experts": EXPERTS, "expert_width": WIDTH}
    with torch.no_grad():
        y = dispatch(x, use, matrices, F.gelu, **sizes, share_TK=share, way=way)
    torch.testing.assert_close(y, expected(x, use, matrices, share), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("way", ["local", "rounded", "grouped", "batched", "whole"])
def test_half_precision_up_to_its_rounding(way):
    x, _, matrices = problem(dtype=torch.bfloat16)
    use = torch.stack([torch.randperm(4)[:2] for _ in x])
    with torch.no_grad():
        y = dispatch(x, use, matrices, F.gelu, num_experts=4, expert_width=8, way=way)
    assert y.dtype == torch.bfloat16
    full = Matrices(*(None if part is None else part.float() for part in matrices))
    reference = masked(x.float(), torch.zeros(len(x), 4).scatter(1, use, 1.0), full, F.gelu, 8)
    assert float((y.float() - reference).abs().max() / reference.abs().max()) < 0.03


def test_experts_that_no_token_uses():
    x, use, matrices = problem()
    use = torch.tensor([[1, 4, 6]]).expand(len(x), 3)
    for way in ("local", "rounded", "grouped", "batched"):
        with torch.no_grad():
            y = dispatch(x, use, matrices, F.gelu, num_experts=EXPERTS, expert_width=WIDTH, way=way)
        torch.testing.assert_close(y, expected(x, use, matrices), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("way", ["local", "rounded", "batched"])
@pytest.mark.parametrize("width", [16, 15, 13])
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: torch.cat([x[:1], x])[1:],
        lambda x: torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape),  # rows begin anywhere
        lambda x: x.t().contiguous().t(),
        lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
        lambda x: torch.cat([x, x[:, :1]], 1)[:, :-1],
    ],
    ids=["behind a row", "behind a number", "transposed", "apart", "apart by one number"],
)
@pytest.mark.parametrize("tokens", [50, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tokens_of_any_width_and_layout(way, width, layout, dtype, tokens):
    x, use, matrices = problem(dtype=dtype, tokens=tokens)
    x, keys = x[:, :width].contiguous(), matrices.keys[:, :width]
    values, bias = matrices.values[:width], matrices.value_bias[:width]
    matrices = matrices._replace(keys=keys, values=values, value_bias=bias)
    sizes = {"num_experts": EXPERTS, "expert_width": WIDTH}
    with torch.no_grad():
        moved = layout(x)
        assert torch.equal(moved, x)
        y = dispatch(moved, use, matrices, F.gelu, **sizes, way=way)
        whole = dispatch(x, use, matrices, F.gelu, **sizes, way="whole")
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    assert float((y - whole).abs().max() / whole.abs().max()) < tolerance


@pytest.mark.parametrize("way", ["local", "rounded", "grouped", "batched", "whole", None])
def test_no_tokens_give_no_results(way):
    x, _, matrices = problem()
    use = torch.zeros(0, USED, dtype=torch.long)
    with torch.no_grad():
        y = dispatch(x[:0], use, matrices, F.gelu, num_experts=EXPERTS, expert_width=WIDTH, way=way)
    assert y.shape == (0, 16)


def test_the_bias_of_the_second_matrix_is_not_changed():
    x, use, matrices = problem(tokens=1)
    before = matrices.value_bias.clone()
    dispatch(x, use, matrices, F.gelu, num_experts=EXPERTS, expert_width=WIDTH, way="local")
    assert torch.equal(matrices.value_bias, before)


def test_the_fastest_way_is_measured_once_for_each_kind(monkeypatch):
    measured = []
    monkeypatch.setattr(module, "_fastest", {})
    monkeypatch.setattr(module, "_measure", lambda work: measured.append(work.kind) or "local")
    for tokens in (33, 50, 63, 64):  # 6 bits, and 7
        x, use, matrices = problem(tokens=tokens)
        dispatch(x, use, matrices, F.gelu, num_experts=EXPERTS, expert_width=WIDTH)
    assert len(measured) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_where_gradients_are_recorded_the_way_has_gradients(monkeypatch, dtype):
    monkeypatch.setattr(module, "_fastest", {})
    only = {name: module._WAYS[name] for name in ("rounded", "batched", "local")}
    monkeypatch.setattr(module, "_WAYS", only)
    x, use, matrices = problem(dtype=dtype)
    sizes = {"num_experts": EXPERTS, "expert_width": WIDTH}
    with torch.no_grad():
        dispatch(x, use, matrices, F.gelu, **sizes)
    x.requires_grad_(True)
    dispatch(x, use, matrices, F.gelu, **sizes).sum().backward()
    assert list(module._fastest.values())[-1] == "local"
    assert x.grad.isfinite().all()
    assert x.grad.any()


def test_shares_have_gradients():
    x, use, matrices = problem(resident=4)
    share = torch.rand(len(x), USED, requires_grad=True)
    sizes = {"num_experts": EXPERTS, "expert_width": WIDTH}
    found = [
        torch.autograd.grad(dispatch(x, use, matrices, F.gelu, **sizes, share_TK=share, way=way).sum(), share)
        for way in ("local", "grouped", "whole")
    ]
    for other in found[:2]:
        torch.testing.assert_close(other, found[2], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("most", [None, 30])
@pytest.mark.parametrize("layout", [module._rows_by_numpy, module._rows_by_torch])
def test_rows_of_an_expert_are_one_after_the_other(layout, most):
    x, use, matrices = problem()
    use[use == 5] = EXPERTS  # one expert without tokens, whatever is drawn
    work = module._Work(x, use, matrices, F.gelu, EXPERTS + 1, WIDTH, None)
    counts = work.counts()
    assert counts == [int((use == expert).sum()) for expert in range(EXPERTS + 1)]
    firsts = [(sum(counts[:i]) if most is None else most * i) for i in range(EXPERTS + 1)]
    number = use.numel() if most is None else most * (EXPERTS + 1)
    rows = layout(use, counts, firsts, number)
    assert len(rows.tokens) == number
    assert (rows.of_tokens[:, -1] == number).all()
    for token, (experts, places) in enumerate(zip(use.tolist(), rows.of_tokens.tolist(), strict=True)):
        for expert, row in zip(experts, places[:-1], strict=True):
            assert firsts[expert] <= row < firsts[expert] + counts[expert]
            assert rows.tokens[row] == token
    same = work.rows(counts, most)
    assert torch.equal(same.tokens.long(), rows.tokens.long())
    assert torch.equal(same.of_tokens.long(), rows.of_tokens.long())


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 31, 33, 100, 1000, 1024, 4097])
def test_rows_become_one_of_few_numbers_that_is_little_larger(rows):
    assert rows <= module._more(rows) <= rows * 17 / 16
    assert module._more(module._more(rows)) == module._more(rows)
    assert len({module._more(number) for number in range(1024, 2049)}) == 17


def test_the_fastest_way_is_taken(monkeypatch):
    calls = []

    def slow(work):
        calls.append("slow")
        for _ in range(200):
            y = module._whole(work)
        return y

    def quick(work):
        calls.append("quick")
        return module._whole(work)

    monkeypatch.setattr(module, "_fastest", {})
    monkeypatch.setattr(module, "_WAYS", {"local": slow, "whole": quick})
    x, use, matrices = problem()
    dispatch(x, use, matrices, F.gelu, num_experts=EXPERTS, expert_width=WIDTH)
    assert calls[-1] == "quick"


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_resident_neurons_that_grouped_products_refuse(monkeypatch, transposed, gated):
    x, use, matrices = problem(resident=2, transposed=transposed, gated=gated)
    for way in (None, "batched"):
        monkeypatch.setattr(module, "_fastest", {})
        with torch.no_grad():
            y = dispatch(x, use, matrices, F.gelu, num_experts=EXPERTS, expert_width=WIDTH, way=way)
        torch.testing.assert_close(y, expected(x, use, matrices), atol=1e-4, rtol=1e-5)


def test_sizes_that_grouped_products_refuse_are_left_to_the_others(monkeypatch):
    monkeypatch.setattr(module, "_fastest", {})
    x, use, matrices = problem()
    odd = Matrices(matrices.keys[:24, :15], matrices.key_bias[:24], matrices.values[:15, :24], None)
    y = dispatch(x[:, :15], use, odd, F.gelu, num_experts=8, expert_width=3)
    factor = torch.zeros(len(x), 8).scatter(1, use, 1.0)
    torch.testing.assert_close(y, masked(x[:, :15], factor, odd, F.gelu, 3), atol=1e-4, rtol=1e-5)
