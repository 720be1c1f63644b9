"""What every predictor promises."""

import numpy as np
import pytest

from brickyard.search.predictors import PREDICTORS, select
from brickyard.search.predictors.base import Apart, together
from brickyard.search.predictors.select import held_out, rank_correlation


def cost(x):
    return 3.0 + 20.0 * x[:, 0] + 8.0 * x[:, 1] + 4.0 * x[:, 0] * x[:, 2]


@pytest.mark.parametrize("name", sorted(PREDICTORS))
def test_learns_a_cost_and_repeats_itself(name, rng):
    x, points = rng.random((80, 5)), rng.random((60, 5))
    found = [PREDICTORS[name](3).fit(x, cost(x)).predict(points) for _ in range(2)]
    assert (found[0][0] == found[1][0]).all()
    mean, deviation = found[0]
    assert rank_correlation(mean, cost(points)) > 0.9
    assert mean.shape == deviation.shape == (60,)
    assert (deviation > 0).all()


@pytest.mark.parametrize("name", sorted(PREDICTORS))
def test_a_fit_can_go_on_without_tuning(name, rng):
    x = rng.random((40, 5))
    predictor = PREDICTORS[name](0).fit(x[:30], cost(x[:30]))
    predictor.fit(x, cost(x), tune=False)
    assert rank_correlation(predictor.predict(x)[0], cost(x)) > 0.9


def test_the_better_choice_is_selected(rng):
    x = rng.random((60, 4))
    y = cost(x) + 0.01 * rng.standard_normal(60)
    makers = {name: (lambda make=PREDICTORS[name]: make(0)) for name in ("ridge", "boosting")}
    found = select(makers, {"all": x, "useless": rng.random((60, 4))}, y, seed=0)
    assert len(found) == 4
    assert (found[0].predictor, found[0].encoding) == ("ridge", "all")
    assert found[-1].encoding == "useless"
    best = found[0]
    assert best.rank_interval[0] <= best.rank_correlation <= best.rank_interval[1]
    assert best.error_interval[0] <= best.error <= best.error_interval[1]
    assert best.count == 60


def test_held_out_predictions_never_saw_their_point():
    class Nearest:
        """Repeats what it was fitted to, and knows nothing else."""

        def fit(self, x, y, *, tune=True):
            self.known = {tuple(row): value for row, value in zip(x, y, strict=True)}
            return self

        def predict(self, x):
            return np.array([self.known.get(tuple(row), -1.0) for row in x]), np.ones(len(x))

    x = np.arange(11.0)[:, None]
    assert (held_out(Nearest, x, np.arange(11.0), seed=0) == -1).all()


def test_predictors_without_covariance_stand_apart(rng):
    x = rng.random((30, 3))
    found = together(PREDICTORS["ridge"](0).fit(x, cost(x)), x)
    assert isinstance(found, Apart)
    before = found.deviation.copy()
    found.suppose(4)
    assert found.deviation[4] < 1e-8
    assert (np.delete(found.deviation, 4) == np.delete(before, 4)).all()


def test_rank_correlation():
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(a, a**3) == pytest.approx(1.0)
    assert rank_correlation(a, -a) == pytest.approx(-1.0)
    assert rank_correlation(a, np.ones(4)) == 0.0
