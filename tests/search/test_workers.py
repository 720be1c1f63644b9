"""Several processes at one study; killed ones lose nothing that was finished."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brickyard.core.errors import ConfigError, SearchError
from brickyard.search import Search, run

TASK = Path(__file__).with_name("worker_task.py")
sys.path.insert(0, str(TASK.parent))  # the processes find the functions by their module

from worker_task import SPACE, broken, evaluate  # noqa: E402


def test_two_processes_share_the_work(tmp_path):
    result = run(
        space=SPACE,
        evaluate=evaluate,
        objectives=["error", "macs"],
        evaluations=24,
        storage=tmp_path / "study.db",
        workers=2,
    )
    configs = [point.config for point in result.points]
    assert len(configs) == len(set(configs)) == 24
    assert {SPACE.largest(), SPACE.smallest()} <= set(configs)


def test_killed_workers_lose_nothing(tmp_path):
    database, wanted = tmp_path / "study.db", 60
    Search(space=SPACE, objectives=["error", "macs"], storage=database)
    rng = random.Random(0)

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(TASK), str(database), str(wanted)], stderr=subprocess.PIPE
        )

    workers = [start(), start()]
    for _ in range(4):
        time.sleep(rng.uniform(0.3, 0.8) + 1.5)
        place = rng.randrange(2)
        workers[place].send_signal(signal.SIGKILL)
        workers[place].communicate()
        workers[place] = start()
    for worker in workers:
        _, said = worker.communicate(timeout=120)
        assert worker.returncode == 0, said.decode()
    points = Search(space=SPACE, objectives=["error", "macs"], storage=database).found()
    configs = [point.config for point in points]
    assert len(configs) == len(set(configs)) == wanted
    assert all(point.metrics == evaluate(point.config) for point in points)


def test_what_workers_cannot_be_given_is_said(tmp_path):
    more = {"space": SPACE, "objectives": ["error"], "evaluations": 3, "workers": 2}
    with pytest.raises(ConfigError, match="several workers need a storage that they share"):
        run(**more, evaluate=evaluate)
    with pytest.raises(
        ConfigError, match=r"workers cannot be handed .*<lambda>; use a function at the top of a module"
    ):
        run(**more, evaluate=lambda config: {}, storage=tmp_path / "a.db")
    with pytest.raises(ConfigError, match="workers = 0 must be at least 1"):
        run(**{**more, "workers": 0}, evaluate=evaluate)


def test_when_all_workers_fail_it_is_said(tmp_path):
    with pytest.raises(SearchError, match=r"all 2 workers ended \(exit codes \[1, 1\]\) with 0 of 3 points"):
        run(
            space=SPACE,
            evaluate=broken,
            objectives=["error"],
            evaluations=3,
            storage=tmp_path / "a.db",
            workers=2,
        )
