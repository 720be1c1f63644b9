"""Run a made model with onnxruntime and numpy alone: python run_onnx.py MODEL_FOLDER PICTURES.npy."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder, pictures = Path(sys.argv[1]), np.load(sys.argv[2])  # uint8, [pictures, height, width, channels]
labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
pre = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession(next(folder.glob("*.onnx")), providers=["CPUExecutionProvider"])
for number, picture in enumerate(pictures):
    x = (picture * pre["scale"] - pre["mean"]) / pre["std"]
    x = x.transpose(2, 0, 1)[None].astype(np.float32)
    scores = session.run(None, {session.get_inputs()[0].name: x})[0][0]
    shares = np.exp(scores - scores.max())
    print(number, labels[scores.argmax()], f"{shares.max() / shares.sum():.2f}")
