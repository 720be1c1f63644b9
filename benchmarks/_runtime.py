"""Plain torch modules in ONNX Runtime, counted, and timed in turns so that drift hits all alike."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from brickyard.devices.measure import random_inputs, run_times
from brickyard.factory.quality import open_session


def to_onnx(module: nn.Module, shape: tuple[int, ...]) -> bytes:
    """Export a plain module as anyone would: torch's exporter, batch of 1, evaluation mode.

    Args:
        module: The module; left in evaluation mode.
        shape: Shape of one input, without the batch.

    Returns:
        The serialized model.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, *shape),),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=18,
            input_names=["image"],
            output_names=["scores"],
        )
    return buffer.getvalue()


def session_of(module: nn.Module, shape: tuple[int, ...], *, threads: int) -> onnxruntime.InferenceSession:
    """Export a module and open it."""
    return open_session(to_onnx(module, shape), threads=threads)


def in_turns(
    sessions: Sequence[onnxruntime.InferenceSession], *, passes: int = 12, seconds: float = 0.01
) -> npt.NDArray[np.float64]:
    """Time sessions in turns.

    Args:
        sessions: The sessions.
        passes: How often each has its turn.
        seconds: How long a turn lasts, at least 5 runs.

    Returns:
        Median of each, milliseconds, of all runs but the first of a turn.
    """
    inputs = [random_inputs(session) for session in sessions]
    once = [
        float(np.median(run_times(session, given, 5)))
        for session, given in zip(sessions, inputs, strict=True)
    ]
    times: list[list[float]] = [[] for _ in sessions]
    order = np.random.default_rng(0)
    for _ in range(passes):
        for place in order.permutation(len(sessions)):
            runs = int(max(5, min(200, seconds * 1e3 / once[place])))
            times[place] += run_times(sessions[place], inputs[place], runs + 1)[1:]
    return np.array([np.median(row) for row in times])


def ratio(
    first: onnxruntime.InferenceSession, second: onnxruntime.InferenceSession, *, runs: int = 400
) -> float:
    """Return the time of one session as a share of another's: single runs in turns, in swapping order."""
    inputs = [random_inputs(first), random_inputs(second)]
    times = np.empty((runs, 2))
    for session, given in zip((first, second), inputs, strict=True):
        run_times(session, given, 20)
    for number in range(runs):
        order = (0, 1) if number % 2 else (1, 0)
        for place in order:
            times[number, place] = run_times((first, second)[place], inputs[place], 1)[0]
    return float(np.median(times[:, 0]) / np.median(times[:, 1]))


def macs_of(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Count the multiply-accumulate operations of convolutions and linear layers for one picture."""
    counted = []

    def count(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        positions = output.shape[2:].numel() if isinstance(layer, nn.Conv2d) else 1
        counted.append(int(layer.weight.numel()) * positions)  # type: ignore[operator]

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        module.eval()(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    return sum(counted)


def forward(module: nn.Module, inputs: npt.NDArray[np.float32], *, batch: int = 100) -> torch.Tensor:
    """Run a module over many inputs in evaluation mode."""
    module.eval()
    with torch.no_grad():
        return torch.cat(
            [module(torch.from_numpy(inputs[i : i + batch])) for i in range(0, len(inputs), batch)]
        )
