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
        ({"mask_rate": 0.0}, "mask_rate = 0.0 must be above 0"),
        ({"arm": "supsup"}, "weight_epochs = 10 does not go with arm 'supsup'"),
        ({"weight_epochs": 0}, "weight_epochs = 0 does not go with arm 'exssnet'"),
        ({"weight_epochs": -1, "arm": "ssnet"}, "weight_epochs = -1 does not go"),
    ],
)
def test_what_does_not_go_is_refused(arguments, message):
    with pytest.raises(TrainError, match=message):
        LearnSettings(**arguments)


def test_settings_survive_json():
    settings = LearnSettings(arm="supsup", weight_epochs=0, seed=3)
    assert LearnSettings(**json.loads(json.dumps(settings.to_json()))) == settings
