"""The main job: whole folders, the figures of the file, limits that are kept, nothing left by failures."""

import json
import math
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, shape_inference

from brickyard.core.errors import (
    ArtifactError,
    BudgetError,
    DeviceError,
    ExportError,
    InfeasibleError,
    TaskError,
)
from brickyard.core.files import read_json, read_manifest, sha256
from brickyard.export.blueprint import Blueprint
from brickyard.factory.clock import Clock
from brickyard.factory.make import Maker
from brickyard.factory.quality import curve_of, known_task
from brickyard.factory.records import Budget, Report

FILES = {
    *("config.json", "labels.txt", "manifest.json", "model.onnx", "model.safetensors"),
    *("preprocess.json", "report.html", "report.json", "request.json"),
}
QUANTITIES = ("macs", "parameters", "file_bytes", "peak_memory_bytes", "latency_ms")


def recount(path) -> tuple[int, int]:
    """Parameters and MACs of a file, by a walk over its nodes with inferred shapes."""
    model = shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    shapes = {
        entry.name: [dimension.dim_value for dimension in entry.type.tensor_type.shape.dim]
        for entry in (*model.graph.value_info, *model.graph.output, *model.graph.input)
    }
    macs = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            macs += values[node.input[1]].size * math.prod(shapes[node.output[0]][2:])
        elif node.op_type in ("Gemm", "MatMul"):
            macs += values[node.input[1]].size
    return sum(value.size for value in values.values() if value.dtype == np.float32), macs


@pytest.mark.parametrize(
    ("kind", "task", "budget"),
    [
        ("factory", "red circle", {"max_macs": "40%"}),
        ("factory", "green", {}),
        ("digits", "3, 7", {"max_parameters": 1500, "max_file_mb": 0.02}),
        ("digits", None, {"max_macs": "60%", "max_memory_mb": 1}),
    ],
)
def test_the_folder_is_whole_and_every_figure_is_that_of_the_file(request, tmp_path, kind, task, budget):
    made = request.getfixturevalue(kind)
    out = tmp_path / "model"
    report = made.make(task=task, budget=budget, out=out)
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    manifest = read_manifest(out, format_version=1, kind="model")
    assert set(manifest["sha256"]) == FILES - {"manifest.json"}
    assert (report.parameters, report.macs) == recount(out / "model.onnx")
    assert report.file_bytes == (out / "model.onnx").stat().st_size
    assert report.predicted.file_bytes == report.file_bytes
    assert report.sha256["model.onnx"] == sha256(out / "model.onnx")
    assert report.macs_share == report.macs / report.whole.macs
    assert report.peak_memory_bytes > 4 * report.parameters
    assert report.parity_error <= 1e-4
    assert Report(**read_json(out / "report.json")) == report
    kept = read_json(out / "request.json")
    assert kept["task"] == report.task
    assert kept["budget"] == budget
    assert kept["factory_sha256"] == sha256(made.folder.path / "manifest.json")
    limits = report.budget.limits(whole_macs=report.whole.macs)
    assert all(getattr(report, name) <= limit for name, limit in limits.items())
    assert report.binding_limit in limits or not limits
    assert report.quality is not None
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    config = read_json(out / "config.json")["config"]
    for block in report.blocks:
        assert tuple(np.flatnonzero(block.bricks)) == tuple(config[block.name])
    assert report.seconds["total"] >= report.seconds["search"]


COMBINATIONS = [names for size in (1, 2, 3, 5) for names in combinations(QUANTITIES, size)]


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_limits_are_kept_in_any_combination(factory, board, names, rng):
    maker = factory.maker(board(factory))
    task = factory.vocabulary.parse("red circle")
    whole, smallest = maker.whole.model_dump(), {}
    for name in names:
        with pytest.raises(InfeasibleError) as caught:
            maker.find(task, {name: 1e-6}, seed=0)
        assert caught.value.limit == name
        smallest[name] = caught.value.smallest
    limits = {name: smallest[name] * 1.05 + rng.random() * (whole[name] - smallest[name]) for name in names}
    for candidate, config in maker.find(task, limits, seed=3):
        graph = maker.blueprint.cut(config)
        counts = maker.blueprint.count(config)
        costs = {
            "macs": counts.macs,
            "parameters": counts.parameters,
            "file_bytes": graph.ByteSize(),
            "peak_memory_bytes": counts.peak_memory_bytes,
            "latency_ms": maker.device.predict(config),
        }
        assert all(costs[name] <= limit for name, limit in limits.items())
        assert candidate.costs["macs"] == counts.macs


def test_a_budget_that_cannot_be_met_leaves_nothing_and_names_the_nearest(factory, board, tmp_path):
    budget = {"max_parameters": 10, "max_macs": "90%", "latency_ms": 100}
    with pytest.raises(InfeasibleError, match=r"parameters = 10 cannot be met: the smallest model") as caught:
        factory.make(task="red", budget=budget, device=board(factory), out=tmp_path / "a" / "model")
    assert list(tmp_path.iterdir()) == []
    error = caught.value
    assert error.requested == 10
    assert error.smallest > 10
    assert error.nearest["limits"]["parameters"] == pytest.approx(error.smallest * 1.02)
    assert error.nearest["costs"]["parameters"] <= error.nearest["limits"]["parameters"]
    again = {**budget, "max_parameters": int(error.nearest["limits"]["parameters"])}
    report = factory.make(task="red", budget=again, device=board(factory), out=tmp_path / "model")
    assert report.binding_limit == "parameters"
    assert report.device == "board"
    assert report.predicted.latency_ms <= 100


def test_a_tiny_share_is_infeasible_and_no_crash(factory, tmp_path):
    with pytest.raises(InfeasibleError, match=r"macs = .* cannot be met"):
        factory.make(task="red", budget={"max_macs": "0.0001%"}, out=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("request_", "kind", "message"),
    [
        ({"task": "red hexagon"}, TaskError, "'hexagon' in the task 'red hexagon' is not a known word"),
        ({"task": "red blue"}, TaskError, "are both a color"),
        ({"task": None}, TaskError, "name one property or more, of .*red, green, blue"),
        ({"task": "red", "budget": {"max_watts": 1}}, BudgetError, "max_watts"),
        (
            {"task": "red", "device": "nowhere"},
            DeviceError,
            "nowhere is not a file; expected a device profile",
        ),
    ],
)
def test_a_mistaken_request_leaves_nothing(factory, tmp_path, request_, kind, message):
    with pytest.raises(kind, match=message):
        factory.make(**request_, out=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_folder_is_left_alone_and_an_empty_one_used(factory, tmp_path):
    taken, empty = tmp_path / "taken", tmp_path / "empty"
    taken.mkdir()
    empty.mkdir()
    (taken / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="taken already exists; choose another folder or remove it first"):
        factory.make(task="red", out=taken)
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]
    factory.make(task="red", out=empty)
    assert {path.name for path in empty.iterdir()} == FILES
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "empty"}


def test_a_graph_that_computes_something_else_is_not_written(factory, tmp_path, monkeypatch):
    cut = Blueprint.cut

    def damaged(self: Blueprint, config):
        graph = cut(self, config)
        if config["head.words"] != self.space.largest()["head.words"]:
            bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "head.score.bias")
            bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
        return graph

    monkeypatch.setattr(Blueprint, "cut", damaged)
    with pytest.raises(
        ExportError, match=r"the cut graph differs from the whole network by .*nothing was written"
    ):
        factory.make(task="red", budget={"max_macs": "50%"}, out=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_class_model_has_the_rows_and_labels_of_its_classes(digits, tmp_path):
    digits.make(task="7, 3", out=tmp_path / "model")
    assert (tmp_path / "model" / "labels.txt").read_text().split() == ["3", "7"]
    model = onnx.load(tmp_path / "model" / "model.onnx")
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    whole = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in digits.folder.blueprint.graph.graph.initializer
    }
    name = next(name for name in whole if name.endswith("linear.bias"))
    assert (values[name] == whole[name][[3, 7]]).all()
    session = onnxruntime.InferenceSession(
        tmp_path / "model" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    inputs = digits.folder.preprocess.apply(digits.folder.calibration.images[:1])
    assert session.run(None, {"image": inputs})[0].shape == (1, 2)


def test_the_same_request_gives_the_same_file(factory, tmp_path):
    for name in ("a", "b"):
        factory.make(task="green square", budget={"max_macs": "50%"}, out=tmp_path / name, seed=4)
    first, second = (tmp_path / name / "model.onnx" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_a_file_slower_than_asked_is_made_smaller_until_it_is_not(factory, board, monkeypatch):
    maker = Maker(factory.folder, device=board(factory))
    maker.here = True
    task, limit = factory.vocabulary.parse("red"), maker.whole.latency_ms
    sessions = []

    def measure(*times):
        def fake(session, *, threads):
            if not any(session is known for known in sessions):
                sessions.append(session)
            time = limit * times[min(len(sessions), len(times)) - 1]
            return SimpleNamespace(p10=time, p50=time, p90=time, runs=1, warmup=0)

        return fake

    monkeypatch.setattr("brickyard.factory.make.measure_session", measure(1.3, 0.9))
    model = maker.make(task, {"latency_ms": limit}, seed=0)
    assert model.rounds == len(sessions) == 2
    assert model.measured.p50 == pytest.approx(0.9 * limit)
    assert model.predicted.latency_ms < limit * 0.98 / 1.3
    sessions.clear()
    monkeypatch.setattr("brickyard.factory.make.measure_session", measure(1.5))
    message = r"was not met by measurement in \d rounds: the fastest file took"
    with pytest.raises(InfeasibleError, match=message) as caught:
        maker.make(task, {"latency_ms": limit}, seed=0)
    assert caught.value.smallest == pytest.approx(limit * 1.5)


def test_elsewhere_the_profile_alone_judges_latency(factory, board, tmp_path, monkeypatch):
    profile = board(factory)
    limit = profile.predict(factory.folder.blueprint.space.largest()) * 0.7
    report = factory.make(task="red", budget={"latency_ms": limit}, device=profile, out=tmp_path / "model")
    assert report.predicted.latency_ms <= limit
    assert report.rounds == 1
    assert report.device == "board"
    assert report.measured_on != "board"


def test_whether_a_task_was_trained(factory, digits):
    split = factory.folder.quality["tasks"]
    unseen = [text for text, row in split.items() if row["known"] is False]
    assert unseen
    for text, row in split.items():
        assert known_task(factory.folder, factory.vocabulary.parse(text)) is row["known"]
    for task in factory.vocabulary.combinations(*factory.vocabulary.groups)[:40]:
        barred = any(set(text.split()) <= set(task.words) for text in unseen)
        assert known_task(factory.folder, task) is (len(task.words) <= 3 and not barred)
    assert known_task(factory.folder, factory.vocabulary.parse("red")) is True
    assert known_task(digits.folder, digits.vocabulary.parse("3, 7")) is None


def test_the_curve_is_that_of_the_task_or_the_mean(factory):
    rows = factory.folder.quality["tasks"]
    text = next(iter(rows))
    own = curve_of(factory.folder, factory.vocabulary.parse(text))
    assert [point.quality for point in own] == rows[text]["quality"]
    mean = curve_of(factory.folder, factory.vocabulary.parse("red"))
    for place, point in enumerate(mean):
        assert point.quality == pytest.approx(np.mean([row["quality"][place] for row in rows.values()]))
        assert point.limit == factory.folder.quality["limits"][place]


def test_a_clock_adds_up_parts():
    clock = Clock()
    clock.lap("first")
    clock.lap("second")
    clock.lap("first")
    total = clock.total()
    assert set(total) == {"first", "second", "total"}
    assert total["total"] >= total["first"] + total["second"] - 2e-4


def test_a_budget_record_and_its_values_ask_for_the_same(factory, tmp_path):
    first = factory.make(task="red", budget=Budget(max_macs="50%"), out=tmp_path / "a")
    second = factory.make(
        task=factory.vocabulary.parse("red"), budget={"max_macs": "50%"}, out=tmp_path / "b"
    )
    assert first.config_sha256 == second.config_sha256
    assert json.loads((tmp_path / "a" / "request.json").read_text())["budget"] == {"max_macs": "50%"}
