"""Run a made model with onnxruntime and numpy alone; Pillow reads picture files and draws the sheet.

python run_onnx.py MODEL_FOLDER PICTURE... [--sheet answers.png]    (or an .npy of uint8 images [N, H, W, C])
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime


def read(path, pre):
    """Give the uint8 images [N, H, W, C] of an .npy file or of one picture."""
    if path.suffix == ".npy":
        return np.load(path).reshape(-1, pre["height"], pre["width"], pre["channels"])
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB" if pre["channels"] == 3 else "L")
    size, how = (pre["width"], pre["height"]), getattr(Image.Resampling, pre["resize"].upper())
    image = ImageOps.fit(image, size, how) if pre["crop"] == "center" else image.resize(size, how)
    return np.asarray(image).reshape(1, pre["height"], pre["width"], pre["channels"])


def draw_sheet(path, images, answers, columns=8, side=112):
    """Write one picture of all images with their answers."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (columns * side, -(-len(images) // columns) * (side + 18)), "white")
    for index, (image, answer) in enumerate(zip(images, answers, strict=True)):
        x, y = index % columns * side, index // columns * (side + 18)
        picture = Image.fromarray(image.squeeze()).convert("RGB")
        sheet.paste(picture.resize((side - 4, side - 4), Image.Resampling.NEAREST), (x + 2, y + 2))
        ImageDraw.Draw(sheet).text((x + 4, y + side), answer, fill="black")
    sheet.save(path)


def main():
    """Print one line per image: place, label, probability."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()

    session = onnxruntime.InferenceSession(
        arguments.folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    labels = (arguments.folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    pre = json.loads((arguments.folder / "preprocess.json").read_text(encoding="utf-8"))

    images = np.concatenate([read(path, pre) for path in arguments.pictures])
    answers = []
    for number, image in enumerate(images):
        x = (image * pre["scale"] - pre["mean"]) / pre["std"]
        x = x.transpose(2, 0, 1)[None].astype(np.float32)
        scores = session.run(None, {session.get_inputs()[0].name: x})[0][0]
        share = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        answers.append(f"{labels[share.argmax()]} {share.max():.2f}")
        print(number, answers[-1])
    if arguments.sheet:
        draw_sheet(arguments.sheet, images, answers)


if __name__ == "__main__":
    main()
