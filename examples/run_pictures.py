"""Run a made model on picture files of any size; Pillow reads and resizes them, brickyard is not needed.

python run_pictures.py MODEL_FOLDER PICTURE...
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(path, pre):
    """Give a picture as the model wants it, uint8 [height, width, channels]."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB" if pre["channels"] == 3 else "L")
    size, how = (pre["width"], pre["height"]), getattr(Image.Resampling, pre["resize"].upper())
    image = ImageOps.fit(image, size, how) if pre["crop"] == "center" else image.resize(size, how)
    return np.asarray(image).reshape(pre["height"], pre["width"], pre["channels"])


def main():
    """Print one line per picture: file, label, probability."""
    folder = Path(sys.argv[1])
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    pre = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(next(folder.glob("*.onnx")), providers=["CPUExecutionProvider"])
    for path in sys.argv[2:]:
        x = (read(path, pre) * pre["scale"] - pre["mean"]) / pre["std"]
        x = x.transpose(2, 0, 1)[None].astype(np.float32)
        scores = session.run(None, {session.get_inputs()[0].name: x})[0][0]
        shares = np.exp(scores - scores.max())
        print(path, labels[scores.argmax()], f"{shares.max() / shares.sum():.2f}")


if __name__ == "__main__":
    main()
