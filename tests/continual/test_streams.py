"""Metrics are those of the definitions; streams have the tasks that they should."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from brickyard.continual.examples import everything, take
from brickyard.continual.streams import Outcome, StreamTask, permuted_tasks, run_stream, split_tasks
from brickyard.core.errors import DataError

NAN = float("nan")


def test_metrics_follow_their_definitions():
    accuracies = np.array([[0.6, NAN, NAN], [0.8, 0.9, NAN], [0.7, 0.5, 1.0]])
    outcome = Outcome(("a", "b", "c"), accuracies, 0.3, (1.0, 1.0, 1.0))
    assert outcome.average_accuracy == pytest.approx((0.7 + 0.5 + 1.0) / 3)
    assert outcome.backward_transfer == pytest.approx(((0.7 - 0.6) + (0.5 - 0.9)) / 2)
    assert outcome.forgetting == pytest.approx(((0.8 - 0.7) + (0.9 - 0.5)) / 2)
    assert outcome.forward_transfer([0.5, 0.7, 0.9]) == pytest.approx(((0.9 - 0.7) + (1.0 - 0.9)) / 2)


def test_one_task_forgets_nothing():
    outcome = Outcome(("a",), np.array([[0.6]]), 0.0, (1.0,))
    assert outcome.forgetting == outcome.backward_transfer == outcome.forward_transfer([0.1]) == 0


class Forgetful:
    """Knows the labels of the last task alone; scores of others are 0 but for the first class."""

    def __init__(self) -> None:
        self.known = ""

    def learn(self, task: StreamTask) -> None:
        self.known = task.name

    def scores(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        right = inputs[:, 0].long() if name == self.known else torch.zeros(len(inputs)).long()
        return torch.eye(2)[right]


def task(name: str) -> StreamTask:
    labels = torch.tensor([0, 1, 1, 1])
    data = TensorDataset(labels[:, None].float(), labels)
    return StreamTask(name, data, data, 2)


def test_a_method_is_judged_on_all_tasks_after_each():
    seen = []
    outcome = run_stream(
        Forgetful(), [task("a"), task("b")], watch=lambda each, accuracy: seen.append((each.name, accuracy))
    )
    assert outcome.names == ("a", "b")
    assert outcome.accuracies[0, 0] == 1.0
    assert outcome.accuracies[1].tolist() == [0.25, 1.0]
    assert np.isnan(outcome.accuracies[0, 1])
    assert outcome.change == 1.0
    assert len(outcome.seconds) == 2
    assert seen == [("a", 1.0), ("b", 1.0)]


def test_streams_without_tasks_or_with_one_name_twice_are_refused():
    with pytest.raises(DataError, match="the stream has no tasks"):
        run_stream(Forgetful(), [])
    with pytest.raises(DataError, match="two tasks of the stream are named 'a'"):
        run_stream(Forgetful(), [task("a"), task("a")])


def test_permuted_tasks_read_the_same_features_in_orders_of_their_own():
    train = TensorDataset(torch.arange(12.0).reshape(2, 6), torch.tensor([0, 1]))
    first, second = permuted_tasks(train, train, num_tasks=2, num_classes=2, seed=3)
    inputs, labels = everything(first.train)
    assert labels.tolist() == [0, 1]
    assert inputs[0].sort().values.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(inputs[1], inputs[0] + 6)
    assert torch.equal(everything(first.test)[0], inputs)
    assert not torch.equal(everything(second.train)[0], inputs)
    assert torch.equal(take(first.train, [1])[0][0], inputs[1])
    assert torch.equal(first.train[1][0], inputs[1])
    again = next(permuted_tasks(train, train, num_tasks=1, num_classes=2, seed=3))
    assert torch.equal(everything(again.train)[0], inputs)


def test_split_tasks_number_their_classes_anew():
    train = TensorDataset(torch.arange(6.0)[:, None], torch.tensor([0, 1, 2, 3, 2, 0]))
    first, second = split_tasks(train, train, classes=[(2, 0), (3, 1)])
    inputs, labels = everything(first.train)
    assert inputs[:, 0].tolist() == [0, 2, 4, 5]
    assert labels.tolist() == [1, 0, 0, 1]
    assert (second.name, second.num_classes) == ("classes 3 1", 2)
    with pytest.raises(DataError, match="class 4 has no examples"):
        list(split_tasks(train, train, classes=[(4,)]))
