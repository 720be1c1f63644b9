"""`brickyard evaluate`: the quality of made models on scenes, digits, folders and tables."""

import json
import shutil

import pytest
from PIL import Image

from brickyard.core.task import Task
from brickyard.data.geometry import GeometrySpec, task_scenes

GEOMETRY = "geometry:shapes=circle+square,colors=red+green+blue"


def test_property_model_on_fresh_scenes(run, model):
    done = run("evaluate", model, "--data", GEOMETRY, "--pictures", 100, "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["metric"] == "balanced_accuracy"
    assert answer["counts"] == {"absent": 50, "present": 50}
    assert answer["value"] == pytest.approx(sum(answer["per_class"].values()) / 2)
    again = run("evaluate", model, "--data", GEOMETRY, "--pictures", 100)
    assert f"red circle: balanced accuracy {answer['value']:.4f} on 100 pictures" in again.stdout


def test_property_model_on_a_table(run, model, tmp_path):
    spec = GeometrySpec(shapes=("circle", "square"), colors=("red", "green", "blue"))
    scenes, present = task_scenes(spec, Task("properties", ("red", "circle")).values(spec.vocabulary), 12, 0)
    lines = ["image,color,shape"]
    for number, (image, truth) in enumerate(zip(scenes.images, present, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'red,circle' if truth else 'blue,square'}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    arguments = ("evaluate", model, "--data", tmp_path / "table.csv")
    done = run(*arguments, "--attributes", "color,shape", "--part", "all", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["counts"] == {"absent": 6, "present": 6}
    assert "--attributes" in run(*arguments, "--label", "color").stderr


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("geometry:shapes=ring+square", "'circle'"),
        ("digits", "is about properties, but digits has classes"),
        ("geometry:sise=32", "sise"),
    ],
)
def test_data_that_do_not_fit(run, model, data, message):
    done = run("evaluate", model, "--data", data)
    assert done.exit_code == 1
    assert message in done.stderr


def test_altered_models_are_refused(run, model, tmp_path):
    shutil.copytree(model, tmp_path / "copy")
    (tmp_path / "copy" / "labels.txt").write_text("present\nabsent\n")
    done = run("evaluate", tmp_path / "copy", "--data", GEOMETRY)
    assert done.exit_code == 1
    assert "labels.txt differs" in done.stderr
