"""Exports a network once, whole, so that subnets can be cut from the graph without torch."""

from __future__ import annotations

import copy
import io
import random
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn

from brickyard.bricks.depth import ElasticDepth
from brickyard.bricks.norm import fold_norms_
from brickyard.bricks.option import Alternatives
from brickyard.core.errors import ExportError
from brickyard.core.network import Network
from brickyard.export.blueprint import Blueprint, Skip

OPSET = 18


def export_plain(module: nn.Module, input_shape: tuple[int, ...]) -> onnx.ModelProto:
    """Export a plain module for a single picture.

    Args:
        module: Without bricks, in evaluation mode.
        input_shape: Shape of one input without the batch.

    Returns:
        A graph with static shapes, input `image`, output `scores`, and initializers named as the parameters.

    Raises:
        ExportError: A parameter did not survive under its name.
    """
    marked = copy.deepcopy(module).cpu().float().eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in marked.state_dict().values():
        # Equal tensors would be merged into one by the exporter; the real values are put in afterwards.
        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.onnx.export(
            marked,
            (torch.zeros(1, *input_shape),),
            stream,
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["scores"],
            do_constant_folding=False,
        )
    model = onnx.load_from_string(stream.getvalue())
    state = {name: value.detach().cpu().float().numpy() for name, value in module.state_dict().items()}
    kept = {tensor.name for tensor in model.graph.initializer}
    if missing := sorted(set(state) - kept):
        raise ExportError(f"the exporter lost the parameters {missing}; this network cannot be cut as a graph")
    for tensor in model.graph.initializer:
        if tensor.name in state:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(state[tensor.name]), tensor.name))
    onnx.checker.check_model(model)
    return model


def export_blueprint(network: Network, *, samples: int = 6, seed: int = 0, tolerance: float = 1e-4) -> Blueprint:
    """Export a network whole and check cuts of it against torch.

    Args:
        network: In evaluation mode; unchanged.
        samples: Random subnets to check besides the largest and the smallest.
        seed: Seed of those.
        tolerance: Largest difference allowed, relative to the scale of the scores.

    Returns:
        The blueprint.

    Raises:
        ExportError: A brick cannot be cut as a graph, or a cut computes something else than torch.
    """
    for name, module in network.root.named_modules():
        if isinstance(module, Alternatives):
            raise ExportError(f"{name} holds alternatives; extract one of them before the export")
    folded = copy.deepcopy(network).cpu().float().eval()
    fold_norms_(folded.root)
    model = export_plain(folded.extract(folded.space.largest()), network.input_shape)
    unchecked = Blueprint(model, network.space, folded.cuts(), tuple(_skips(folded)))
    error = _check(folded, unchecked, samples=samples, seed=seed, tolerance=tolerance)
    return Blueprint(model, unchecked.space, unchecked.cuts, unchecked.skips, error)


def _skips(network: Network) -> Iterator[Skip]:
    for name, module in network.root.named_modules():
        if isinstance(module, ElasticDepth):
            for index in range(module.depth.smallest(), module.depth.largest()):
                yield Skip(f"{name}.{index}.", module.depth.name, index)


def _check(network: Network, blueprint: Blueprint, *, samples: int, seed: int, tolerance: float) -> float:
    rng = random.Random(seed)
    space = network.space
    picture = torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(seed))
    worst = 0.0
    for config in [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(samples))]:
        with torch.no_grad():
            expected = network.extract(config)(picture).numpy()
        content = blueprint.cut(config).SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        actual = session.run(None, {"image": picture.numpy()})[0]
        error = float(np.abs(actual - expected).max()) / max(1.0, float(np.abs(expected).max()))
        worst = max(worst, error)
        if not error <= tolerance:
            raise ExportError(
                f"the graph cut for {config!r} differs from torch by {error:.3g} (allowed {tolerance:g}); "
                "this network cannot be cut as a graph"
            )
    return worst
