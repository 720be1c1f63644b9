"""Settings are checked whole."""

import json

import pytest

from brickyard.continual import LearnSettings
from brickyard.core.errors import TrainError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arm": "packnet"}, "arm = 'packnet' is not one of exssnet, ssnet, supsup"),
        ({"transfer": "always"}, "transfer = 'always' is not one of off, best, average"),
        ({"mask_epochs": 0}, "mask_epochs = 0 must be at least 1"),
        ({"mask_rate": 0.0}, "mask_rate = 0.0 must be above 0 and finite"),
        ({"mask_rate": float("inf")}, "mask_rate = inf must be above 0 and finite"),
        ({"weight_rate": float("nan")}, "weight_rate = nan must be above 0 and finite"),
        ({"own_rate": 0.0}, "own_rate = 0.0 must be above 0 and finite"),
        ({"own_rate": "fast"}, "own_rate = 'fast' must be a number"),
        ({"weight_rate": "fast"}, "weight_rate = 'fast' must be a number"),
        ({"mask_epochs": 1.5}, "mask_epochs = 1.5 must be a whole number"),
        ({"weight_epochs": 1.5}, "weight_epochs = 1.5 must be a whole number"),
        ({"batch_size": 2.5}, "batch_size = 2.5 must be a whole number"),
        ({"batch_size": True}, "batch_size = True must be a whole number"),
        ({"seed": -1}, "seed = -1 must be at least 0"),
        ({"seed": 0.5}, "seed = 0.5 must be a whole number"),
        ({"arm": "supsup"}, "weight_epochs = 10 does not go with arm 'supsup'"),
        ({"weight_epochs": 0}, "weight_epochs = 0 does not go with arm 'exssnet'"),
        ({"weight_epochs": -1, "arm": "ssnet"}, "weight_epochs = -1 does not go"),
        ({"weight_epochs": -1, "joint": True}, "weight_epochs = -1 does not go"),
        ({"joint": 1}, "joint = 1 must be True or False"),
        ({"joint": True, "arm": "supsup", "weight_epochs": 0}, "joint does not go with arm 'supsup'"),
    ],
)
def test_what_does_not_go_is_refused(arguments, message):
    with pytest.raises(TrainError, match=message):
        LearnSettings(**arguments)


def test_settings_survive_json():
    settings = LearnSettings(arm="supsup", weight_epochs=0, seed=3)
    assert LearnSettings(**json.loads(json.dumps(settings.to_json()))) == settings
