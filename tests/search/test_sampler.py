"""The sampler passes Optuna's own tests, in threads too, and can be sent to another process."""

import copy
import time
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from brickyard.core.errors import ConfigError
from brickyard.search.genes import Genes
from brickyard.search.known import Known
from brickyard.search.propose import Proposer
from brickyard.search.sampler import LinasSampler
from brickyard.search.transfer import Lesson


class TestLinasSampler(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: LinasSampler(startup=5, batch_size=3, seed=0)


class TestNarrowingSampler(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: LinasSampler(startup=5, batch_size=3, narrow=True, seed=0)


def test_threads_of_one_study_take_turns(monkeypatch):
    inside, most = [], []
    propose = Proposer.__call__

    def watched(self, known, count, rng):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        found = propose(self, known, count, rng)
        inside.pop()
        return found

    monkeypatch.setattr(Proposer, "__call__", watched)
    study = optuna.create_study(sampler=LinasSampler(startup=2, batch_size=1, seed=0))
    study.optimize(lambda t: sum(t.suggest_int(f"x{i}", 0, 5) for i in range(4)), n_trials=16, n_jobs=4)
    assert len(most) > 4
    assert max(most) == 1


def test_a_sampler_can_be_sent_to_another_process():
    sampler = copy.deepcopy(LinasSampler(startup=2, seed=3))
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda t: t.suggest_int("x", 0, 50), n_trials=6)
    assert len({trial.params["x"] for trial in study.trials}) == 6


def test_points_measured_more_than_once_count_once_with_their_mean():
    study = optuna.create_study()
    distributions = {"x": optuna.distributions.IntDistribution(0, 3)}
    for x, value in ((1, 4.0), (2, 1.0), (1, 6.0)):
        study.add_trial(optuna.create_trial(params={"x": x}, distributions=distributions, value=value))
    asked = study.ask()
    known = Known(Genes(distributions), np.ones(1), lambda trial: ())(study.trials, but=asked.number)
    assert known.rows.tolist() == [[1.0], [2.0]]
    assert known.values.tolist() == [[5.0], [1.0]]


def test_an_earlier_study_of_other_numbers_is_refused():
    earlier = Lesson(params=({"x": 1}, {"x": 2}), values=(None,))
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=LinasSampler(startup=2, warm_start=earlier)
    )
    with pytest.raises(ConfigError, match="warm_start tells of 1 numbers; the study has 2 objectives"):
        study.optimize(lambda t: (t.suggest_int("x", 0, 9), 1.0), n_trials=4)
