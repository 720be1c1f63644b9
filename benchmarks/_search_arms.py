"""The methods that are compared: ours through the public interface, and the peers, each on its own defaults.

A method gets a problem's recorder, which evaluates one cell after the other and ends the method when it has
seen enough, and a seed. Peers of libraries are imported where they run.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from _search_dynast import LINAS_NEEDS, linas
from _search_tables import EnoughError, Problem, Recorder, one_hot

OURS, UNTOLD = "ours", "ours, reference point not told"
OURS_SETTINGS: dict[str, Any] = {}
"""What `brickyard.search.run` is told besides the space, the evaluation, the objectives and the seed."""


_UNUSED = ("narrow", "transfer")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A method.

    Attributes:
        name: Its name.
        run: Evaluates cells by a recorder until that ends it, from a seed.
        seeds: Seeds it is measured with in a full run.
        budget: Cells that it may evaluate.
        needs: Packages that must be there, as their distributions are named.
    """

    name: str
    run: Callable[[Recorder, int], None]
    seeds: int
    budget: int
    needs: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """Packages that are not there."""
        return [name for name in self.needs if _version(name) is None]

    @property
    def version(self) -> str:
        """What of the code its results depend on, as a short text."""
        if self.name in (OURS, UNTOLD):
            return f"brickyard.search {own_digest()}"
        return " ".join(f"{name} {_version(name)}" for name in self.needs) or "benchmarks"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def own_digest() -> str:
    """Return a digest of the code behind the sampler: comments and docstrings do not count, settings do."""
    spec = find_spec("brickyard.search")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    found = hashlib.sha256(repr(sorted(OURS_SETTINGS.items())).encode())
    for path in sorted(_imported(root, ["sampler", "cells"])):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_text(body[0]):
                body[0] = ast.Pass()
        found.update(ast.dump(tree).encode())
    return found.hexdigest()[:8]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _imported(root: Path, names: Sequence[str]) -> set[Path]:
    """Return the files of modules of the search package and of all that they import of it.

    Transfer and narrowing are left out, for nothing of what is compared asks for them.
    """
    waiting, found = list(names), set()
    while waiting:
        name = waiting.pop()
        paths = [root.joinpath(*name.split(".")).with_suffix(".py")]
        if root.joinpath(*name.split(".")).is_dir():
            paths = sorted(root.joinpath(*name.split(".")).glob("*.py"))
        for path in paths:
            if path.is_file() and path not in found and path.stem not in _UNUSED:
                found.add(path)
                waiting += [
                    node.module.removeprefix("brickyard.search.")
                    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                    if isinstance(node, ast.ImportFrom)
                    and (node.module or "").startswith("brickyard.search.")
                    and node.module
                ]
    return found


def run_arm(arm: Arm, problem: Problem, seed: int, recorder: Recorder) -> list[int]:
    """Run a method and return the cells it evaluated, each once, in order.

    Args:
        arm: The method.
        problem: The problem.
        seed: Seed of all its draws.
        recorder: Evaluates, and ends the method.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries that are compared warn of interfaces that may change
        with suppress(EnoughError):
            arm.run(recorder, seed)
    return recorder.order


def ours_with(recorder: Recorder, seed: int, **more: Any) -> None:
    """Search by `brickyard.search.run` until the recorder ends it; fronts are told their reference point.

    Args:
        recorder: Evaluates.
        seed: Seed of the sampler.
        more: Further arguments of `run`.
    """
    import optuna

    from brickyard.search import Objective, run

    problem = recorder.problem
    names = [f"objective{place}" for place in range(problem.num_objectives)]
    if problem.num_objectives > 1:
        more.setdefault("reference", problem.reference.tolist())

    def evaluate(config: Any) -> dict[str, float]:
        return dict(zip(names, recorder(problem.table.cell(config)).tolist(), strict=True))

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    run(
        space=problem.space,
        evaluate=evaluate,
        objectives=[Objective(name, maximize=False) for name in names],
        evaluations=problem.space.size,  # the recorder ends it, since only cells of the table count
        encodings=problem.encodings,
        seed=seed,
        **OURS_SETTINGS,
        **more,
    )


def _untold(recorder: Recorder, seed: int) -> None:
    ours_with(recorder, seed, reference=None)


def _random(recorder: Recorder, seed: int) -> None:
    ops = recorder.problem.table.ops
    for index in np.random.default_rng(seed).permutation(len(ops)):
        recorder(ops[index])


def nsga2_on(
    sizes: Sequence[int], evaluate: Callable[[Sequence[int]], Any], num_objectives: int, seed: int
) -> None:
    """Run NSGA-II of pymoo on whole numbers: 50 points, its usual operators, rounded (as arXiv 2205.10358).

    Args:
        sizes: Number of values of each variable.
        evaluate: From the place of each value to the objectives, the smaller the better; ends the run by an
            error.
        num_objectives: Number of objectives.
        seed: Seed of all draws.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as Base
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    class Cells(Base):  # type: ignore[misc]
        def __init__(self) -> None:
            upper = np.array(sizes) - 1
            super().__init__(n_var=len(sizes), n_obj=num_objectives, xl=0, xu=upper, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = np.array([evaluate([int(place) for place in row]) for row in x])

    algorithm = NSGA2(
        pop_size=50,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=20, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    minimize(Cells(), algorithm, ("n_gen", 10_000), seed=seed, verbose=False)


def _pymoo_nsga2(recorder: Recorder, seed: int) -> None:
    choices = [np.unique(column) for column in recorder.problem.table.ops.T]

    def evaluate(places: Sequence[int]) -> Any:
        return recorder([ops[place] for ops, place in zip(choices, places, strict=True)])

    nsga2_on([len(ops) for ops in choices], evaluate, recorder.problem.num_objectives, seed)


def _optuna(make: Callable[[int], Any]) -> Callable[[Recorder, int], None]:
    def run(recorder: Recorder, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        table = recorder.problem.table
        choices = {decision.name: list(decision.values) for decision in recorder.problem.space}  # type: ignore[attr-defined]

        def evaluate(trial: Any) -> list[float]:
            chosen = {name: trial.suggest_categorical(name, values) for name, values in choices.items()}
            values: list[float] = recorder(table.cell(chosen)).tolist()
            return values

        study = optuna.create_study(
            directions=["minimize"] * recorder.problem.num_objectives, sampler=make(seed)
        )
        study.optimize(evaluate)

    return run


def _optuna_nsga2(seed: int) -> Any:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed)


def _optuna_tpe(seed: int) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed)


def _optuna_gp(seed: int) -> Any:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed)


def _qnehvi(recorder: Recorder, seed: int) -> None:
    """Noisy expected hypervolume improvement of BoTorch (arXiv 2105.08195).

    Not its logarithm, for which the library compiles C++ first and which ranks listed cells the same. One
    Gaussian process on one-hot features for each objective, 15 random cells first, then batches of five from
    500 random cells and all that differ in one operation from one of the front. It needs a reference point;
    it gets that of the problem.
    """
    import torch
    from botorch.acquisition.multi_objective.monte_carlo import qNoisyExpectedHypervolumeImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.optim import optimize_acqf_discrete
    from botorch.sampling import SobolQMCNormalSampler
    from botorch.utils.multi_objective.pareto import is_non_dominated
    from gpytorch.mlls import SumMarginalLogLikelihood

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    ops = recorder.problem.table.ops
    features = torch.tensor(one_hot(ops), dtype=torch.double)
    done = [int(index) for index in rng.permutation(len(ops))[:15]]
    values = [recorder(ops[index]) for index in done]
    while len(done) < len(ops):
        y = -torch.tensor(np.array(values), dtype=torch.double)
        best = is_non_dominated(y)
        model = ModelListGP(*(SingleTaskGP(features[done], y[:, [place]]) for place in range(y.shape[1])))
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        acquisition = qNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=-torch.tensor(recorder.problem.reference, dtype=torch.double),
            X_baseline=features[done],
            sampler=SobolQMCNormalSampler(sample_shape=torch.Size([64]), seed=seed),
            prune_baseline=True,
        )
        free = np.setdiff1d(np.arange(len(ops)), done)
        front = ops[done][best.numpy()]
        near = ((ops[free][:, None] != front[None]).sum(2) == 1).any(1)
        pool = np.union1d(free[near], rng.permutation(free)[:500])
        picked, _ = optimize_acqf_discrete(
            acquisition, q=min(5, len(pool)), choices=features[pool], max_batch_size=512
        )
        for row in picked:
            index = int(pool[int((features[pool] == row).all(1).nonzero()[0])])
            done.append(index)
            values.append(recorder(ops[index]))


def arms() -> Iterator[Arm]:
    """Yield the methods for fronts; dear ones get fewer seeds and cells."""
    yield Arm(name=OURS, run=ours_with, seeds=20, budget=500, needs=("optuna", "pymoo"))
    yield Arm(name=UNTOLD, run=_untold, seeds=20, budget=500, needs=("optuna", "pymoo"))
    yield Arm(name="random", run=_random, seeds=20, budget=2000, needs=())
    yield Arm(name="pymoo NSGA-II", run=_pymoo_nsga2, seeds=20, budget=2000, needs=("pymoo",))
    yield Arm(name="optuna NSGA-II", run=_optuna(_optuna_nsga2), seeds=20, budget=2000, needs=("optuna",))
    yield Arm(name="optuna TPE", run=_optuna(_optuna_tpe), seeds=20, budget=500, needs=("optuna",))
    yield Arm(name="optuna GP", run=_optuna(_optuna_gp), seeds=3, budget=300, needs=("optuna", "torch"))
    yield Arm(name="BoTorch qNEHVI", run=_qnehvi, seeds=3, budget=300, needs=("botorch",))
    yield Arm(name="DyNAS-T LINAS", run=linas, seeds=3, budget=500, needs=LINAS_NEEDS)


def single_arms() -> Iterator[Arm]:
    """Yield the methods for the best cell."""
    from _search_single import regularised_evolution, weak_predictors

    yield Arm(name=OURS, run=ours_with, seeds=50, budget=300, needs=("optuna", "pymoo"))
    yield Arm(name="optuna TPE", run=_optuna(_optuna_tpe), seeds=20, budget=300, needs=("optuna",))
    yield Arm(name="optuna GP", run=_optuna(_optuna_gp), seeds=10, budget=300, needs=("optuna", "torch"))
    yield Arm(name="regularised evolution", run=regularised_evolution, seeds=50, budget=600, needs=())
    yield Arm(name="WeakNAS loop", run=weak_predictors, seeds=10, budget=600, needs=("scikit-learn",))
