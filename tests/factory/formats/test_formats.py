"""Files of other formats: what they hold, what they are checked for, which devices run them."""

import shutil
from importlib.util import find_spec

import numpy as np
import pytest

from brickyard.core.errors import ArtifactError, DeviceError, ExportError, MissingExtraError
from brickyard.core.files import read_json, read_manifest, sha256
from brickyard.devices.measure import processor_name
from brickyard.devices.runtimes import RUNTIMES
from brickyard.factory.evaluate import evaluate_model
from brickyard.factory.factory import Factory
from brickyard.factory.formats import FORMATS, format_for, format_named
from brickyard.factory.formats.onnx_int8 import OnnxInt8Format
from brickyard.factory.records import Report
from brickyard.factory.report_html import render

NEEDS = {"openvino": "openvino", "executorch": "executorch"}


def needs(name):
    library = NEEDS.get(name)
    return pytest.mark.skipif(library is not None and find_spec(library) is None, reason="an extra")


OTHERS = [pytest.param(name, marks=needs(name)) for name in ("onnx-int8", "openvino", "executorch")]
DATA = "geometry:shapes=circle+square,colors=red+green+blue"


@pytest.mark.parametrize("name", OTHERS)
def test_the_folder_holds_the_files_that_were_asked_for(factory, tmp_path, name):
    out = tmp_path / "model"
    report = factory.make(task="red circle", budget={"max_macs": "60%"}, format=name, out=out)
    files = FORMATS[name].files
    shared = {"config.json", "labels.txt", "manifest.json", "model.safetensors", "preprocess.json"}
    assert {path.name for path in out.iterdir()} == shared | {
        *files,
        *("report.html", "report.json", "request.json"),
    }
    read_manifest(out, format_version=1, kind="model")
    assert Report(**read_json(out / "report.json")) == report
    assert (report.format, read_json(out / "request.json")["format"]) == (name, name)
    assert report.files["model"] == str(out / files[0])
    assert report.file_bytes == sum((out / file).stat().st_size for file in files)
    assert {file: report.sha256[file] for file in files} == {file: sha256(out / file) for file in files}
    check = report.format_check
    assert check.inputs == 32
    assert check.drop_points == pytest.approx(100 * (check.reference_quality - report.quality.value))
    assert report.quality.examples == 500
    assert check.largest_difference <= (0.1 if name == "onnx-int8" else 1e-4) * max(1, check.largest_score)
    assert FORMATS[name].runtime.precision in report.measured_on
    assert evaluate_model(out, DATA, pictures=40).examples == 40


def test_plain_onnx_has_no_check(factory, tmp_path):
    report = factory.make(task="red", budget={"max_macs": "60%"}, out=tmp_path / "m")
    assert (report.format, report.format_check) == ("onnx", None)
    assert format_for(None) is FORMATS["onnx"]


def test_a_limit_on_the_file_counts_the_format(factory, tmp_path):
    plain = factory.make(task="red", out=tmp_path / "plain")
    small = factory.make(task="red", format="onnx-int8", out=tmp_path / "small")
    assert small.file_bytes < plain.file_bytes
    limit = 0.9 * small.file_bytes
    made = factory.make(
        task="red", budget={"max_file_mb": limit / 1e6}, format="onnx-int8", out=tmp_path / "limited"
    )
    assert (tmp_path / "limited" / "model.int8.onnx").stat().st_size == made.file_bytes <= limit
    assert made.macs < small.macs
    assert made.binding_limit == "file_bytes"


def test_the_same_request_gives_the_same_quantised_file(digits, tmp_path):
    for name in ("a", "b"):
        digits.make(task="3, 7", budget={"max_macs": "70%"}, format="onnx-int8", out=tmp_path / name)
    first, second = (tmp_path / name / "model.int8.onnx" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_points_that_are_lost_are_told(factory, tmp_path, monkeypatch):
    monkeypatch.setattr("brickyard.factory.formats.check.WARN_POINTS", -1000.0)
    report = factory.make(task="red", format="onnx-int8", out=tmp_path / "m")
    lost = f"{report.format_check.drop_points:.1f} points of balanced accuracy are lost"
    assert lost in report.format_check.warning
    assert (
        "points of balanced accuracy are lost against 32-bit numbers"
        in (tmp_path / "m/report.html").read_text()
    )
    assert "onnx-int8" in render(report)


def test_files_that_compute_something_else_are_not_written(factory, tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxInt8Format, "tolerance", 1e-9)
    with pytest.raises(ExportError, match=r"the onnx-int8 file differs .*nothing was written"):
        factory.make(task="red", format="onnx-int8", out=tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def runtime_profile(factory, board, name, *, here=False):
    """The board's profile as if measured with a runtime, on this machine or elsewhere."""
    runtime = RUNTIMES[name]
    update = {"runtime": f"{runtime.library} 1", "precision": runtime.precision, "name": name}
    return board(factory).model_copy(update=update | ({"processor": processor_name()} if here else {}))


def test_the_device_decides_the_format(factory, board, tmp_path):
    device = runtime_profile(factory, board, "ort-int8")
    report = factory.make(task="red", budget={"latency_ms": 100}, device=device, out=tmp_path / "m")
    assert report.format == "onnx-int8"
    for name in ("ort", "openvino", "torch"):
        assert factory.maker(runtime_profile(factory, board, name)).production.form.name == "onnx"


@pytest.mark.parametrize(
    ("device", "form", "message"),
    [
        (
            "ort",
            "onnx-int8",
            "'ort' was measured with onnxruntime 1, fp32, which does not run the format onnx-int8",
        ),
        ("ort-int8", "onnx", "take the format onnx-int8, or another device"),
        ("torch", "openvino", "take the format onnx, or another device"),
        ("openvino", "executorch", "take the format onnx or openvino, or another device"),
    ],
)
def test_devices_refuse_formats_they_do_not_run(factory, board, tmp_path, device, form, message):
    profile = runtime_profile(factory, board, device)
    with pytest.raises(DeviceError, match=message):
        factory.make(task="red", device=profile, format=form, out=tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [pytest.param("openvino", marks=needs("openvino")), "torch", "ort-int8"])
def test_files_are_timed_with_the_runtime_of_the_device(factory, board, tmp_path, monkeypatch, name):
    opened = []
    real = type(RUNTIMES[name]).open

    def watched(self, content, **options):
        opened.append(self.name)
        return real(self, content, **options)

    monkeypatch.setattr(type(RUNTIMES[name]), "open", watched)
    device = runtime_profile(factory, board, name, here=True)
    report = factory.make(task="red", budget={"latency_ms": 100}, device=device, out=tmp_path / "m")
    assert name in opened
    assert f"-{RUNTIMES[name].short}{RUNTIMES[name].version()}-" in report.measured_on
    assert report.measured.p50 <= 100
    assert report.whole_measured > 0


def test_a_table_runs_any_format(factory, board, tmp_path):
    table = board(factory).model_copy(update={"runtime": "unknown", "name": "table"})
    report = factory.make(
        task="red", budget={"latency_ms": 100}, device=table, format="onnx-int8", out=tmp_path / "m"
    )
    assert (report.format, report.device) == ("onnx-int8", "table")


def test_latency_of_executorch_needs_a_device(factory, tmp_path):
    with pytest.raises(DeviceError, match="latency of executorch files cannot be predicted on this machine"):
        factory.make(task="red", budget={"latency_ms": 5}, format="executorch", out=tmp_path / "m")
    with pytest.raises(
        ExportError, match="format 'tflite' is unknown; known: onnx, onnx-int8, openvino, exec"
    ):
        factory.make(task="red", format="tflite", out=tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("executorch") is not None, reason="it is there")
def test_executorch_is_told_when_it_is_missing(factory, tmp_path):
    with pytest.raises(MissingExtraError, match=r"executorch is not installed.*'brickyard\[executorch\]'"):
        factory.make(task="red", format="executorch", out=tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_formats_are_different_requests(factory):
    keys = {factory.request_key(task="red", format=name) for name in (None, "onnx", "onnx-int8", "openvino")}
    assert len(keys) == 3, "none means onnx"


def test_own_networks_are_handed_in(pico, tmp_path):
    """A factory whose folder cannot build its network: torch devices ask for it, and use it."""
    folder = shutil.copytree(pico, tmp_path / "own")
    record = read_json(folder / "network.json")
    network = Factory.load(pico).network()
    from brickyard.core.files import write_json, write_manifest

    write_json(folder / "network.json", {**record, "builder": None})
    (folder / "manifest.json").unlink()
    write_manifest(folder, format_version=1, kind="factory", fields={"name": "own"})
    config = network.space.largest()
    with pytest.raises(ArtifactError, match="no registered one"):
        Factory.load(folder)._twin(config)
    inputs = np.ones((1, 3, 32, 32), dtype=np.float32)
    import torch

    untrained = Factory.load(pico).network()
    for parameter in untrained.root.parameters():
        parameter.data.zero_()
    own = Factory.load(folder, network=untrained)._twin(config)
    with torch.no_grad():
        found = own(torch.from_numpy(inputs)).numpy()
        expected = network(torch.from_numpy(inputs)).numpy()
    assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
    assert not any(parameter.any() for parameter in untrained.root.parameters()), "left as it was"


def test_names():
    assert [format_named(name).name for name in FORMATS] == list(FORMATS)
