"""Makes models for three requests with the bundled factory, runs them, and tells where everything is.

One request is a combination that the factory never saw in training; the limits are a latency on this machine,
a share of the operations, and a file size. Files go to demo_models/ in the current folder, replaced each run.

python examples/demo.py [FACTORY]
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from brickyard import Factory
from brickyard.data.geometry import task_scenes

OUT = Path("demo_models")
RUN_ONNX = Path(__file__).with_name("run_onnx.py")
SCENES = 24
SEED = 20_261


def choose_requests(factory, device):
    """Pick an unseen and two known tasks, and a limit of another kind for each.

    The latency is limited to 60 % of the whole network, the operations to a quarter, the file to a half.
    """
    tasks = factory.folder.quality["tasks"]
    unseen = [text for text, row in tasks.items() if row["known"] is False]
    known = [text for text, row in tasks.items() if row["known"] is True]
    maker = factory.maker(device)
    limit_ms = round(0.6 * maker.whole_ms(), 3)
    half_mb = round(maker.whole.file_bytes / 2e6, 3)
    return [
        (unseen[-1], {"latency_ms": limit_ms}),
        (known[-1], {"max_macs": "25%"}),
        (known[0], {"max_file_mb": half_mb}),
    ]


def answers_on_scenes(factory, report):
    """Let the plain script answer fresh scenes, draw them with its answers, and count the right ones."""
    name = report.task.replace(" ", "_")
    task = factory.vocabulary.parse(report.task)
    scenes, present = task_scenes(factory.folder.geometry, task.values(factory.vocabulary), SCENES, SEED)
    pictures = OUT / f"{name}_scenes.npy"
    np.save(pictures, scenes.images)
    model = Path(report.files["model"]).parent
    command = [sys.executable, str(RUN_ONNX), str(model), str(pictures)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answers = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()]
    sheet = OUT / f"{name}_answers.png"
    draw_sheet(sheet, scenes.images, answers)
    right = sum(
        answer.startswith("present") == bool(truth) for answer, truth in zip(answers, present, strict=True)
    )
    return right, sheet


def draw_sheet(path, images, answers, columns=8, side=112):
    """Write one picture of all images with their answers."""
    sheet = Image.new("RGB", (columns * side, -(-len(images) // columns) * (side + 18)), "white")
    for index, (image, answer) in enumerate(zip(images, answers, strict=True)):
        x, y = index % columns * side, index // columns * (side + 18)
        picture = Image.fromarray(image)
        sheet.paste(picture.resize((side - 4, side - 4), Image.Resampling.NEAREST), (x + 2, y + 2))
        ImageDraw.Draw(sheet).text((x + 4, y + side), answer, fill="black")
    sheet.save(path)


def main():
    """Make the three models and print the table."""
    shutil.rmtree(OUT, ignore_errors=True)
    started = time.perf_counter()
    factory = Factory.load(sys.argv[1] if len(sys.argv) > 1 else "geometry")
    print(f"factory {factory.name}: {', '.join(factory.vocabulary.words)}")
    print("measuring this machine for the factory, if that was not done before ...", flush=True)
    device = factory.device()
    reports = []
    for task, budget in choose_requests(factory, device):
        out = OUT / task.replace(" ", "_")
        reports.append(factory.make(task=task, budget=budget, device=device, out=out))
    print(f"\n{'task':<20}{'limit':<22}{'p50 ms':>8}{'MACs':>8}{'file MB':>9}{'quality':>9}{'made in':>9}")
    for report in reports:
        [(kind, value)] = report.budget.model_dump(exclude_none=True).items()
        print(
            f"{report.task + ('' if report.known_task else ' *'):<20}{f'{kind} {value}':<22}"
            f"{report.measured.p50:>8.3f}{report.macs_share:>8.1%}{report.file_bytes / 1e6:>9.3f}"
            f"{report.quality.value:>9.3f}{report.seconds['total']:>7.2f} s"
        )
    whole = factory.maker(device).whole
    print(
        f"{'whole network':<42}{reports[0].whole_measured:>8.3f}{1:>8.1%}{whole.file_bytes / 1e6:>9.3f}\n"
        "* a combination that the factory never saw in training; quality: balanced accuracy on fresh scenes\n"
        f"\nThe models on {SCENES} more scenes each, run with nothing but onnxruntime and numpy:"
    )
    for report in reports:
        right, sheet = answers_on_scenes(factory, report)
        print(f"  {report.task:<20}{right} of {SCENES} right, answers in {sheet}")
    print("\nThe files:")
    for report in reports:
        print(f"  {report.files['model']}\n  {report.files['page']}")
    print(f"\nall in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
