"""Detectors through the whole factory: files, quality, decoding inside and outside, the report."""

import json
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
import torch

from brickyard.core.errors import ConfigError, ExportError, TrainError
from brickyard.data.examples import Preprocess
from brickyard.data.source import load_data
from brickyard.devices.measure import processor_name
from brickyard.devices.runtimes import RUNTIMES
from brickyard.devices.runtimes.base import random_inputs
from brickyard.export.decode import Decode
from brickyard.factory.boxes import boxes_of, detect
from brickyard.factory.build import BuildSettings, train_factory
from brickyard.factory.factory import Factory
from brickyard.factory.quality import open_session
from brickyard.factory.twin import load_model
from brickyard.train.joint import TrainSettings


@pytest.fixture(scope="session")
def shapes(detector):
    """A loaded factory that detects properties."""
    return Factory.load(detector)


@pytest.fixture(scope="session")
def cells(tmp_path_factory):
    """A loaded factory that detects three classes in pictures that are not square."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("cells")
    rng, images, annotations = np.random.default_rng(0), [], []
    for number in range(24):
        pixels = rng.integers(0, 40, (32, 48, 3)).astype(np.uint8)
        for kind in range(3):
            x, y = 16 * kind + int(rng.integers(0, 6)), int(rng.integers(0, 22))
            pixels[y : y + 9, x : x + 10, kind] = 255
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": kind, "bbox": [x, y, 10, 9]}
            )
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
    categories = [{"id": kind, "name": name} for kind, name in enumerate(("red cell", "green", "blue"))]
    record = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "cells.json").write_text(json.dumps(record))
    settings = BuildSettings(
        network="center_pico",
        backbone_steps=40,
        backbone_rate=1e-2,
        augment="mirror_and_move",
        train=TrainSettings(steps=10, batch_size=16, lowest_limit=0.4),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brickyard.factory.build._CURVE_LIMITS", (1.0,))
        source = load_data(folder / "cells.json", job="detect", heldout_share=0.3)
        train_factory(source, settings, out=folder / "factory", progress=lambda *news: None)
    return Factory.load(folder / "factory")


def test_a_detector_of_properties_is_made_whole(shapes, tmp_path):
    out = tmp_path / "red_circle"
    report = shapes.make(task="red circle", budget={"max_macs": "60%"}, out=out)
    assert report.macs_share <= 0.6
    assert report.parity_error < 1e-4
    assert (out / "labels.txt").read_text() == "red circle\n"
    assert report.quality.metric == "ap50"
    assert 0 <= report.quality.ap <= report.quality.value <= 1
    assert list(report.quality.per_class) == ["red circle"]
    assert report.whole_measured > 0
    graph = onnx.load(out / "model.onnx").graph
    assert [entry.name for entry in graph.output] == ["heat", "boxes"]
    shapes_of = [[size.dim_value for size in entry.type.tensor_type.shape.dim] for entry in graph.output]
    assert shapes_of == [[1, 1, 8, 8], [1, 4, 8, 8]]
    record = json.loads((out / "decode.json").read_text())
    assert record["place"] == "outside"
    assert set(record["outputs"]) == {"heat", "boxes"}
    assert Decode.from_json(record["settings"]) == Decode(height=32, width=32)
    page = (out / "report.html").read_text()
    ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    pictures = json.loads((out / "pictures.json").read_text())
    assert 1 <= len(pictures) <= 4
    assert all(picture["truth"] for picture in pictures)
    assert page.count("<image ") == 2 * len(pictures)
    assert page.count('stroke-dasharray="3 3"') + page.count("stroke-dasharray:3 3") == 2 * sum(
        len(picture["truth"]) for picture in pictures
    )


def test_the_twin_computes_what_the_file_does(shapes, tmp_path):
    out = tmp_path / "square"
    shapes.make(task="square", out=out)
    images = shapes.folder.preprocess.apply(shapes.folder.calibration.images[:2])
    session = open_session((out / "model.onnx").read_bytes())
    with torch.no_grad():
        twin = load_model(out)(torch.from_numpy(images))
    for name, tensor in zip(("heat", "boxes"), twin, strict=True):
        found = np.concatenate([session.run([name], {"image": images[i : i + 1]})[0] for i in range(2)])
        np.testing.assert_allclose(found, tensor.numpy(), atol=1e-4)


def test_inside_and_outside_give_the_same_boxes(shapes, tmp_path):
    options = {"task": "green square", "threshold": 0.05, "nms_iou": 0.5}
    shapes.make(**options, out=tmp_path / "outside")
    inside = shapes.make(**options, decode="inside", out=tmp_path / "inside", budget={"max_file_mb": 0.1})
    assert inside.file_bytes == (tmp_path / "inside" / "model.onnx").stat().st_size <= 1e5
    assert json.loads((tmp_path / "inside" / "decode.json").read_text())["place"] == "inside"
    settings = Decode(height=32, width=32, threshold=0.05, nms_iou=0.5)
    inputs = shapes.folder.preprocess.apply(shapes.folder.calibration.images[:12])
    found = [
        detect(open_session((tmp_path / name / "model.onnx").read_bytes()), inputs, settings)
        for name in ("outside", "inside")
    ]
    assert sum(len(part.scores) for part in found[0]) > 0
    for one, other in zip(*found, strict=True):
        assert one.labels.tolist() == other.labels.tolist()
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)


def test_only_some_classes_are_found_and_the_others_are_gone(cells, tmp_path):
    report = cells.make(task="green, red cell", budget={"max_macs": "80%"}, out=tmp_path / "two")
    assert cells.folder.preprocess.shape == (3, 32, 48)
    assert (tmp_path / "two" / "labels.txt").read_text() == "green\nred cell\n"
    graph = onnx.load(tmp_path / "two" / "model.onnx").graph
    shape = [size.dim_value for size in graph.output[0].type.tensor_type.shape.dim]
    assert shape == [1, 2, 8, 12]
    assert set(report.quality.per_class) == {"green", "red cell"}
    assert report.quality.value > 0.3  # it has learnt where they are
    generic = cells.make(out=tmp_path / "all")
    assert set(generic.quality.per_class) == {"blue", "green", "red cell"}


def test_the_curve_of_a_factory_is_of_average_precision(cells, shapes):
    quality = cells.folder.quality
    assert quality["metric"] == "ap50"
    assert {"blue, green, red cell", "blue", "green", "red cell"} <= set(quality["tasks"])
    for row in quality["tasks"].values():
        assert len(row["ap"]) == len(row["quality"]) == len(quality["limits"])
    assert {row["known"] for row in shapes.folder.quality["tasks"].values()} == {True, False}


def test_truth_of_a_task_is_that_of_a_slow_look(shapes, cells):
    for factory, text in ((shapes, "red circle"), (cells, "blue, red cell")):
        vocabulary = factory.vocabulary
        task = vocabulary.parse(text)
        examples = (
            factory.folder.heldout
            or load_data("geometry:size=32,shapes=circle+square,colors=red+green,train=4,heldout=20").heldout
        )
        for number, there in enumerate(boxes_of(examples, task, vocabulary)):
            expected = []
            for values, box in zip(examples.objects[number], examples.boxes[number], strict=True):
                if values[0] < 0:
                    continue
                starts = np.cumsum([0, *vocabulary.sizes])[:-1]
                words = [vocabulary.words[start + value] for start, value in zip(starts, values, strict=True)]
                if task.kind == "properties" and set(task.words) <= set(words):
                    expected.append((*box.tolist(), 0))
                elif task.kind == "classes" and words[0] in task.words:
                    expected.append((*box.tolist(), task.words.index(words[0])))
            assert [(*b.tolist(), int(k)) for b, k in zip(there.boxes, there.labels, strict=True)] == expected


def test_options_of_detectors_are_refused_where_they_mean_nothing(factory, shapes, tmp_path):
    with pytest.raises(ConfigError, match="does not detect"):
        factory.make(task="red", decode="inside", out=tmp_path / "no")
    with pytest.raises(ConfigError, match=r"threshold = 2"):
        shapes.make(task="red", threshold=2, out=tmp_path / "no")
    with pytest.raises(ConfigError, match="allowed: 'inside', 'outside'"):
        shapes.make(task="red", decode="beside", out=tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_data_and_networks_of_different_jobs_are_refused(tmp_path):
    train = TrainSettings(steps=2)
    quiet = {"out": tmp_path / "no", "progress": lambda *news: None}
    with pytest.raises(TrainError, match="digits has no boxes"):
        train_factory(load_data("digits"), BuildSettings(network="center_pico", train=train), **quiet)
    scenes = load_data("geometry:train=4,heldout=4")
    with pytest.raises(TrainError, match=r"augment = 'shift' does not fit.*detects; allowed: none, mirror"):
        train_factory(scenes, BuildSettings(network="center_pico", augment="shift", train=train), **quiet)


def test_letterboxes_know_where_points_come_to_lie():
    preprocess = Preprocess(48, 64, 3, (0, 0, 0), (1, 1, 1), crop="letterbox")
    assert preprocess.placement(100, 100) == (0.48, 0.48, 8.0, 0.0)
    assert Preprocess(48, 64, 3, (0, 0, 0), (1, 1, 1)).placement(32, 32) == (2.0, 1.5, 0.0, 0.0)


@pytest.mark.parametrize(
    "name",
    [
        "onnx-int8",
        pytest.param("openvino", marks=pytest.mark.skipif(find_spec("openvino") is None, reason="an extra")),
    ],
)
def test_detectors_are_written_in_other_formats(shapes, tmp_path, name):
    out = tmp_path / "model"
    report = shapes.make(task="red circle", budget={"max_macs": "80%"}, format=name, out=out)
    check = report.format_check
    assert (report.format, check.agreement, check.inputs) == (name, None, 32)
    assert check.largest_difference <= (0.1 if name == "onnx-int8" else 1e-4) * max(1, check.largest_score)
    assert (out / "decode.json").is_file()
    with pytest.raises(ConfigError, match="decode = 'inside' is for ONNX files"):
        shapes.make(task="red circle", format=name, decode="inside", out=tmp_path / "inside")
    assert not (tmp_path / "inside").exists()


def test_detectors_run_as_torch_twins(shapes, board, tmp_path):
    device = board(shapes).model_copy(
        update={"runtime": "torch 1", "processor": processor_name(), "name": "torch"}
    )
    report = shapes.make(task="red", budget={"latency_ms": 1000}, device=device, out=tmp_path / "model")
    assert "-torch" in report.measured_on
    graph = (tmp_path / "model" / "model.onnx").read_bytes()
    for runtime in ("openvino", "torch"):
        if find_spec(runtime) is None:
            continue
        session, reference = (RUNTIMES[kind].open(graph, threads=1) for kind in (runtime, "ort"))
        names = [entry.name for entry in reference.get_outputs()]
        assert [entry.name for entry in session.get_outputs()] == names
        inputs = random_inputs(reference)
        for wanted in (None, names[::-1]):
            for found, expected in zip(
                session.run(wanted, inputs), reference.run(wanted, inputs), strict=True
            ):
                assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


def test_executorch_is_not_for_detectors(shapes, tmp_path):
    with pytest.raises(ExportError, match="for models of one output, which detectors are not"):
        shapes.make(task="red", format="executorch", out=tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
