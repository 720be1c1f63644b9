"""Two workers never begin the same waiting trial, whatever the database."""

import threading
from collections import Counter

import optuna
import pytest

from brickyard.core.errors import ConfigError
from brickyard.search.storage import open_storage


def test_a_waiting_trial_is_begun_by_one_worker_only(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=open_storage(tmp_path / "a.db"), study_name="a")
    for number in range(40):
        study.enqueue_trial({"x": number})
    begun: list[int] = []
    ready = threading.Barrier(4)

    def work() -> None:
        own = optuna.load_study(storage=open_storage(tmp_path / "a.db"), study_name="a")
        ready.wait()
        while (identity := own._pop_waiting_trial_id()) is not None:
            begun.append(identity)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    assert set(Counter(begun).values()) == {1}
    assert len(begun) == 40


def test_heartbeats_have_a_length(tmp_path):
    with pytest.raises(ConfigError, match="heartbeat_s = 0 must be at least 1"):
        open_storage(tmp_path / "a.db", heartbeat_s=0)
