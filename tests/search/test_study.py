"""A study whose evaluations are noisy, and whose workers come too late."""

import threading
from collections import Counter

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage

from brickyard.core.decision import Choice
from brickyard.core.errors import ConfigError
from brickyard.core.space import Space
from brickyard.search import Search, run

SMALL = Space([Choice("depth", [1, 2, 3, 4])])


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(optuna.logging.INFO)


TRUE = {1: 2.0, 2: 1.15, 3: 1.0, 4: 1.1}


class Noisy:
    """Depth 3 is the best, by less than the noise."""

    def __init__(self, seed: int = 0) -> None:
        self.rng, self.lock = np.random.default_rng(seed), threading.Lock()
        self.calls: Counter[int] = Counter()

    def __call__(self, config):
        with self.lock:
            self.calls[config["depth"]] += 1
            return {"error": TRUE[config["depth"]] + self.rng.normal(0.0, 0.15)}


def test_points_closer_than_the_noise_are_measured_until_they_are_told_apart(tmp_path):
    arguments = {"space": SMALL, "objectives": ["error"], "evaluations": 4, "storage": tmp_path / "a.db"}
    noisy = Noisy()
    result = run(**arguments, evaluate=noisy, repeats=60)
    assert result.front[0].config["depth"] == 3
    assert noisy.calls[1] <= 3  # far from the others
    assert noisy.calls[3] > 5
    for point in result.points:
        assert len(point.measurements) == noisy.calls[point.config["depth"]] <= 60
        mean = np.mean([one["error"] for one in point.measurements])
        assert point.metrics["error"] == pytest.approx(mean)
    again = run(**arguments, evaluate=noisy, repeats=60)
    assert again.points == result.points
    assert result.to_json()["front"][0]["measurements"] == noisy.calls[3]


def test_the_limit_of_repeats_is_kept_by_several_workers(tmp_path):
    noisy, storage = Noisy(), tmp_path / "a.db"
    Search(space=SMALL, objectives=["error"], storage=storage)

    def work() -> None:
        search = Search(space=SMALL, objectives=["error"], storage=storage, sampler="random")
        search.run(noisy, evaluations=4, repeats=5)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    points = Search(space=SMALL, objectives=["error"], storage=storage).found()
    assert {point.config["depth"]: len(point.measurements) for point in points} == dict(noisy.calls)
    assert max(noisy.calls.values()) == 5


def test_exact_numbers_are_measured_twice_at_the_most():
    calls: Counter[int] = Counter()

    def evaluate(config):
        calls[config["depth"]] += 1
        return {"error": 5.0 - config["depth"], "macs": float(config["depth"])}

    run(space=SMALL, evaluate=evaluate, objectives=["error", "macs"], evaluations=4, repeats=9)
    assert set(calls.values()) == {2}  # all are on the front
    with pytest.raises(ConfigError, match="repeats = 0 must be at least 1"):
        run(space=SMALL, evaluate=evaluate, objectives=["error"], evaluations=4, repeats=0)


def test_a_measurement_that_fails_is_made_when_the_search_goes_on():
    calls: list[int] = []

    def evaluate(config):
        calls.append(config["depth"])
        if len(calls) == 5:
            raise OSError("the device is gone")
        return {"error": 5.0 - config["depth"], "macs": float(config["depth"])}

    more = {"objectives": ["error", "macs"], "storage": InMemoryStorage(), "evaluations": 4, "repeats": 2}
    with pytest.raises(OSError, match="the device is gone"):
        run(space=SMALL, evaluate=evaluate, **more)
    result = run(space=SMALL, evaluate=evaluate, **more)
    assert [len(point.measurements) for point in result.points] == [2, 2, 2, 2]
    assert len(calls) == 9


def test_who_comes_too_late_goes_on_with_another_point(tmp_path):
    seen: list[int] = []

    def evaluate(config):
        seen.append(config["depth"])
        if len(seen) == 1:  # another worker takes this one for dead, and the point over
            other = Search(space=SMALL, objectives=["error"], storage=tmp_path / "a.db")
            number = other.study.trials[-1].number
            other.study.tell(number, state=optuna.trial.TrialState.FAIL)
            other.seed_with([config])
            other.study.enqueue_trial(dict(config))
        return {"error": float(config["depth"])}

    search = Search(space=SMALL, objectives=["error"], storage=tmp_path / "a.db", sampler="random")
    search.run(evaluate, evaluations=4)
    assert len(search.found()) == 4
    assert Counter(seen)[seen[0]] == 2


@pytest.mark.parametrize("sampler", ["linas", "nsga2"])
def test_a_trial_that_is_not_evaluated_says_nothing_of_limits(sampler):
    search = Search(
        space=SMALL, objectives=["error"], limits={"macs": 3.0}, sampler=sampler, storage=InMemoryStorage()
    )
    trial, _ = search.ask()
    search.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    search.run(lambda c: {"error": -c["depth"], "macs": c["depth"]}, evaluations=3, repeats=2)
    assert len(search.found()) == 3


def test_a_point_in_line_is_left_to_who_takes_it_up():
    search = Search(space=SMALL, objectives=["error"], storage=InMemoryStorage(), sampler="random")
    search.seed_with([{"depth": 2}])
    assert [trial.number for trial in search._before(1).values()] == [0]
    assert search._before(0) == {}


def test_who_was_taken_for_dead_before_the_evaluation_goes_on(tmp_path):
    search = Search(space=SMALL, objectives=["error"], storage=tmp_path / "a.db", sampler="random")
    before, dead = search._before, []

    def slow(number):
        if not dead:
            dead.append(number)
            Search(space=SMALL, objectives=["error"], storage=tmp_path / "a.db").study.tell(
                number, state=optuna.trial.TrialState.FAIL
            )
        return before(number)

    search._before = slow
    search.run(lambda config: {"error": float(config["depth"])}, evaluations=4)
    assert len(search.found()) == 4
