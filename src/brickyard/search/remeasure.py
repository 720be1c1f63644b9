"""Measuring again what noise may have put on the front, by several workers at one study.

A measurement is a trial of its own that names the first trial of its point and how often that had been
measured before. Of two workers that want the same measurement, the one whose trial has the lower number makes
it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import TrialState, create_trial

from brickyard.search.params import params_of
from brickyard.search.repeats import to_repeat
from brickyard.search.storage import AGAIN, CONFIG, METRICS, take_up_stale

if TYPE_CHECKING:
    from brickyard.search.study import Evaluate, Found, Search

_ROUND = "measured_before"
_PATIENCE_S = 0.5


def tell_apart(search: Search, evaluate: Evaluate, repeats: int) -> None:
    """Measure points of the front and their rivals again, until they are told apart.

    Args:
        search: The search, all of whose points are evaluated.
        evaluate: Measures a config; what it raises is raised.
        repeats: Most measurements of a point.

    Raises:
        ConfigError: A measurement lacks a number or gives one that is not finite.
    """
    while True:
        take_up_stale(search.study)
        running = search.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        running = [trial for trial in running if AGAIN in trial.user_attrs]
        search.free_the_silent(running)
        held = {trial.user_attrs[AGAIN] for trial in running}
        free = [point for point in _wanted(search, repeats) if point.number not in held]
        if free:
            _measure(search, free[0], evaluate)
        elif held:
            time.sleep(_PATIENCE_S)
        else:
            return


def _wanted(search: Search, repeats: int) -> list[Found]:
    points = [point for point in search.found() if point.feasible]
    names = [objective.name for objective in search.objectives]
    signs = np.array([-1.0 if objective.maximize else 1.0 for objective in search.objectives])
    measured = [np.array([[one[name] for name in names] for one in point.measurements]) for point in points]
    return [points[place] for place in to_repeat([values * signs for values in measured], repeats)]


def _measure(search: Search, point: Found, evaluate: Evaluate) -> None:
    """Measure a point again, unless another worker has just begun to."""
    study, storage, before = search.study, search.study._storage, len(point.measurements)
    template = create_trial(
        state=TrialState.RUNNING,
        params=params_of(search.space, point.config),
        distributions=search.distributions,
        user_attrs={CONFIG: point.config.to_json(), AGAIN: point.number, _ROUND: before},
    )
    identity = storage.create_new_trial(study._study_id, template)
    number = storage.get_trial_number_from_id(identity)
    with get_heartbeat_thread(identity, storage):
        others = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.COMPLETE))
        same = [t for t in others if t.number < number and t.user_attrs.get(AGAIN) == point.number]
        if any(other.user_attrs[_ROUND] >= before for other in same):
            study.tell(number, state=TrialState.PRUNED)
            return
        try:
            values = search.checked(evaluate(point.config))
        except BaseException:
            with suppress(ValueError, UpdateFinishedTrialError):
                study.tell(number, state=TrialState.FAIL)
            raise
        with suppress(UpdateFinishedTrialError):  # it took so long that it counts as dead
            storage.set_trial_user_attr(identity, METRICS, values)
            study.tell(number, [values[objective.name] for objective in search.objectives])
