"""What the learned tasks of a factory take of its weights, and what is left; needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brickyard.continual import TaskFolder
from brickyard.core.errors import ArtifactError
from brickyard.core.files import write_bytes
from brickyard.factory.folder import FactoryFolder
from brickyard.factory.learned import FACTORY, LEARNED


@dataclass(frozen=True, kw_only=True)
class TaskUse:
    """What one task takes.

    Attributes:
        name: Its name.
        classes: Its classes.
        arm: How it was learned.
        quality: Accuracy on held-out pictures with all bricks; None if it was not measured.
        density: Share of the weights that its mask keeps.
        mask_bits: Bits of the stored mask for each weight of the pool.
        entropy: Bits that masks of this density hold, H(k).
        mask_bytes: Bytes of the stored mask.
        trained_bytes: Bytes of the weights that it trained, of its normalisation, biases and head.
        factory_bytes: Bytes of what `make` reads.
        trained_share: Share of its mask that no earlier task held.
    """

    name: str
    classes: tuple[str, ...]
    arm: str
    quality: float | None
    density: float
    mask_bits: float
    entropy: float
    mask_bytes: int
    trained_bytes: int
    factory_bytes: int
    trained_share: float


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What the learned tasks of a factory take, and what is left.

    Attributes:
        tasks: The tasks in their order.
        overlap: For each task the share of its mask that each other one holds too, `[tasks, tasks]`.
        num_weights: Weights that masks select from.
        num_kept: Weights that each mask keeps.
        free: Weights that no mask holds.
        next_share: Share of its mask that a task would find free whose mask does not depend on the others.
        fullest: The layer that has least free weights for its size, and that share; None without tasks.
    """

    tasks: tuple[TaskUse, ...]
    overlap: tuple[tuple[float, ...], ...]
    num_weights: int
    num_kept: int
    free: int
    next_share: float
    fullest: tuple[str, float] | None

    @property
    def exclusive_left(self) -> int:
        """How many more tasks could have all the weights of their masks to themselves."""
        return self.free // self.num_kept

    @property
    def warning(self) -> str | None:
        """What to say before the free weights run out; None while one more task can have its own."""
        if self.free >= self.num_kept:
            return None
        return (
            f"{self.free:,} weights are free, fewer than the {self.num_kept:,} of one more mask: a further "
            f"task will train about {self.next_share:.0%} of its mask and use the rest as it is. Its quality "
            "may be lower; a copy of the factory without its folder 'learned' begins anew"
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "tasks": [{**task.__dict__, "classes": list(task.classes)} for task in self.tasks],
            "overlap": [list(row) for row in self.overlap],
            "num_weights": self.num_weights,
            "num_kept": self.num_kept,
            "free": self.free,
            "next_share": self.next_share,
            "exclusive_left": self.exclusive_left,
            "fullest": None if self.fullest is None else list(self.fullest),
            "warning": self.warning,
        }


def capacity_of(path: Path) -> Capacity:
    """Read what the learned tasks of a factory take.

    Args:
        path: The factory folder.

    Raises:
        ArtifactError: It is no factory, learned no task yet, or a file is missing or altered.
    """
    from brickyard.factory.learn import task_network

    folder = FactoryFolder.open(path)
    store = TaskFolder(path / LEARNED) if (path / LEARNED).is_dir() else None
    if store is None or not len(store):
        raise ArtifactError(
            f"{path} has learned no task since it was trained; teach it one: brickyard learn {path} --task "
            "NAME --data FOLDER"
        )
    network = task_network(folder.path, float(store.notes["density"]))
    store.load_(network)
    num_weights, num_kept = network.num_weights, network.num_kept
    uses = []
    for number, stored in enumerate(store.stored()):
        place = store.place(number)
        own = FactoryFolder.open(place / FACTORY)
        row = own.quality["tasks"].get(own.vocabulary.all().text)
        uses.append(
            TaskUse(
                name=stored.record.name,
                classes=own.vocabulary.words,
                arm=stored.record.arm,
                quality=None if row is None else row["quality"][-1],
                density=num_kept / num_weights,
                mask_bits=stored.mask_bits,
                entropy=stored.entropy,
                mask_bytes=(place / "masks.bin").stat().st_size,
                trained_bytes=stored.trained_bytes + stored.own_bytes,
                factory_bytes=sum(file.stat().st_size for file in own.path.rglob("*") if file.is_file()),
                trained_share=stored.record.free_share,
            )
        )
    free = {name: int((~layer.taken).sum()) for name, layer in network.layers.items()}
    shares = {name: free[name] / layer.pool.numel() for name, layer in network.layers.items()}
    found = sum(layer.keep * shares[name] for name, layer in network.layers.items())
    fullest = min(shares, key=shares.__getitem__)
    return Capacity(
        tasks=tuple(uses),
        overlap=tuple(tuple(row) for row in network.overlap().tolist()),
        num_weights=num_weights,
        num_kept=num_kept,
        free=sum(free.values()),
        next_share=found / num_kept,
        fullest=(fullest, shares[fullest]),
    )


def draw_overlap(capacity: Capacity, file: Path) -> None:
    """Draw the overlap of the masks as a heat map.

    Args:
        capacity: What the tasks take.
        file: PNG to write; written whole or not at all.
    """
    import io

    from matplotlib.figure import Figure

    names = [task.name for task in capacity.tasks]
    side = 2.5 + 0.45 * len(names)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(capacity.overlap, vmin=0, vmax=1, cmap="viridis")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("is held by the mask of")
    axes.set_ylabel("share of the mask of")
    if len(names) <= 12:
        for row, shares in enumerate(capacity.overlap):
            for column, share in enumerate(shares):
                colour = "white" if share < 0.6 else "black"
                axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(picture, ax=axes, shrink=0.8)
    share = capacity.free / capacity.num_weights
    axes.set_title(
        f"density {capacity.tasks[0].density:.0%}; {share:.0%} of the weights are free", fontsize=10
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(file, buffer.getvalue())
