"""Configs survive the way through a trial's parameters."""

import random

import optuna
import pytest

from brickyard.core.errors import ConfigError
from brickyard.core.space import Space
from brickyard.search.params import config_of, distributions, params_of


def test_round_trip(space: Space):
    known = distributions(space)
    assert list(known) == ["depth", "width", "act", "parts[0]", "parts[1]", "parts[2]", "parts[3]"]
    for seed in range(30):
        config = space.sample(random.Random(seed))
        params = params_of(space, config)
        assert all(
            known[name]._contains(known[name].to_internal_repr(value)) for name, value in params.items()
        )
        assert config_of(space, params) == config


def test_a_subset_below_its_minimum_gets_its_first_bricks():
    from brickyard.core.decision import Subset

    space = Space([Subset("heads", 4, minimum=2)])
    params = {"heads[0]": False, "heads[1]": False, "heads[2]": False, "heads[3]": True}
    assert config_of(space, params)["heads"] == (0, 3)


def test_a_trial_of_optuna_takes_the_parameters(space: Space):
    study = optuna.create_study()
    study.enqueue_trial(params_of(space, space.largest()))
    trial = study.ask(distributions(space))
    assert config_of(space, trial.params) == space.largest()


def test_illegal_configs_are_refused(space: Space):
    with pytest.raises(ConfigError, match="depth = 9 is not allowed"):
        params_of(space, {**space.largest(), "depth": 9})
