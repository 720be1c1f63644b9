"""The benchmark of sparse experts on the processor: time as a share of the dense network's, routing included.

    python benchmarks/dispatch.py                  everything; some minutes
    python benchmarks/dispatch.py --quick --json   a minute: one seed, few rounds

4,096 random tokens (fewer in section `short`), a quarter of the experts for each. Every number is a row of a
CSV file below benchmarks/results: the least time of some rounds in which all methods take turns, in an order
that is drawn anew for each, over that of the dense network in the same rounds. Wall time, so the machine
should be idle.
The C library is told to keep what is freed: else it depends on its history whether a call waits for pages,
which alone takes up to half its time.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import time
from collections.abc import Callable, Sequence

import torch
from _command import begin, finish, ledger_of, options
from _record import Ledger, Row, columns, pick, say
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core import dispatch
from brickyard.core.dispatch import Matrices
from brickyard.core.feed_forward import Routing, choose, feed_forward

SECTIONS = ("experts", "short", "transformers")
TOKENS, SHARE = 4096, 4  # one in SHARE experts is used
FEW_TOKENS = (1, 16, 128, 512)
SIZES = ((384, 1536), (768, 3072))
COUNTS = (16, 64)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
OURS, RATIO = "sparse", "time / dense time"
_SHORT = 0.02  # seconds of the dense network, below which more rounds are taken
DENSE_ONEDNN = "dense, oneDNN"  # float32; bfloat16 is computed by it anyway
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt
PEERS = ("transformers, eager", "transformers, grouped_mm")

# What is wanted of each figure: the best that was measured of any method on such a machine.
TARGETS = {
    "fp32_384_n16": "<= 0.35",
    "fp32_768_n16": "<= 0.27",
    "bf16_384_n16": "<= 0.49",
    "bf16_768_n16": "<= 0.41",
    "fp32_768_n64": "<= 0.45",
    "over_transformers": "< 1",
}


def figures(ledger: Ledger) -> tuple[dict[str, float | None], str]:
    """Boil the rows down.

    Args:
        ledger: The rows of this run and of earlier ones.

    Returns:
        The figures by name, medians over seeds, None where nothing was ever measured; and a table of them.
        `over_transformers` is our time over that of the faster way of transformers, in the setting in which
        it is highest.
    """
    behind: dict[str, list[Row]] = {}
    for name in list(TARGETS)[:-1]:
        precision, width, count = name.split("_")
        group = next(f"{precision} {one}x{other}" for one, other in SIZES if str(one) == width)
        behind[name] = pick(ledger.section("experts"), method=OURS, metric=RATIO, group=group, limit=count)
    values = {name: _median(rows) for name, rows in behind.items()}
    values["over_transformers"], behind["over_transformers"] = _over_peers(ledger)
    lines = [("figure", "value", "wanted", "seeds", "source")]
    for name, value in values.items():
        runs = {row.run for row in behind[name]}
        source = (
            "this run" if runs == {ledger.run} else f"kept {min(runs)[:10]}" if runs else "never measured"
        )
        seeds = str(len({row.seed for row in behind[name]}))
        lines.append((name, "-" if value is None else f"{value:.3g}", TARGETS[name], seeds, source))
    rounded = {name: None if value is None else float(f"{value:.4g}") for name, value in values.items()}
    return rounded, columns(lines)


def _median(rows: Sequence[Row]) -> float | None:
    return float(torch.tensor([row.value for row in rows]).median()) if rows else None


def _over_peers(ledger: Ledger) -> tuple[float | None, list[Row]]:
    rows = pick(ledger.section("transformers"), metric=RATIO)
    ratios = []
    for group, limit in dict.fromkeys((row.group, row.limit) for row in rows):
        here = pick(rows, group=group, limit=limit)
        ours = _median(pick(here, method=OURS))
        peers = [value for name in PEERS if (value := _median(pick(here, method=name))) is not None]
        if ours is not None and peers:
            ratios.append(ours / min(peers))
    return (max(ratios) if ratios else None), rows


def _times(methods: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Return the least seconds of each method.

    They take turns, so that a busy moment hits all alike, in an order drawn anew for each round: what one
    leaves in the caches counts for the next, by up to a tenth of the dense network's time.
    """
    least, names, draw = dict.fromkeys(methods, float("inf")), list(methods), random.Random(0)
    with torch.inference_mode():
        for compute in methods.values():
            compute()
        for _ in range(rounds):
            draw.shuffle(names)
            for name in names:
                start = time.perf_counter()
                methods[name]()
                least[name] = min(least[name], time.perf_counter() - start)
    return least


def _draw(
    width: int, neurons: int, precision: str, seed: int, *, gated: bool, number: int = TOKENS
) -> tuple[Tensor, Matrices]:
    """Return tokens and a network; a gated one has no biases, as in Mixtral."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) / shape[-1] ** 0.5).to(PRECISIONS[precision])

    tokens = draw(number, width) * width**0.5
    keys, values = draw(neurons, width), draw(width, neurons)
    if gated:
        return tokens, Matrices(keys, None, values, None, draw(neurons, width), None)
    return tokens, Matrices(keys, draw(neurons), values, draw(width))


def _own(tokens: Tensor, matrices: Matrices, act: nn.Module, count: int) -> dict[str, Callable[[], Tensor]]:
    """Return the ways of computing a network that are ours, and the dense one."""
    neurons = len(matrices.keys)
    few = matrices.neurons(0, neurons // SHARE)._replace(value_bias=matrices.value_bias)

    def whole(part: Matrices) -> Tensor:
        return F.linear(part.hidden(tokens, act), part.values, part.value_bias)

    def routed(mode: str) -> Tensor:
        routing = Routing(count, neurons // count, count // SHARE, mode)  # type: ignore[arg-type]
        return feed_forward(tokens, matrices, act, routing)

    def by_onednn() -> Tensor:
        hidden = matrices.hidden(tokens, act, dispatch._onednn)
        return dispatch._onednn(hidden, matrices.values, matrices.value_bias)

    return {
        "dense": lambda: whole(matrices),
        **({DENSE_ONEDNN: by_onednn} if tokens.dtype == torch.float32 else {}),
        OURS: lambda: routed("sparse"),
        "masked": lambda: routed("masked"),
        "a quarter of the neurons, dense": lambda: whole(few),
    }


def _peers(tokens: Tensor, matrices: Matrices, count: int) -> dict[str, Callable[[], Tensor]]:
    """Return the experts of Mixtral with the same weights and the same choice by mean keys."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    assert matrices.gated is not None
    neurons, width = matrices.keys.shape
    size, used = neurons // count, count // SHARE
    found = {}
    for name in PEERS:
        config = MixtralConfig(
            hidden_size=width, intermediate_size=size, num_local_experts=count, num_experts_per_tok=used
        )
        config._experts_implementation = name.split(", ")[1]
        experts = MixtralExperts(config).to(tokens.dtype)
        pairs = torch.cat([part.unflatten(0, (count, size)) for part in (matrices.keys, matrices.gated)], 1)
        experts.gate_up_proj.data = pairs.contiguous()
        experts.down_proj.data = matrices.values.unflatten(1, (count, size)).transpose(0, 1).contiguous()

        def compute(experts: nn.Module = experts) -> Tensor:
            _, use = choose(tokens, matrices.keys, Routing(count, size, used, "sparse"))
            y: Tensor = experts(tokens, use, torch.ones(use.shape, dtype=tokens.dtype))
            return y

        found[name] = compute
    return found


def _measure(ledger: Ledger, section: str, arguments: argparse.Namespace) -> None:
    for seed in arguments.seeds[:1] if arguments.quick else arguments.seeds:
        for precision in PRECISIONS:
            for width, neurons in SIZES:
                for number in FEW_TOKENS if section == "short" else (TOKENS,):
                    gated = section == "transformers"
                    drawn = _draw(width, neurons, precision, seed, gated=gated, number=number)
                    for count in COUNTS:
                        _measure_one(
                            ledger,
                            section,
                            drawn,
                            count=count,
                            precision=precision,
                            seed=seed,
                            quick=arguments.quick,
                        )


def _measure_one(
    ledger: Ledger,
    section: str,
    drawn: tuple[Tensor, Matrices],
    *,
    count: int,
    precision: str,
    seed: int,
    quick: bool,
) -> None:
    """Measure one network with so many experts, and add its rows."""
    tokens, matrices = drawn
    gated, few = section == "transformers", section == "short"
    methods = _own(tokens, matrices, nn.SiLU() if gated else nn.GELU(), count)
    if gated:
        methods |= _peers(tokens, matrices, count)
    with torch.inference_mode():
        _agree(methods)
        start = time.perf_counter()
        methods["dense"]()
        short = time.perf_counter() - start < _SHORT
    dispatch._fastest.clear()  # each setting is measured anew
    rounds = (4 if quick else 16) * (4 if short else 1)  # short ones scatter more
    times = _times(methods, rounds)
    [way] = dispatch._fastest.values()
    neurons, width = matrices.keys.shape
    limit = f"n{count} {len(tokens)} tokens" if few else f"n{count}"
    for name, seconds in times.items():
        ledger.add(
            section,
            name,
            RATIO,
            seconds / times["dense"],
            group=f"{precision} {width}x{neurons}",
            limit=limit,
            seed=seed,
            count=rounds,
            precision=precision,
            note=f"{precision} {width} {limit} computes {way}" if name == OURS else "",
        )
    shown = ", ".join(f"{name} {value / times['dense']:.2f}" for name, value in times.items())
    say(f"{section} {precision} {width} {limit} ({way}): {1e3 * times['dense']:.1f} ms, {shown}")


def _agree(methods: dict[str, Callable[[], Tensor]]) -> None:
    """Check that what is timed computes the same.

    Raises:
        AssertionError: It does not.
    """
    expected = methods["masked"]()
    tolerance = 0.05 if expected.dtype == torch.bfloat16 else 1e-4
    for name in (OURS, *PEERS):
        if name in methods:
            error = (methods[name]() - expected).abs().max() / expected.abs().max()
            assert error <= tolerance, f"{name} differs from masked by {float(error):.3g}"


def _keep_memory() -> None:
    """Let glibc neither map large blocks one by one nor give memory back; nothing where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not (mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1)):
        say("the C library could not be told to keep memory: times include waiting for pages")


def main() -> None:
    """Read the command line, measure, print tables (to stderr with --json) and the figures."""
    parser = options(__doc__, SECTIONS)
    parser.set_defaults(threads=2)
    arguments = parser.parse_args()
    wanted = begin(arguments, SECTIONS, ("experts", "transformers"))
    _keep_memory()
    ledger = ledger_of(arguments, "dispatch")
    for section in wanted:
        _measure(ledger, section, arguments)
    finish(ledger, arguments, SECTIONS, figures)


if __name__ == "__main__":
    main()
