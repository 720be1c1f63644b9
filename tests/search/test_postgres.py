"""Four workers at one study in a real PostgreSQL that the test starts; skipped where it is not installed."""

import gc
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from brickyard.search import Search, run

TASK = Path(__file__).with_name("worker_task.py")
sys.path.insert(0, str(TASK.parent))  # the processes find the functions by their module

from worker_task import LOG, SPACE, logged  # noqa: E402


def programs() -> Path | None:
    """Folder of the server's programs: Debian keeps them out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    found = shutil.which("postgres")
    return folders[-1] if folders else (Path(found).resolve().parent if found else None)


def other_user() -> dict:
    """The server refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@pytest.fixture
def address() -> Iterator[str]:
    """Address of a database of a server that listens at a socket in its own folder."""
    folder = programs()
    if folder is None or find_spec("psycopg") is None:
        pytest.skip("PostgreSQL or its driver is not installed")
    home = Path(tempfile.mkdtemp(prefix="brickyard"))
    user = other_user()
    if user:
        os.chown(home, user["user"], user["group"])
    more = {**user, "cwd": home, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(
        [folder / "initdb", "-D", home / "db", "-U", "brick", "-A", "trust", "--no-sync"], check=True, **more
    )
    server = subprocess.Popen(
        [folder / "postgres", "-D", home / "db", "-k", home, "-F", "-c", "listen_addresses="], **more
    )
    try:
        while not (home / ".s.PGSQL.5432").exists():
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
        yield f"postgresql+psycopg://brick@/postgres?host={home}"
    finally:
        gc.collect()  # connections that nobody closed
        server.send_signal(signal.SIGINT)  # ends without waiting for those who are connected
        server.wait(30)
        shutil.rmtree(home)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function BaseConnection.__del__")
def test_four_workers_evaluate_every_point_once(address, tmp_path, monkeypatch):
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    arguments = {"space": SPACE, "objectives": ["error", "macs"], "storage": address}
    result = run(**arguments, evaluate=logged, evaluations=60, workers=4)
    begun = Counter((tmp_path / "log").read_text().splitlines())
    assert set(begun.values()) == {1}
    assert {point.config.digest() for point in result.points} == set(begun)
    assert len(begun) == 60
    more = run(**arguments, evaluate=logged, evaluations=62)
    assert more.points[:60] == result.points
    assert len(Search(**arguments).found()) == 62
