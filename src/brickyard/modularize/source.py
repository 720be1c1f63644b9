"""Loads the trained CNN that a text names: a function in a file of code, or a `transformers` classifier."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from brickyard.core.errors import MissingExtraError, ModularizeError


@dataclass(frozen=True, eq=False)
class Dense:
    """A trained network as it was found.

    Attributes:
        module: Maps pictures to scores `[batch, classes]`.
        labels: Names of its classes in order, None if unknown.
        mean: Mean of each channel that it was trained with, None if unknown.
        std: Deviation of each channel, None if unknown.
    """

    module: nn.Module
    labels: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Scores(nn.Module):
    """Gives the scores alone of a classifier that gives a record of outputs.

    Args:
        model: A `transformers` image classifier.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the scores `[batch, classes]`."""
        scores: Tensor = self.model(pixel_values=pixel_values).logits
        return scores


def load_cnn(text: str, *, weights: Path | None = None) -> Dense:
    """Load a trained network.

    Args:
        text: `FILE.py:FUNCTION`, a function without arguments that builds a torch module (its file is run, so
            it must be trusted); or the folder or hub id of a `transformers` image classifier.
        weights: File of safetensors with the module's state dict, for `FILE.py:FUNCTION`.

    Returns:
        The network in evaluation mode, and what is known of its classes and inputs.

    Raises:
        ModularizeError: There is no such network, or the weights do not fit it.
        MissingExtraError: transformers is needed and not installed.
    """
    file, colon, function = text.rpartition(":")
    if colon and file.endswith(".py"):
        return Dense(_from_code(Path(file), function, weights).eval())
    if weights is not None:
        raise ModularizeError(
            f"--weights goes with FILE.py:FUNCTION; {text} brings weights of its own, so leave it out"
        )
    return _from_transformers(text)


def _from_code(path: Path, function: str, weights: Path | None) -> nn.Module:
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModularizeError(f"{path} is not a file; expected code with the function {function!r}")
    if weights is None or not weights.is_file():
        raise ModularizeError(f"weights = {weights} is not a file; give the trained weights as safetensors")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    build = getattr(code, function, None)
    if not callable(build):
        raise ModularizeError(f"{path} has no function {function!r}")
    module = build()
    if not isinstance(module, nn.Module):
        raise ModularizeError(f"{function} of {path} gives a {type(module).__name__}, not a torch module")
    try:
        module.load_state_dict(load_file(weights))
    except RuntimeError as error:
        raise ModularizeError(f"{weights} does not fit {function} of {path}: {error}") from None
    return module


def _from_transformers(name: str) -> Dense:
    try:
        from transformers import AutoModelForImageClassification
    except ImportError:
        raise MissingExtraError("transformers", extra="transformers") from None
    try:
        model = AutoModelForImageClassification.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModularizeError(f"{name} is no image classifier of transformers: {error}") from None
    labels = tuple(str(model.config.id2label[place]) for place in range(model.config.num_labels))
    mean, std = _normalisation(Path(name))
    return Dense(Scores(model).eval(), labels, mean, std)


def _normalisation(folder: Path) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Read mean and deviation from the preprocessor's record, where the model is a folder that has one."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None, None
    record = json.loads(path.read_text())
    if not record.get("do_normalize", True) or "image_mean" not in record:
        return None, None
    return tuple(record["image_mean"]), tuple(record["image_std"])


def head_path(module: nn.Module) -> str:
    """Return the path of the last linear layer in a module."""
    paths: list[str] = [path for path, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not paths:
        raise ModularizeError("the network has no linear layer that could score classes")
    return paths[-1]


def fit_head_(module: nn.Module, *, labels: Sequence[str] | None, wanted: Sequence[str], fresh: bool) -> None:
    """Bring the rows of the last linear layer into the order of the data's classes, or make new ones.

    Args:
        module: Changed.
        labels: Classes of the network in order; None takes them to be those of the data, in the data's order.
        wanted: Classes of the data in order.
        fresh: Whether the layer is replaced by an untrained one for these classes.

    Raises:
        ModularizeError: The network's classes are not those of the data.
    """
    path = head_path(module)
    old = module.get_submodule(path)
    assert isinstance(old, nn.Linear)
    if fresh:
        module.set_submodule(path, nn.Linear(old.in_features, len(wanted), bias=old.bias is not None))
        return
    names = list(wanted) if labels is None else [label.lower() for label in labels]
    order = [name if labels is None else name.lower() for name in wanted]
    if old.out_features != len(wanted) or sorted(names) != sorted(order):
        shown = ", ".join(labels[:6]) + (", ..." if len(labels) > 6 else "") if labels else "unnamed"
        raise ModularizeError(
            f"the network scores {old.out_features} classes ({shown}), the data have {len(wanted)} "
            f"({', '.join(wanted[:6])}{', ...' if len(wanted) > 6 else ''}); give data of the same classes, "
            "or --new-head to train a new last layer for those of the data"
        )
    rows = [names.index(name) for name in order]
    old.weight.data = old.weight.data[rows].clone()
    if old.bias is not None:
        old.bias.data = old.bias.data[rows].clone()
