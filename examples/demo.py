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

from PIL import Image

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
    """Save fresh scenes, let the plain script answer them, and count its right answers."""
    name = report.task.replace(" ", "_")
    task = factory.vocabulary.parse(report.task)
    scenes, present = task_scenes(factory.folder.geometry, task.values(factory.vocabulary), SCENES, SEED)
    folder = OUT / "pictures" / name
    folder.mkdir(parents=True)
    pictures = [folder / f"{number:02d}.png" for number in range(SCENES)]
    for picture, image in zip(pictures, scenes.images, strict=True):
        Image.fromarray(image).save(picture)
    sheet = OUT / f"{name}_answers.png"
    model = Path(report.files["model"]).parent
    command = [sys.executable, str(RUN_ONNX), str(model), *map(str, pictures), "--sheet", str(sheet)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    labels = [line.split()[1] for line in done.stdout.splitlines()]
    right = sum((label == "present") == bool(truth) for label, truth in zip(labels, present, strict=True))
    return right, sheet


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
