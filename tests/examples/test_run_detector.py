"""The example reads the boxes that the package reads, with the decoding inside and outside of the graph."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brickyard.export.decode import Decode
from brickyard.factory.boxes import detect
from brickyard.factory.factory import Factory
from brickyard.factory.quality import open_session

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "run_detector.py"


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_the_example_finds_the_same_boxes(place, detector, tmp_path):
    factory = Factory.load(detector)
    folder, threshold = tmp_path / "red", 0.05
    factory.make(task="red", decode=place, threshold=threshold, out=folder)
    pictures = factory.folder.calibration.images[:8]
    np.save(tmp_path / "pictures.npy", pictures)
    command = [sys.executable, str(EXAMPLE), str(folder), str(tmp_path / "pictures.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    told = [[float(part) for part in line.replace("red:", "").split()] for line in done.stdout.splitlines()]
    session = open_session((folder / "model.onnx").read_bytes())
    settings = Decode(height=32, width=32, threshold=threshold)
    expected = [
        [number, *box.tolist(), score]
        for number, found in enumerate(detect(session, factory.folder.preprocess.apply(pictures), settings))
        for box, score in zip(found.boxes, found.scores, strict=True)
    ]
    assert len(told) == len(expected) > 0
    for one, other in zip(told, expected, strict=True):
        clipped = [one[0], *np.clip(one[1:5], 0, 32), one[5]]
        assert clipped == pytest.approx(other, abs=0.06)
