"""The examples run made models without brickyard, and read pictures as training does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from brickyard.data.examples import Preprocess

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


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


def answers(script: str, folder: Path, *files: Path) -> list[str]:
    command = [sys.executable, str(EXAMPLES / script), str(folder), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line.split()[1] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("crop", ["center", "squash"])
def test_answers_arrays_and_picture_files(tmp_path: Path, crop: str):
    preprocess = Preprocess(8, 10, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), crop=crop)  # type: ignore[arg-type]
    folder = model_folder(tmp_path / "model", preprocess)
    images = np.zeros((3, 8, 10, 3), np.uint8)
    images[[0, 1, 2], :, :, [2, 0, 1]] = 200
    np.save(tmp_path / "images.npy", images)
    assert answers("run_onnx.py", folder, tmp_path / "images.npy") == ["blue", "red", "green"]
    Image.new("RGB", (33, 20), (10, 10, 255)).save(tmp_path / "blue.png")
    Image.new("RGBA", (8, 40), (255, 10, 10, 255)).save(tmp_path / "red.png")
    assert answers("run_pictures.py", folder, tmp_path / "blue.png", tmp_path / "red.png") == ["blue", "red"]


@pytest.mark.parametrize("script", ["run_onnx.py", "run_pictures.py"])
def test_imports_neither_brickyard_nor_torch(script: str):
    text = (EXAMPLES / script).read_text(encoding="utf-8")
    assert not any(word in text for word in ("import brickyard", "from brickyard", "torch"))


def test_the_shortest_example_has_about_fifteen_lines_and_two_libraries():
    lines = (EXAMPLES / "run_onnx.py").read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line.strip() and not line.startswith('"""')]
    assert len(code) <= 17
    assert {line.split()[1] for line in code if line.startswith(("import", "from"))} == {
        *("json", "sys", "pathlib"),
        *("numpy", "onnxruntime"),
    }
