"""Quality of a made model that reads texts on data that a user brings, as its files run; needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from brickyard.core.errors import DataError
from brickyard.data.texts import Pairs, PairSource, Texts, TextSource, load_pairs, load_texts
from brickyard.factory.evaluate import Evaluation
from brickyard.factory.text_model import TextModel
from brickyard.factory.text_rating import Progress, accuracy, answer_all, bleu, class_recalls, silent

TAKES: Mapping[str, tuple[str, ...]] = {
    "texts": ("text", "label"),
    "translation": ("translations", "source", "target"),
}
"""Options of the data, by job."""


def evaluate_text_model(
    folder: Path,
    data: str,
    *,
    part: Literal["heldout", "all"] = "heldout",
    seed: int = 0,
    threads: int = 1,
    progress: Progress = silent,
    **options: Any,
) -> Evaluation:
    """Run the files of a made model on texts with their classes or translations.

    Args:
        folder: The model folder; its hashes are verified.
        data: A table, a hub id, or for a translator a file of lines.
        part: `heldout` for the part that training on these data with this seed holds out, `all` for all.
        seed: Seed of the split.
        threads: Threads of the runtime.
        progress: Called with a stage, the texts that are judged, those in all, and a text.
        **options: Of a classifier `text` and `label`, of a translator `translations`, `source` and `target`;
            see `load_texts` and `load_pairs`.

    Returns:
        The quality. Texts of classes that the model does not know are left out.

    Raises:
        ArtifactError: The folder holds no model that reads texts, or is altered.
        DataError: An option is not for this model, or the data are missing, malformed, or of other classes.
        MissingExtraError: A library that is needed is not installed.
    """
    model = TextModel.load(folder, threads=threads)
    given = {name: value for name, value in options.items() if value is not None}
    takes = TAKES[model.job]
    strange = next((name for name in given if name not in takes), None)
    if strange is not None:
        shown = ", ".join(f"--{name}" for name in takes)
        raise DataError(
            f"--{strange.replace('_', '-')} is not for this model, which is for {model.job}; leave it out. "
            f"Its options of data: {shown}"
        )
    if model.job == "texts":
        source = load_texts(data, seed=seed, **given)
        return _classes(model, source, data, part=part, seed=seed, progress=progress)
    pairs = load_pairs(data, seed=seed, **given)
    return _translations(model, pairs, data, part=part, seed=seed, progress=progress)


def _classes(
    model: TextModel, source: TextSource, data: str, *, part: str, seed: int, progress: Progress
) -> Evaluation:
    words, parts = source.vocabulary.words, _parts(source, part)
    rows = [
        (text, words[label])
        for examples in parts
        for text, label in zip(examples.texts, examples.labels, strict=True)
        if words[label] in model.labels
    ]
    if not rows:
        raise DataError(
            f"{data} has no text of the model's classes ({', '.join(model.labels[:5])}, ...), but of "
            f"{', '.join(words[:5])}; name the column of the class with --label"
        )
    texts, right = [text for text, _ in rows], [label for _, label in rows]
    found = answer_all(model, texts, progress=progress).texts
    recalls = class_recalls(found, right)
    counts = Counter(right)
    known = [label for label in model.labels if label in recalls]
    return Evaluation(
        task=f"texts into {len(model.labels)} classes",
        metric="accuracy",
        value=accuracy(found, right),
        per_class={label: recalls[label] for label in known},
        counts={label: counts[label] for label in known},
        examples=len(rows),
        source=_origin(source, part),
        data=data,
        seed=seed,
    )


def _translations(
    model: TextModel, source: PairSource, data: str, *, part: str, seed: int, progress: Progress
) -> Evaluation:
    sides = [(pairs.sources, pairs.targets) for pairs in _parts(source, part)]
    texts = [text for sources, _ in sides for text in sources]
    found = answer_all(model, texts, progress=progress).texts
    return Evaluation(
        task="translation",
        metric="bleu",
        value=bleu(found, [text for _, targets in sides for text in targets]),
        per_class={},
        counts={},
        examples=len(texts),
        source=_origin(source, part),
        data=data,
        seed=seed,
    )


def _parts(source: TextSource | PairSource, part: str) -> list[Any]:
    parts: list[Texts | Pairs] = [source.heldout] if part == "heldout" else [source.train, source.heldout]
    return parts


def _origin(source: TextSource | PairSource, part: str) -> str:
    whole = len(source.train) + len(source.heldout)
    return f"the held-out part of {whole}" if part == "heldout" else f"all of {whole}"
