"""The benchmark of encoders with exits: how well each exit finds the function that a docstring describes.

    python benchmarks/exits.py                  everything; about one and a half hours on one core
    python benchmarks/exits.py --quick --json   a minute: times and bits, the rest from kept CSV

MiniLM (6 layers) is trained on docstrings of the standard library with their functions; names of functions
are hidden, and the files of test pairs are others than those of training. Arms, all with the same batches,
steps and optimizer: exits trained together, the last exit alone, a model of its own for each depth, and
AdaptiveLayerLoss of sentence-transformers with its defaults. Section `tuning` trains what may be chosen once
and looks at validation pairs only, section `exits` trains what was chosen, for all seeds. CoSQA is a second
test set: queries of people, with 1,000 functions that answer none beside those that answer one.

Every trained arm is a few rows of a CSV file below benchmarks/results. A run that was stopped goes on behind
the last arm that it finished; with other --steps, --pairs or --precision everything is trained anew.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import _adaptor
import _exits_arms as arms
import numpy as np
import torch
from _command import begin, finish, ledger_of, options
from _exits_arms import EXITS, LAST, MULTI, PEER, SINGLE, Recipe
from _record import Ledger, Row, by_seed, columns, pick, say
from torch import nn

from brickyard.core.embedding import TextEmbedder
from brickyard.modularize.exit_folder import save_exits
from brickyard.modularize.exits import EXIT

SECTIONS = ("tuning", "exits", "speed")
TESTS = ("stdlib", "CoSQA")
EARLY, DEEPEST = EXITS[:-1], EXITS[-1]
RATES = (5e-5, 1e-4)
HEAD_RATES = (1.0, 10.0, 30.0)  # of heads, as multiples; the middle one while the rest is chosen
TUNED_DEPTH = 2  # stands for all depths where rates of models with a single exit are chosen
TUNING_SEED = KEPT_SEED = 0  # of the settings that are chosen, and of the weights that are kept
FINALISTS, FINAL_SEEDS = 3, (0, 1, 2)  # settings of exits trained together that get more seeds, and these
ALLOWED = 0.01  # that the last exit may lose
RATIO, BITS = "time / that of a model with so many layers", "largest difference from encode"

# What is wanted of each figure, the worse of both test sets, means over seeds of differences of MRR.
TARGETS = {
    "mean_mrr_over_peer": "> 0",
    "last_exit_loss": "<= 0.01",
    "early_over_single": ">= 0",
    "early_over_last": "> 0",
    "speed_ratio": "<= 1.05",
    "cut_difference": "0",
}


def figures(ledger: Ledger) -> tuple[dict[str, float | None], str]:
    """Boil the rows down.

    Args:
        ledger: The rows of this run and of earlier ones.

    Returns:
        The figures by name, None where nothing was ever measured; and a table of them.
        `mean_mrr_over_peer`: mean MRR over exits, ours minus that of AdaptiveLayerLoss. `last_exit_loss`:
        MRR of the last exit when trained alone, minus ours. `early_over_single`: of early exits the least
        of our MRR minus that of a model trained for that depth; `early_over_last`: minus that of the same
        exit when the last is trained alone. `speed_ratio`: the highest of all exits.
    """
    rows = ledger.section("exits")

    def gap(method: str, exits: tuple[int, ...]) -> list[float]:
        """Return ours minus a method's, by exit, for the test sets one after the other."""
        found = []
        for group in TESTS:
            for exit in exits:
                ours, others = (
                    by_seed(pick(rows, method=name, metric="MRR", group=group, limit=str(exit)))
                    for name in (MULTI, method)
                )
                if ours and len(ours) == len(others):
                    found.append(float(np.mean(ours) - np.mean(others)))
        return found

    peer, last = gap(PEER, EXITS), gap(LAST, (DEEPEST,))
    single, same = gap(SINGLE, EARLY), gap(LAST, EARLY)
    means = [float(np.mean(peer[start : start + len(EXITS)])) for start in range(0, len(peer), len(EXITS))]
    speed = pick(ledger.section("speed"), metric=RATIO)
    bits = pick(ledger.section("speed"), metric=BITS)
    values: dict[str, float | None] = {
        "mean_mrr_over_peer": min(means, default=None),
        "last_exit_loss": -min(last) if last else None,
        "early_over_single": min(single, default=None),
        "early_over_last": min(same, default=None),
        "speed_ratio": max((row.value for row in speed), default=None),
        "cut_difference": max((row.value for row in bits), default=None),
    }
    lines = [("figure", "value", "wanted", "seeds", "source")]
    for name, value in values.items():
        behind = {"speed_ratio": speed, "cut_difference": bits}.get(name, rows)
        runs = {row.run for row in behind}
        source = (
            "this run" if runs == {ledger.run} else f"kept {min(runs)[:10]}" if runs else "never measured"
        )
        seeds = str(len({row.seed for row in behind}))
        lines.append((name, "-" if value is None else f"{value:.4f}", TARGETS[name], seeds, source))
    rounded = {name: None if value is None else float(f"{value:.4g}") for name, value in values.items()}
    return rounded, columns(lines)


def layout(ledger: Ledger, section: str) -> str:
    """Lay out a section with one column for each exit; means over seeds."""
    lines: list[tuple[str, ...]] = [
        ("method", "metric", "group", *(f"exit {exit}" for exit in EXITS), "mean", "seeds")
    ]
    rows = ledger.section(section)
    for key in dict.fromkeys((row.method, row.metric, row.group) for row in rows):
        held = [row for row in rows if (row.method, row.metric, row.group) == key]
        by_exit = {exit: [row.value for row in held if row.limit == str(exit)] for exit in EXITS}
        cells = [f"{np.mean(found):.3f}" if found else "-" for found in by_exit.values()]
        mean = np.mean([np.mean(found) for found in by_exit.values() if found])
        lines.append((*key, *cells, f"{mean:.3f}", str(len({row.seed for row in held}))))
    notes = sorted({f"{row.method}: {row.note}" for row in rows if row.note})
    return "\n".join([f"== {section}", columns(lines), *(f"  {note}" for note in notes)])


class Runs:
    """Trains arms that are not among the rows, and writes their rows."""

    def __init__(self, ledger: Ledger, arguments: argparse.Namespace) -> None:
        self.ledger, self.arguments = ledger, arguments

    def values(self, section: str, recipe: Recipe, seed: int) -> dict[int, float]:
        """Return the MRR of an arm by exit, on the validation pairs, or on the test pairs of stdlib."""
        sets = ("validation",) if section == "tuning" else TESTS
        method = f"{recipe.family}: {recipe.name}" if section == "tuning" else recipe.family
        exits = recipe.depths if recipe.family == SINGLE else EXITS
        rows = self._rows(section, method, seed, recipe.name)
        if len(rows) < 2 * len(sets) * len(exits):
            self._train(section, method, recipe, seed, sets)
            rows = self._rows(section, method, seed, recipe.name)
        return {int(row.limit): row.value for row in pick(rows, metric="MRR", group=sets[0])}

    def _rows(self, section: str, method: str, seed: int, name: str) -> list[Row]:
        """Return the rows of an arm that were measured with these settings, in this run or an earlier one."""
        every = [*self.ledger.earlier, *self.ledger.rows]
        mode, note = self.ledger.mode, self._note(name)
        rows = pick(every, section=section, method=method, seed=str(seed), mode=mode, note=note)
        return list({row.key: row for row in rows}.values())

    def _note(self, name: str) -> str:
        given = self.arguments
        return f"{name}; {given.steps} steps of {given.pairs} pairs, trained in {given.precision}"

    def _train(self, section: str, method: str, recipe: Recipe, seed: int, sets: tuple[str, ...]) -> None:
        given, start = self.arguments, time.perf_counter()
        done: list[tuple[str, str, int, float, int]] = []
        say(f"{section}: {method}, seed {seed}, {recipe.name}")
        runs = arms.train(
            recipe,
            seed,
            steps=given.steps,
            pairs=given.pairs,
            precision=given.precision,
            tell=lambda text: say(f"  {text}"),
        )
        for exits, encoder in runs:
            done += arms.measured(encoder, exits, sets)
            if section == "exits" and recipe.family == MULTI and seed == KEPT_SEED:
                folder = given.kept / f"exits-seed{seed}"
                if not folder.exists():
                    save_exits(encoder, folder, provenance={"benchmark": "exits", "seed": seed})
        for group, metric, exit, value, count in done:
            more = {"limit": str(exit), "seed": seed, "count": count, "note": self._note(recipe.name)}
            self.ledger.add(section, method, metric, value, group=group, precision=given.precision, **more)
        shown = " ".join(
            f"{group} {exit}: {value:.3f}" for group, metric, exit, value, _ in done if metric == "MRR"
        )
        say(f"  MRR {shown}; {time.perf_counter() - start:.0f} s")


def choose(runs: Runs) -> list[Recipe]:
    """Train what may be chosen and choose by validation pairs; nothing of the test pairs is looked at.

    The rate is that of the last exit trained alone. Of the settings of exits that are trained together those
    with the highest last exits get three seeds; then it is the highest mean MRR among those whose last exit
    loses at most 0.01, else the highest last exit. How fast heads learn is chosen for each family: by the
    last exit, by a single one, by the mean over exits that are trained together, whose last head may learn
    as fast as that of the last exit alone.
    """

    def tuned(recipe: Recipe, seeds: Sequence[int] = (TUNING_SEED,)) -> dict[int, float]:
        found = [runs.values("tuning", recipe, seed) for seed in seeds]
        return {exit: float(np.mean([one[exit] for one in found])) for exit in found[0]}

    def made(family: str, rate: float, heads: float) -> Recipe:
        words, settings = arms.rates(rate, heads)
        return Recipe(family=family, name=words, settings=settings)

    lone = {rate: made(LAST, rate, 1.0) for rate in RATES}
    rate = max(RATES, key=lambda rate: tuned(lone[rate])[DEEPEST])
    alone = [made(LAST, rate, heads) for heads in HEAD_RATES]
    last = max(alone, key=lambda recipe: tuned(recipe)[DEEPEST])
    singles = [
        Recipe(family=SINGLE, name=one.name, settings=one.settings, depths=(TUNED_DEPTH,))
        for one in (made(SINGLE, rate, heads) for heads in HEAD_RATES)
    ]
    single = max(singles, key=lambda recipe: tuned(recipe)[TUNED_DEPTH])
    every = sorted(multi_recipes(rate), key=lambda recipe: -tuned(recipe)[DEEPEST])
    final = {recipe.name: tuned(recipe, FINAL_SEEDS) for recipe in every[:FINALISTS]}
    goal = tuned(last, FINAL_SEEDS)[DEEPEST] - ALLOWED
    kept = [name for name, by_exit in final.items() if by_exit[DEEPEST] >= goal]
    if kept:
        name = max(kept, key=lambda name: float(np.mean(list(final[name].values()))))
    else:
        name = max(final, key=lambda name: final[name][DEEPEST])
    (multi,) = (recipe for recipe in every if recipe.name == name)
    words = multi.name.partition(", rate ")[0]
    heads = [arms.rates(rate, HEAD_RATES[-1]), arms.rates(rate, HEAD_RATES[-1], last.settings["head_rate"])]
    faster = [
        Recipe(family=MULTI, name=f"{words}, {name}", settings={**multi.settings, **more})
        for name, more in heads
    ]
    multi = max((multi, *faster), key=lambda recipe: float(np.mean(list(tuned(recipe).values()))))
    peer = Recipe(family=PEER, name=f"defaults, rate {rate:g}", settings={"learning_rate": rate})
    return [multi, last, peer, Recipe(family=SINGLE, name=single.name, settings=single.settings)]


def multi_recipes(rate: float) -> list[Recipe]:
    """Return the settings of exits that are trained together, from which one is chosen."""
    slow, fast = arms.rates(rate, 1.0), arms.rates(rate, HEAD_RATES[1])
    wanted = [
        ("depth", slow, {"weights": "depth"}),
        ("uniform", slow, {"weights": "uniform"}),
        ("depth, KL", slow, {"weights": "depth", "distill": "kl"}),
        ("depth, KL", fast, {"weights": "depth", "distill": "kl"}),
        ("uniform, KL", fast, {"weights": "uniform", "distill": "kl"}),
        ("depth squared, KL", fast, {"weights": arms.depth_squared, "distill": "kl"}),
        ("early 0.3, KL", fast, {"weights": arms.early_less, "distill": "kl"}),
        ("depth, KL x3", fast, {"weights": "depth", "distill": "kl", "distill_weight": 3.0}),
        ("early 0.3, KL x3", fast, {"weights": arms.early_less, "distill": "kl", "distill_weight": 3.0}),
    ]
    return [
        Recipe(family=MULTI, name=f"{words}, {rates[0]}", settings={**more, **rates[1]})
        for words, rates, more in wanted
    ]


def speed(ledger: Ledger, arguments: argparse.Namespace) -> None:
    """Compare exits with models of so many layers, in turns, and cuts with exits bit for bit."""
    from transformers import AutoModel

    rounds = 10 if arguments.quick else 30
    encoder = arms.fresh_encoder()
    with torch.no_grad():
        for one in encoder.network.root.get_submodule("head").parameters():
            one += 0.01 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    encoder.network.eval()
    texts = [code for _, code in _adaptor.stdlib_pairs()["test"][:32]]
    batch = encoder.tokens(texts[:8])
    for exit in EXITS:
        cut = encoder.truncate(exit)
        error = float((cut.encode(texts) - encoder.encode(texts, exit=exit)).abs().max())
        ledger.add("speed", "truncate", BITS, error, limit=str(exit), seed=0, count=len(texts))
        small = AutoModel.from_config(cut.module.backbone.config)
        plain = TextEmbedder(small, nn.Linear(encoder.embed_dim, encoder.embed_dim)).eval()
        plain.load_state_dict(cut.module.state_dict())

        def whole() -> None:
            encoder.network(**batch)

        def few(plain: nn.Module = plain) -> None:
            plain(**batch)

        with torch.inference_mode(), encoder.network.configured({EXIT: exit}):
            assert torch.equal(encoder.network(**batch), plain(**batch))
            ratios = [_seconds(whole) / _seconds(few) for _ in range(rounds)]
        value = float(np.median(ratios))
        ledger.add("speed", "an exit", RATIO, value, limit=str(exit), seed=0, count=rounds)
        say(f"speed: exit {exit} takes {value:.3f} of the time; largest difference of the cut {error:g}")


def _seconds(compute: Callable[[], None]) -> float:
    start = time.perf_counter()
    compute()
    return time.perf_counter() - start


def main() -> None:
    """Read the command line, measure, print tables (to stderr with --json) and the figures."""
    parser = options(__doc__, SECTIONS)
    parser.add_argument("--steps", type=int, default=arms.STEPS, help="optimizer steps of each training")
    parser.add_argument("--pairs", type=int, default=arms.PAIRS, help="pairs of a step")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of training")
    arguments = parser.parse_args()
    wanted = begin(arguments, SECTIONS, ["speed"])
    ledger = ledger_of(arguments, "exits")
    runs = Runs(ledger, arguments)
    if "speed" in wanted:
        speed(ledger, arguments)
    if arguments.quick:
        say("a quick run trains nothing; MRR is that of kept rows")
    elif "tuning" in wanted or "exits" in wanted:
        recipes = choose(runs)
        for seed in arguments.seeds if "exits" in wanted else []:
            for recipe in recipes:
                runs.values("exits", recipe, seed)
    finish(ledger, arguments, SECTIONS, figures, layout)


if __name__ == "__main__":
    main()
