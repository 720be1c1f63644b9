"""Continual learning: a network learns task after task and never changes an answer it gave before.

    from brickyard.continual import Learner, LearnSettings, masked

A task's mask selects weights of a common pool; see docs/continual.md.
"""

from brickyard.continual.identity import infer_task
from brickyard.continual.learner import Around, Learned, Learner, accuracy
from brickyard.continual.network import TaskNetwork, TaskRecord, masked
from brickyard.continual.settings import LearnSettings
from brickyard.continual.store import Stored, TaskFolder
from brickyard.continual.streams import Method, Outcome, StreamTask, permuted_tasks, run_stream, split_tasks
from brickyard.continual.tasks import Tasks

__all__ = [
    "Around",
    "LearnSettings",
    "Learned",
    "Learner",
    "Method",
    "Outcome",
    "Stored",
    "StreamTask",
    "TaskFolder",
    "TaskNetwork",
    "TaskRecord",
    "Tasks",
    "accuracy",
    "infer_task",
    "masked",
    "permuted_tasks",
    "run_stream",
    "split_tasks",
]
