"""Adds up how long the parts of a request take."""

from __future__ import annotations

import time


class Clock:
    """Adds up the seconds of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started = self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Count the time since the last lap to a part."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    def total(self) -> dict[str, float]:
        """Return the parts and their total, rounded to tenths of a millisecond."""
        parts = {**self.seconds, "total": time.perf_counter() - self.started}
        return {part: round(value, 4) for part, value in parts.items()}
