"""What to offer instead of a request that cannot be met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brickyard.core.errors import InfeasibleError
from brickyard.core.task import Task
from brickyard.factory.make import Maker


def nearest_feasible(
    maker: Maker, task: Task, limits: Mapping[str, float], error: InfeasibleError, *, seed: int
) -> dict[str, Any]:
    """Describe the model nearest to an infeasible request: binding limits are raised as far as needed.

    Args:
        maker: The factory and device.
        task: The task.
        limits: The request's ceilings.
        error: Why it failed.
        seed: Seed of the candidates.

    Returns:
        The raised `limits` and the `costs` of the model that meets them.
    """
    raised = dict(limits)
    while True:
        raised[error.limit] = error.smallest * 1.02
        try:
            _, config = maker.find(task, raised, seed=seed)[0]
        except InfeasibleError as another:
            error = another
            continue
        costs = maker.costs(config, limits=tuple(limits))
        return {"limits": raised, "costs": costs.model_dump(exclude_none=True)}
