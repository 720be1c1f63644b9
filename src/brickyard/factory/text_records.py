"""The record of a made model that reads texts; `report.json` of its folder."""

from __future__ import annotations

from typing import Any, Literal

from brickyard.factory.records import METRIC_NAMES, Latency, Record

TextJob = Literal["texts", "translation"]


class TextCosts(Record):
    """What a subnet costs.

    Attributes:
        macs: Multiply-accumulate operations of matrix products of one pass over texts of the most tokens, of
            a translator over a source and a target.
        parameters: Number of parameters.
        file_bytes: Size of the ONNX files.
        latency: Median of one pass of each file over texts of the most tokens, milliseconds, by the file's
            name.
    """

    macs: int
    parameters: int
    file_bytes: int
    latency: dict[str, float]


class TextExample(Record):
    """A text with its answers.

    Attributes:
        text: The text.
        right: Its class, or a translation by people.
        whole: Answer of the whole network.
        made: Answer of the made model.
    """

    text: str
    right: str
    whole: str
    made: str


class TextQuality(Record):
    """Quality of the files on held-out texts.

    Attributes:
        metric: `accuracy` (0 to 1) or `bleu` (0 to 100, greedy decoding).
        value: The made model.
        whole: The whole network, in torch.
        per_class: Of a classifier, the recall of each class that occurs.
        texts: Number of texts.
    """

    metric: Literal["accuracy", "bleu"]
    value: float
    whole: float
    per_class: dict[str, float]
    texts: int

    @property
    def metric_name(self) -> str:
        """The metric as people write it."""
        return METRIC_NAMES[self.metric]

    def shown(self, value: float) -> str:
        """Write a value of the metric."""
        return f"{value:.2f}" if self.metric == "bleu" else f"{value:.4f}"


class TextChoice(Record):
    """A decision of the subnet.

    Attributes:
        name: Its name.
        value: What was chosen.
        largest: What the whole network has.
    """

    name: str
    value: int | str
    largest: int | str


class TextReport(Record):
    """Everything about one made model that reads texts.

    Attributes:
        job: What it does.
        factory: Name of the folder of the network.
        study: Name of the search's study.
        place: Place on its front.
        judged: What the search measured of this subnet, by name.
        format: Format of the files.
        classes: Number of classes; None for a translator.
        max_tokens: Most tokens of a text.
        vocabulary: Number of tokens that are known.
        costs: Costs of the made model.
        whole: Costs of the whole network.
        text_ms: Time of a held-out text from text to answer, milliseconds: tokens, all passes, decoding.
        measured_on: Name of the machine that measured, with runtime, precision and threads.
        quality: On the texts that the search judged by.
        examples: Some of them with answers.
        choices: The subnet.
        parity_error: Largest difference of any score between the files and the subnet in torch.
        parity_texts: Number of held-out texts, of different lengths, that were compared.
        seconds: Time by part; `total` is all of it.
        config_sha256: Hash of the config.
        seed: Seed of the search.
        versions: Versions of the libraries that took part.
        sha256: Hashes of the files.
        files: Paths by role.
        created: Time, ISO 8601, UTC.
    """

    job: TextJob
    factory: str
    study: str
    place: int
    judged: dict[str, Any]
    format: Literal["onnx"] = "onnx"
    classes: int | None
    max_tokens: int
    vocabulary: int
    costs: TextCosts
    whole: TextCosts
    text_ms: Latency
    measured_on: str
    quality: TextQuality
    examples: tuple[TextExample, ...]
    choices: tuple[TextChoice, ...]
    parity_error: float
    parity_texts: int
    seconds: dict[str, float]
    config_sha256: str
    seed: int
    versions: dict[str, str]
    sha256: dict[str, str]
    files: dict[str, str]
    created: str

    @property
    def title(self) -> str:
        """What the model does, in words."""
        return "translation" if self.classes is None else f"texts into {self.classes} classes"
