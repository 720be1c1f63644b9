"""Storages of studies: databases in which a worker that died is noticed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial
from sqlalchemy import event, text
from sqlalchemy.engine import Connection, Engine

from brickyard.core.errors import ConfigError, MissingExtraError

METRICS, CONFIG = "metrics", "config"
"""Attributes of a trial: what its evaluation gave, and the config."""

AGAIN = "measures_again"
"""Attribute of a trial that measures the point of an earlier one again: the number of that one."""

_HEARTBEAT_S = 10


class _TakeUp(RetryHeartbeatStaleTrialCallback):
    """Puts the point of a dead worker in line; what was to be measured again is found anew without."""

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if AGAIN not in trial.user_attrs:
            super().__call__(study, trial)


def open_storage(
    storage: str | Path | BaseStorage | None, *, heartbeat_s: int = _HEARTBEAT_S
) -> BaseStorage | None:
    """Open a storage in which a worker that died is noticed and its trial is taken up by another.

    Args:
        storage: Address, path of an SQLite file, storage of Optuna, or None for memory.
        heartbeat_s: Seconds between the signs of life of a worker, at least 1; it counts as dead after three
            without one.

    Raises:
        ConfigError: `heartbeat_s` is out of range.
        MissingExtraError: The driver of the database is not installed.
    """
    if heartbeat_s < 1:
        raise ConfigError(
            f"heartbeat_s = {heartbeat_s} must be at least 1", path="heartbeat_s", value=heartbeat_s
        )
    if storage is None or isinstance(storage, BaseStorage):
        return storage
    name = str(storage)
    address = name if "://" in name else f"sqlite:///{name}"
    try:
        with quiet_experiments():
            opened = RDBStorage(
                address,
                engine_kwargs={"connect_args": {"timeout": 60}} if address.startswith("sqlite") else None,
                heartbeat_interval=heartbeat_s,
                grace_period=3 * heartbeat_s,
                heartbeat_stale_trial_callback=_TakeUp(),
            )
    except ImportError:
        if not address.startswith("postgres"):
            raise
        raise MissingExtraError("psycopg", extra="postgres") from None
    if address.startswith("sqlite"):
        _take_turns(opened.engine)
    return opened


def _take_turns(engine: Engine) -> None:
    """Let SQLite lock before it reads what it is going to change, as other databases do row by row.

    Without, two workers that read at once that a trial waits would both begin it.
    """

    @event.listens_for(engine, "connect")
    def plain(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver begins transactions late; see the next one

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections from before


def take_up_stale(study: optuna.Study) -> None:
    """Put in line again what workers held whose signs of life stopped."""
    with quiet_experiments():
        fail_stale_trials(study)


def without_sign_of_life(storage: BaseStorage | None, running: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials whose worker died before its first sign of life; Optuna never notices such.

    Args:
        storage: The storage as `open_storage` gave it.
        running: Trials that run.
    """
    if not isinstance(storage, RDBStorage) or storage.grace_period is None:
        return []
    oldest = datetime.now() - timedelta(seconds=storage.grace_period)
    old = [trial for trial in running if trial.datetime_start is not None and trial.datetime_start < oldest]
    if not old:
        return []
    with storage.engine.connect() as connection:
        heard = set(connection.execute(text("SELECT trial_id FROM trial_heartbeats")).scalars())
    return [trial for trial in old if trial._trial_id not in heard]


@contextmanager
def quiet_experiments() -> Iterator[None]:
    """Let Optuna's interfaces that may still change, or will in version 7, be used without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "`constraints_func` has been deprecated", FutureWarning)
        yield
