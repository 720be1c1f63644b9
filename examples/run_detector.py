"""Run a made detector with onnxruntime and numpy alone: python run_detector.py MODEL_FOLDER PICTURES.npy."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def boxes_of_maps(heat, boxes, how):
    """Read boxes from the maps of a model whose decode.json says `outside`; drops no overlaps."""
    _, rows, columns = heat.shape
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    peaks = (heat == windows.max((3, 4))) & (heat >= how["threshold"])
    found = []
    for label, row, column in np.argwhere(peaks):
        width, height, right, down = boxes[:, row, column]
        x, y = (column + right) * how["width"] / columns, (row + down) * how["height"] / rows
        half_x, half_y = width * how["width"] / columns / 2, height * how["height"] / rows / 2
        score = heat[label, row, column]
        found.append((x - half_x, y - half_y, x + half_x, y + half_y, score, label))
    return sorted(found, key=lambda row: -row[4])[: how["top_k"]]


folder, pictures = Path(sys.argv[1]), np.load(sys.argv[2])  # uint8, [pictures, height, width, channels]
labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
pre, decoding = (json.loads((folder / name).read_text()) for name in ("preprocess.json", "decode.json"))
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
for number, picture in enumerate(pictures):
    x = (picture * pre["scale"] - pre["mean"]) / pre["std"]
    x = x.transpose(2, 0, 1)[None].astype(np.float32)
    outputs = session.run(None, {session.get_inputs()[0].name: x})
    if decoding["place"] == "inside":
        found = [row for row in outputs[0][0] if row[4] > 0]
    else:
        found = boxes_of_maps(outputs[0][0], outputs[1][0], decoding["settings"])
    for x0, y0, x1, y1, score, label in found:
        print(f"{number} {labels[int(label)]}: {x0:.1f} {y0:.1f} {x1:.1f} {y1:.1f} {score:.2f}")
