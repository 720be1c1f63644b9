"""The example needs onnxruntime and numpy alone, and reads pictures as training does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from brickyard.data.examples import Preprocess

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "run_onnx.py"


def model_folder(folder: Path, preprocess: Preprocess) -> Path:
    """A model that says which colour channel is strongest, after normalisation."""
    shape = [1, *preprocess.shape]
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]
    tensors = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    scores = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, preprocess.channels])]
    graph = helper.make_graph(nodes, "strongest", tensors, scores)
    folder.mkdir()
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "model.onnx")
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    (folder / "preprocess.json").write_text(preprocess.to_json())
    return folder


@pytest.mark.parametrize("crop", ["center", "squash"])
def test_answers_images_and_picture_files(tmp_path: Path, crop: str):
    preprocess = Preprocess(8, 10, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), crop=crop)  # type: ignore[arg-type]
    folder = model_folder(tmp_path / "model", preprocess)
    images = np.zeros((3, 8, 10, 3), np.uint8)
    images[[0, 1, 2], :, :, [2, 0, 1]] = 200
    np.save(tmp_path / "images.npy", images)
    Image.new("RGB", (33, 20), (10, 10, 255)).save(tmp_path / "blue.png")
    command = [
        sys.executable,
        str(SCRIPT),
        str(folder),
        str(tmp_path / "images.npy"),
        str(tmp_path / "blue.png"),
    ]
    command += ["--sheet", str(tmp_path / "sheet.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["blue", "red", "green", "blue"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 100


def test_imports_neither_brickyard_nor_torch():
    text = SCRIPT.read_text(encoding="utf-8")
    assert not any(word in text for word in ("import brickyard", "from brickyard", "torch"))
