"""Exports a network once, whole, so that every request after that only cuts; needs torch.

Export is by tracing: parameters keep their names as initializers. They are made random for the export
itself, since the exporter merges initializers that are equal, such as fresh biases, and get their values
back in the graph.
"""

from __future__ import annotations

import copy
import io
import random
import warnings
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from brickyard.bricks.depth import ElasticDepth
from brickyard.bricks.norm import fold_norms_, loose_norms
from brickyard.core.brick import Brick
from brickyard.core.config import Config
from brickyard.core.cut import Cut
from brickyard.core.decision import Option, Subset
from brickyard.core.errors import ExportError
from brickyard.core.files import write_bytes
from brickyard.core.network import Network
from brickyard.core.plain import Constant
from brickyard.core.space import Space
from brickyard.export.blueprint import Blueprint
from brickyard.export.constants import fold_constants_
from brickyard.export.cutter import Array
from brickyard.export.parts import Activation, Leftover, Stage

OPSET = 18
TOLERANCE = 1e-4


def export_plain(
    module: nn.Module,
    input_shape: tuple[int, ...],
    path: str | Path | None = None,
    *,
    outputs: Sequence[str] = ("scores",),
    tokens: bool = False,
) -> onnx.ModelProto:
    """Export a plain module as ONNX, opset 18, static batch of 1.

    Args:
        module: Module without bricks; exported in evaluation mode with batch normalisation folded, left as
            it is.
        input_shape: Shape of one input, without the batch.
        path: File to write, none if None.
        outputs: Names of the tensors that the module gives.
        tokens: Whether the module reads ids of tokens, int64, in place of float32.

    Returns:
        A model with input `image`, or `input_ids`, and these outputs; initializers are named like the state
        dict's entries (of the folded module), nodes and tensors after modules.

    Raises:
        ExportError: The graph lost or renamed a tensor of the state dict, or has several inputs or other
            outputs.
    """
    shadow = copy.deepcopy(module).cpu().eval()
    fold_norms_(shadow)
    values = {name: tensor.detach().numpy().copy() for name, tensor in shadow.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for tensor in [*shadow.parameters(), *shadow.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.randn(tensor.shape, generator=generator)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of this exporter, about itself
        warnings.filterwarnings("ignore", category=torch.jit._trace.TracerWarning)  # shapes are static here
        warnings.filterwarnings("ignore", message="Constant folding")
        torch.onnx.export(
            shadow,
            (torch.zeros(1, *input_shape, dtype=torch.int64 if tokens else torch.float32),),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=False,
            input_names=["input_ids" if tokens else "image"],
            output_names=list(outputs),
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    fold_constants_(model)
    odd = {tensor.name for tensor in model.graph.initializer} ^ set(values)
    if odd or len(model.graph.input) != 1 or len(model.graph.output) != len(outputs):
        raise ExportError(
            f"the exporter lost or renamed tensors {sorted(odd)[:6]}, or the module has not one input "
            f"and the outputs {', '.join(outputs)}; build it so that all parameters take part and batch "
            "normalisation stands behind its convolution in a sequence"
        )
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    _name_nodes_(
        model.graph, {name for name, part in shadow.named_modules() if name and not any(part.children())}
    )
    model.producer_name, model.producer_version, model.graph.name = "brickyard", "", "network"
    del model.graph.value_info[:]
    if path is not None:
        write_bytes(Path(path), model.SerializeToString(deterministic=True))
    return model


def _name_nodes_(graph: onnx.GraphProto, leaves: Set[str]) -> None:
    """Name nodes, and tensors after them, by module path: `/body/body.0/Conv` becomes `body.0`."""
    outputs = [entry.name for entry in graph.output]
    taken, renamed = {graph.input[0].name, *outputs}, dict(zip(outputs, outputs, strict=True))
    for node in graph.node:
        *scopes, kind = [part for part in node.name.split("/") if part]
        parts: list[str] = []
        for scope in scopes:
            if parts and scope.startswith(f"{parts[-1]}."):
                parts.pop()
            parts.append(scope)
        path = ".".join(parts)
        name = path if path in leaves else ".".join([*parts, kind.lower()])
        while name in taken:
            name += "_"
        taken.add(name)
        node.name, node.doc_string = name, ""
        for place, old in enumerate(node.output):
            renamed.setdefault(old, name if place == 0 else f"{name}:{place}")
    for node in graph.node:
        for names in (node.input, node.output):
            for place, old in enumerate(names):
                names[place] = renamed.get(old, old)


def export_blueprint(network: Network, *, samples: int = 8, seed: int = 0) -> Blueprint:
    """Export a network with its normalisation folded, and check the cuts against torch.

    Args:
        network: The network; left as it is.
        samples: Random configs of the check, besides the largest, the smallest and those with one empty
            block.
        seed: Seed of configs and inputs of the check.

    Returns:
        The blueprint, with the worst error that was found.

    Raises:
        ExportError: The network has parts that cannot be cut in a graph, or a cut graph differs from
            torch by more than 1e-4 of the largest score.
    """
    if network.vocab_sizes:
        raise ExportError(
            "this network reads token ids, which a blueprint cannot hold; extract the subnet and export it "
            "with torch.onnx.export"
        )
    options = [decision.name for decision in network.space if isinstance(decision, Option)]
    if options:
        raise ExportError(
            f"{options[0]!r} chooses between alternative modules, which a blueprint cannot hold; extract one "
            "of them and build the network of it"
        )
    folded = copy.deepcopy(network).cpu().eval()
    tables = fold_norms_(folded.root, network.norm_pairs)
    if network.norm_sets is not None:
        check_norms_fold(network)
    largest = folded.space.largest()
    graph = export_plain(folded.extract(largest), network.input_shape, outputs=network.outputs)
    names = {tensor.name for tensor in graph.graph.initializer}
    cuts = {name: held for name, held in folded.cuts().items() if held and name in names}
    stages = tuple(
        Stage(part.depth.name, path, part.depth.largest())
        for path, part in folded.root.named_modules()
        if isinstance(part, ElasticDepth)
    )
    blueprint = Blueprint(
        graph=graph,
        space=Space.from_json(network.space.to_json()),
        cuts=cuts,
        leftovers=tuple(_leftovers(folded, network)),
        stages=stages,
        norm_sets=network.norm_sets,
        norms={
            f"{path}.{name}": table
            for path, pair in tables.items()
            for name, table in zip(("weight", "bias"), pair, strict=True)
        },
    )
    _check_groups(blueprint)
    blueprint = replace(blueprint, activations=_activations(blueprint))
    return replace(blueprint, parity_error=_parity(network, blueprint, samples=samples, seed=seed))


def check_norms_fold(network: Network) -> None:
    """Check that a network can have several norm sets, which only a convolution's weights can take up.

    Args:
        network: The network.

    Raises:
        ExportError: It normalises elsewhere.
    """
    loose = loose_norms(network.root, network.norm_pairs)
    if loose:
        raise ExportError(
            f"{loose[0]} follows no convolution that it alone reads, so its norm sets cannot be folded; "
            "train this network without them"
        )


def _leftovers(folded: Network, network: Network) -> Iterator[Leftover]:
    """Empty one subset after the other and look which branches have become constants."""
    largest = folded.space.largest()
    sets = 1
    if network.norm_sets is not None:  # weights are not folded, so the constants come from the original
        sets = network.norm_sets.count
        folded = copy.deepcopy(network).cpu().eval()
        folded.norm_sets = None
    for decision in folded.space:
        if isinstance(decision, Subset) and decision.minimum == 0:
            found: dict[str, list[Array]] = {}
            for number in range(sets):
                for brick in folded.modules():
                    if isinstance(brick, Brick):
                        brick.norm_set = number
                plain = folded.extract(largest.replace({decision.name: ()}))
                for path, part in plain.named_modules():
                    if isinstance(part, Constant):
                        found.setdefault(path, []).append(part.value.detach().numpy().astype(np.float32))
            if not found:
                raise ExportError(f"{decision.name!r} may be empty, but no branch becomes a constant then")
            for path, values in found.items():
                value = values[0] if sets == 1 else np.stack(values)
                yield Leftover(decision.name, path, value, sets)


def _check_groups(blueprint: Blueprint) -> None:
    cutter = blueprint.cutter
    for node in cutter.topology.nodes:
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if groups == 1:
            continue
        each = cutter.weights[node.input[1]].shape[0] // groups
        if any(
            cut.axis == 1 or (cut.axis == 0 and cut.unit % each) for cut in cutter.cuts.get(node.input[1], ())
        ):
            raise ExportError(f"{node.name} has {groups} groups, which are not cut as wholes")
    ends = [(left.prefix, cutter.topology.inside(left.prefix)) for left in blueprint.leftovers]
    for stage in blueprint.stages:
        paths = [f"{stage.prefix}.{block}" for block in range(stage.count)]
        ends += [(path, cutter.topology.inside(path)) for path in paths]
    for path, nodes in ends:
        if len(cutter.topology.results(nodes)) != 1:
            raise ExportError(
                f"module {path!r} does not give exactly one tensor, so it cannot be left out of the graph"
            )


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    return {
        info.name: tuple(size.dim_value for size in info.type.tensor_type.shape.dim)
        for info in [*graph.input, *graph.value_info, *graph.output]
    }


def _activations(blueprint: Blueprint) -> dict[str, Activation]:
    """Infer all shapes, and how each is cut, by making one decision after the other smaller."""
    largest = blueprint.space.largest()
    whole = _shapes(blueprint.cut(largest))
    cuts: dict[str, list[Cut]] = {name: [] for name in whole}
    for decision in blueprint.space:
        value = decision.largest()[:-1] if isinstance(decision, Subset) else decision.smallest()
        full = len(decision.largest()) if isinstance(decision, Subset) else decision.largest()
        if not value or value == decision.largest():
            continue
        kept = len(value) if isinstance(decision, Subset) else value
        for name, shape in _shapes(blueprint.cut(largest.replace({decision.name: value}))).items():
            for axis, (after, before) in enumerate(zip(shape, whole.get(name, ()), strict=False)):
                if after != before:
                    unit = before // full
                    assert (unit * full, unit * kept) == (before, after), (name, decision.name)
                    kind = "subset" if isinstance(decision, Subset) else "prefix"
                    cuts[name].append(Cut(axis, decision.name, kind, before, unit))  # type: ignore[arg-type]
    return {name: Activation(shape, tuple(cuts[name])) for name, shape in whole.items()}


def _parity(network: Network, blueprint: Blueprint, *, samples: int, seed: int) -> float:
    """Return the worst difference between cut graphs and modules extracted by torch, norms not folded."""
    network = copy.deepcopy(network).cpu().eval()
    rng, space = random.Random(seed), network.space
    largest = space.largest()
    configs: list[Config] = [largest, space.smallest(), *(space.sample(rng) for _ in range(samples))]
    configs += [largest.replace({left.decision: ()}) for left in blueprint.leftovers]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    worst = 0.0
    for config in configs:
        image = torch.randn(
            1, *network.input_shape, generator=torch.Generator().manual_seed(rng.randrange(2**31))
        )
        with torch.no_grad():
            given = network.extract(config)(image)
        content = blueprint.cut(config).SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        error = 0.0
        actual = session.run(list(network.outputs), {"image": image.numpy()})
        for found, tensor in zip(actual, (given,) if isinstance(given, Tensor) else given, strict=True):
            scale = max(1.0, float(tensor.abs().max()))
            error = max(error, float(np.abs(found - tensor.numpy()).max()) / scale)
        worst = max(worst, error)
        if not error <= TOLERANCE:
            raise ExportError(
                f"the graph cut for {dict(config)} differs from torch by {error:.3g} of the largest score; "
                f"at "
                f"most {TOLERANCE:g} is allowed. The network computes something that cutting "
                "by channels does not keep"
            )
    return worst
