"""Measuring: what a record holds, and that noise of other processes is kept out of it."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from brickyard.core.errors import DeviceError
from brickyard.devices import measure
from brickyard.devices.pulse import Pulse
from brickyard.devices.runtimes.base import random_inputs
from brickyard.devices.runtimes.ort import ORT


def content() -> bytes:
    node = helper.make_node("Relu", ["image"], ["scores"])
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in ("image", "scores")
    ]
    graph = helper.make_graph([node], "relu", shapes[:1], shapes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


def test_record_of_a_measurement():
    found = measure.measure_session(ORT.open(content(), threads=1), threads=1, seconds=0.01)
    assert 0 < found.p10 <= found.p20 <= found.p50 <= found.p90
    assert (found.threads, found.bursts) == (1, 4)
    assert 30 <= found.runs <= 300
    assert found.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert found.processor


def test_the_quietest_burst_counts(monkeypatch):
    bursts = iter([[2.0] * 5, [3.0] * 40, [1.0, 1.0, 1.0, 9.0] * 10, [2.0] * 40])
    monkeypatch.setattr(measure, "run_times", lambda session, inputs, runs: next(bursts))
    session = ORT.open(content(), threads=1)
    found = measure.measure_session(session, threads=1, bursts=3)
    assert (found.p50, found.p90) == (1.0, 9.0)


class Beats(Pulse):
    """Says of one moment after the other whether the machine is quiet."""

    def __init__(self, *quiet: bool) -> None:
        super().__init__()
        self.left = list(quiet)

    def is_quiet(self) -> bool:
        return self.left.pop(0)


def timed_as(monkeypatch, pulse: Pulse, *medians: float) -> None:
    rows = iter([[1.0] * 5, *([median] * 30 for median in medians)])
    monkeypatch.setattr(measure, "run_times", lambda session, inputs, runs: next(rows))
    monkeypatch.setattr(measure, "_PULSE", pulse)


def test_bursts_between_two_quick_pulses_count_alone(monkeypatch):
    # too quick for what it is, as the second one: timed before a pulse that was slow
    timed_as(monkeypatch, Beats(False, True, False, True, True, True, True), 5.0, 1.0, 3.0, 2.0)
    found = measure.measure_session(ORT.open(content(), threads=1), threads=1, bursts=2, patience=60.0)
    assert (found.p50, found.bursts) == (2.0, 4)


def test_all_bursts_count_where_the_machine_is_never_quiet(monkeypatch):
    timed_as(monkeypatch, Beats(False, False, False), 5.0, 2.0, 3.0)
    found = measure.measure_session(ORT.open(content(), threads=1), threads=1, bursts=3, patience=1e-9)
    assert (found.p50, found.bursts) == (2.0, 3)


def test_a_pulse_is_slow_while_others_work_and_quick_before(monkeypatch):
    pulse = Pulse()
    assert pulse.quickest == float("inf")
    pulse.is_quiet()
    assert 0 < pulse.quickest < 100
    first = pulse.quickest
    for share, quiet in ((1.05, True), (1.5, False), (0.9, True), (1.05, False)):
        monkeypatch.setattr(pulse, "_beat", lambda share=share: share * first)
        assert pulse.is_quiet() is quiet
    assert pulse.quickest == 0.9 * first


def test_file_and_errors(tmp_path):
    path = tmp_path / "relu.onnx"
    with pytest.raises(DeviceError, match="is not a file; expected an ONNX model"):
        measure.measure_file(path)
    path.write_bytes(content())
    assert measure.measure_file(path, seconds=0.01).p50 > 0
    with pytest.raises(DeviceError, match="threads = 0 is not allowed; allowed: 1 or more"):
        measure.measure_file(path, threads=0)


def test_inputs_are_seeded():
    session = ORT.open(content(), threads=1)
    first, again, other = (random_inputs(session, seed=seed)["image"] for seed in (0, 0, 1))
    assert first.shape == (1, 3, 4, 4)
    assert first.dtype == np.float32
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_passes_go_on_until_halves_agree(monkeypatch):
    """Two sessions; the first passes of one are slowed down, as if another process ran meanwhile."""
    calls = []

    def fake(session: int, inputs: None, runs: int) -> list[float]:
        calls.append(session)
        slow = calls.count(session) in {2, 4} and session == 1
        return [1.0 + slow] * runs

    monkeypatch.setattr(measure, "random_inputs", lambda session: None)
    monkeypatch.setattr(measure, "run_times", fake)
    seen = []
    times = measure.round_robin([0, 1], passes=2, most_passes=9, report=lambda *steps: seen.append(steps))
    assert [measure.quiet(bursts) for bursts in times] == [1.0, 1.0]
    assert [bursts.shape for bursts in times] == [(5, 10), (5, 10)]
    assert seen == [(number, 9) for number in range(5)]
    assert measure.disagreement(times) == 0.0


def test_passes_end_after_a_time(monkeypatch):
    jitter = iter(range(1, 1000))
    monkeypatch.setattr(measure, "random_inputs", lambda session: None)
    monkeypatch.setattr(measure, "run_times", lambda session, inputs, runs: [1.0 / next(jitter)] * runs)
    (times,) = measure.round_robin([0], passes=3, most_passes=9, agree=0.0, most_seconds=0.0)
    assert len(times) == 3


def test_earlier_passes_count_and_all_are_kept(monkeypatch):
    monkeypatch.setattr(measure, "random_inputs", lambda session: None)
    monkeypatch.setattr(measure, "run_times", lambda session, inputs, runs: [1.0] * runs)
    kept = []
    earlier = [[[2.0, 2.0, 2.0]]] * 2
    times = measure.round_robin(
        [0, 1],
        passes=3,
        most_passes=9,
        agree=10.0,
        earlier=earlier,
        keep=lambda rows: kept.append(len(rows[0])),
    )
    assert [bursts.tolist() for bursts in times] == [[[2.0] * 3, [1.0] * 3, [1.0] * 3]] * 2
    assert kept == [2, 3]
    assert earlier == [[[2.0, 2.0, 2.0]]] * 2


def test_slowdown_compares_the_last_third_with_the_first():
    bursts = np.array([[1.0], [1.0], [5.0], [5.0], [1.5], [1.5]])
    assert measure.slowdown([bursts, 2 * bursts]) == pytest.approx(0.5)
    assert measure.clock_step_ns() >= 1


def test_what_a_measurement_of_four_bursts_gives():
    # medians of the bursts: 3 1 2 4 | 5 6 7 8, and one that fills no group
    times = np.array([[3.0], [1.0], [2.0], [4.0], [5.0], [6.0], [7.0], [8.0], [0.1]]).repeat(3, axis=1)
    assert measure.typical(times) == 3.0
    assert measure.typical(times[:2]) == 1.0
