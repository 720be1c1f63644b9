"""What a modular network promises, one function per promise.

Every function works on a copy of the network it is given, in evaluation mode with random normalisation
statistics, and raises `AssertionError` with the config at fault. None needs pytest.
"""

from __future__ import annotations

import copy
import io
import json
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from brickyard.core.brick import Brick, Width
from brickyard.core.config import Config
from brickyard.core.cut import Cut
from brickyard.core.decision import Choice, Decision, Subset
from brickyard.core.errors import ConfigError, ExportError
from brickyard.core.network import Network
from brickyard.core.space import Space

Graph = Callable[[Network, Config], bytes]
"""From a network and a config to the bytes of an ONNX file for one sample."""


def require(condition: bool, message: str) -> None:
    """Raise `AssertionError` with a message unless a condition holds, also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def prepared(network: Network, *, seed: int = 0) -> Network:
    """Copy a network, in evaluation mode and with random normalisation statistics: no norm is an identity.

    Args:
        network: Left as it is.
        seed: Seed of the statistics.

    Returns:
        The copy, with the largest config active.
    """
    network = copy.deepcopy(network).eval()
    network.configure(network.space.largest())
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        is_norm = getattr(getattr(module, "weight", None), "ndim", 0) == 1  # of those without statistics
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            is_norm = True
            mean.copy_(0.2 * torch.randn(mean.shape, generator=generator))
            variance.copy_(0.5 + torch.rand(variance.shape, generator=generator))
        if is_norm:
            for name, low in (("weight", 0.5), ("bias", -0.5)):
                tensor = getattr(module, name, None)
                if isinstance(tensor, Tensor):
                    tensor.data.copy_(low + torch.rand(tensor.shape, generator=generator))
    return network


def sampled_configs(space: Space, *, samples: int = 8, seed: int = 0) -> list[Config]:
    """Return configs worth testing: largest, smallest, every subset at its minimum, and random ones.

    Every second random config has some of its subsets at their minimum, so that single blocks are empty.

    Args:
        space: The space.
        samples: Number of random configs.
        seed: Seed of the draws.

    Returns:
        Different configs, the fixed ones first.
    """
    rng = random.Random(seed)
    subsets = [decision for decision in space if isinstance(decision, Subset)]
    configs = [space.largest(), space.smallest()]
    configs.append(space.largest().replace({subset.name: subset.smallest() for subset in subsets}))
    for index in range(samples):
        config = space.sample(rng)
        emptied = [subset for subset in subsets if index % 2 and rng.random() < 0.3]
        configs.append(config.replace({subset.name: subset.smallest() for subset in emptied}))
    return list(dict.fromkeys(configs))


def _tensors(given: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (given,) if isinstance(given, Tensor) else given


def _shapes(given: Tensor | tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in _tensors(given)]


def _agree(
    found: Tensor | tuple[Tensor, ...],
    expected: Tensor | tuple[Tensor, ...],
    *,
    tolerance: float,
    what: str,
) -> None:
    for one, other in zip(_tensors(found), _tensors(expected), strict=True):
        _agree_on_one(one, other, tolerance=tolerance, what=what)


def _agree_on_one(found: Tensor, expected: Tensor, *, tolerance: float, what: str) -> None:
    require(found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    scale = max(1.0, float(expected.abs().max()))
    error = float((found - expected).abs().max()) / scale
    require(
        error <= tolerance, f"{what}: differs by {error:.2e} of the largest score; allowed: {tolerance:.0e}"
    )


def _each(network: Network, *, samples: int, seed: int) -> Iterator[tuple[Network, Config]]:
    network = prepared(network, seed=seed)
    for config in sampled_configs(network.space, samples=samples, seed=seed):
        yield network, config


@torch.no_grad()
def check_extract(network: Network, *, samples: int = 8, seed: int = 0, tolerance: float = 1e-5) -> None:
    """Check that the extracted module computes what the active subnet computes.

    Args:
        network: Network to check; left as it is.
        samples: Number of random configs besides the largest, the smallest and the emptied one.
        seed: Seed of configs, inputs and statistics.
        tolerance: Largest difference, as a share of the largest score (at least 1).
    """
    for net, config in _each(network, samples=samples, seed=seed):
        inputs = net.example_inputs(batch=2, seed=seed)
        with net.configured(config):
            expected = net(*inputs)
        _agree(net.extract(config)(*inputs), expected, tolerance=tolerance, what=f"extract({config})")


def check_no_bricks(network: Network, *, samples: int = 8, seed: int = 0) -> None:
    """Check that the extracted module holds neither bricks nor anything else that knows of decisions.

    Args:
        network: Network to check; left as it is.
        samples: Number of random configs.
        seed: Seed of the configs.
    """
    for net, config in _each(network, samples=samples, seed=seed):
        for path, module in net.extract(config).named_modules():
            left = isinstance(module, Brick | Network)
            require(not left, f"extract({config}) leaves a {type(module).__name__} at {path!r}")
            for name, value in vars(module).items():
                knows = isinstance(value, Decision | Width | Cut | Space | Config)
                require(not knows, f"extract({config}): {path}.{name} is a {type(value).__name__}")


def _storages(module: nn.Module) -> dict[int, str]:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {tensor.untyped_storage().data_ptr(): name for name, tensor in tensors if tensor.numel()}


def check_nothing_shared(network: Network, *, samples: int = 8, seed: int = 0) -> None:
    """Check that the extracted module shares no memory, submodule or hook table with the network.

    Args:
        network: Network to check; left as it is.
        samples: Number of random configs.
        seed: Seed of the configs.
    """
    for net, config in _each(network, samples=samples, seed=seed):
        plain = net.extract(config)
        own, cut = _storages(net), _storages(plain)
        both = [cut[pointer] for pointer in cut.keys() & own.keys()]
        require(not both, f"extract({config}) shares the memory of {both}")
        modules = {id(module) for module in net.modules()}
        tables = {
            id(value)
            for module in net.modules()
            for value in vars(module).values()
            if isinstance(value, dict)
        }
        for path, module in plain.named_modules():
            require(id(module) not in modules, f"extract({config}) shares the module {path!r}")
            for name, value in vars(module).items():
                require(id(value) not in tables, f"extract({config}) shares the table {path}.{name}")


def _tied(module: nn.Module) -> list[set[str]]:
    groups: dict[int, set[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    return [names for names in groups.values() if len(names) > 1]


def check_sharing_kept(network: Network, *, samples: int = 8, seed: int = 0) -> None:
    """Check that parameters which are one inside the network are one inside the extracted module.

    Args:
        network: Network to check; left as it is.
        samples: Number of random configs.
        seed: Seed of the configs.
    """
    for net, config in _each(network, samples=samples, seed=seed):
        plain = dict(net.extract(config).named_parameters(remove_duplicate=False))
        for names in _tied(net.root):
            left = {name: id(plain[name]) for name in names if name in plain}
            require(len(set(left.values())) <= 1, f"extract({config}) unties {sorted(left)}")


@torch.no_grad()
def check_weights_untouched(network: Network, *, samples: int = 8, seed: int = 0) -> None:
    """Check that configuring, extracting and computing change no weight bit, mode or active config.

    Args:
        network: Network to check; left as it is.
        samples: Number of random configs.
        seed: Seed of configs and inputs.
    """
    net = prepared(network, seed=seed)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = {name: module.training for name, module in net.named_modules()}
    inputs = net.example_inputs(batch=1, seed=seed)
    steps: dict[str, Callable[[Config], Any]] = {
        "configure": net.configure,
        "extract": net.extract,
        "forward": lambda config: net(*inputs),
    }
    for config in sampled_configs(net.space, samples=samples, seed=seed):
        for step, act in steps.items():
            act(config)
            after = net.state_dict()
            changed = [
                name for name in before if name not in after or not torch.equal(before[name], after[name])
            ]
            require(not changed and len(after) == len(before), f"{step} with {config} changes {changed}")
        with net.configured(net.space.largest()):
            net(*inputs)
        require(net.space.active() == config, f"configured() does not restore {config}")
        now = {name: module.training for name, module in net.named_modules()}
        require(now == modes, f"extract({config}) changes the mode of the network")


def check_config_round_trip(network: Network, *, samples: int = 8, seed: int = 0) -> None:
    """Check that configs survive JSON and the encoding as a vector, and the space survives JSON.

    Args:
        network: Network to check; left as it is.
        samples: Number of random configs.
        seed: Seed of the configs.
    """
    space = network.space
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    require(
        again == space and again.size == space.size, f"the space does not survive JSON: {again.to_json()}"
    )
    for config in sampled_configs(space, samples=samples, seed=seed):
        read = Config.from_json(config.to_json())
        same = read == config and hash(read) == hash(config) and read.digest() == config.digest()
        require(same, f"{config} becomes {read} in JSON")
        require(space.contains(read), f"{read} is not in the space after JSON")
        vector = space.encode(config)
        fits = len(vector) == space.width and all(0.0 <= number <= 1.0 for number in vector)
        require(fits, f"{config} becomes {vector}; expected {space.width} numbers in [0, 1]")
        require(space.decode(vector) == config, f"{config} becomes {space.decode(vector)} as a vector")


def _illegal(decision: Decision) -> list[Any]:
    if isinstance(decision, Subset):
        short = [decision.smallest()[1:]] if decision.minimum else []
        return [(decision.count,), (-1,), (0, 0), "0", 0, (0.0,), *short]
    if isinstance(decision, Choice):
        return [decision.largest() + 1, str(decision.largest()), float(decision.largest()), None]
    return ["no such alternative", 0, None]


def check_refusal(network: Network, *, seed: int = 0) -> None:
    """Check that an illegal config is refused with path, value and allowed values, and changes nothing.

    Args:
        network: Network to check; left as it is.
        seed: Seed of the config that is active meanwhile.
    """
    net = copy.deepcopy(network)
    legal = net.space.sample(random.Random(seed))
    net.configure(legal)
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        (decision.name, value, {**net.space.largest(), decision.name: value})
        for decision in net.space
        for value in _illegal(decision)
    ]
    cases.append(("no such decision", 1, {**net.space.largest(), "no such decision": 1}))
    for name, value, config in cases:
        for act in (net.configure, net.extract):
            error = _refused(act, config, f"{name} = {value!r}")
            told = (error.path, error.value) == (name, value) and bool(error.allowed) and name in str(error)
            require(
                told,
                f"{name} = {value!r}: the error names {error.path!r}, {error.value!r}, {error.allowed!r}",
            )
            require(
                net.space.active() == legal, f"{name} = {value!r} is refused, but changed the active config"
            )
    for name in list(legal)[:1]:
        error = _refused(net.configure, {key: legal[key] for key in legal if key != name}, f"no {name}")
        require(error.path == name, f"without {name}, the error names {error.path!r}")


def _refused(act: Callable[[Any], Any], config: Any, what: str) -> ConfigError:
    try:
        act(config)
    except ConfigError as error:
        return error
    raise AssertionError(f"{what} is not refused")


@torch.no_grad()
def check_gates(network: Network, *, samples: int = 8, seed: int = 0, tolerance: float = 1e-4) -> None:
    """Check that gates of 0 and 1, other ones for each sample, compute what the configured subnets compute.

    Subsets that change the shape of the output (the classes of a head) cannot be gated and stay whole.

    Args:
        network: Network to check; left as it is.
        samples: Number of subnets in the batch, besides the largest and the emptied one.
        seed: Seed of configs, inputs and statistics.
        tolerance: Largest difference, as a share of the largest score (at least 1).
    """
    net = prepared(network, seed=seed)
    largest = net.space.largest()
    inputs = net.example_inputs(batch=1, seed=seed)
    shapes = _shapes(net(*inputs))
    gated = []
    for subset in (decision for decision in net.space if isinstance(decision, Subset)):
        with net.configured(largest.replace({subset.name: subset.smallest()})):
            if _shapes(net(*inputs)) == shapes:
                gated.append(subset)
    configs = [
        largest.replace({subset.name: config[subset.name] for subset in gated})
        for config in sampled_configs(net.space, samples=samples, seed=seed)
    ]
    gates = {
        subset.name: torch.tensor([subset.encode(config[subset.name]) for config in configs])
        for subset in gated
    }
    inputs = net.example_inputs(batch=len(configs), seed=seed)
    with net.gated(gates):
        found = _tensors(net(*inputs))
    for row, config in enumerate(configs):
        with net.configured(config):
            expected = net(*(x[row : row + 1] for x in inputs))
        _agree(
            tuple(part[row : row + 1] for part in found),
            expected,
            tolerance=tolerance,
            what=f"gates of {config}",
        )


def _torch_graph(network: Network, config: Config) -> bytes:
    plain = network.extract(config)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter about itself
        torch.onnx.export(plain, network.example_inputs(batch=1), buffer, dynamo=False)  # type: ignore[arg-type]
    return buffer.getvalue()


def check_export(network: Network, *, samples: int = 1, seed: int = 0, tolerance: float = 1e-4) -> None:
    """Check that extracted modules export to ONNX (static batch of 1) and agree with ONNX Runtime.

    Args:
        network: Network to check; left as it is.
        samples: Number of random configs besides the largest and the smallest; each takes about a second.
        seed: Seed of configs, inputs and statistics.
        tolerance: Largest difference, as a share of the largest score (at least 1).
    """
    check_graph(network, _torch_graph, samples=samples, seed=seed, tolerance=tolerance)


def check_cut_graph(network: Network, *, samples: int = 8, seed: int = 0, tolerance: float = 1e-4) -> None:
    """Check that graphs cut without torch from the one exported graph agree with the extracted modules.

    Networks that read token ids are outside of what such a graph can hold; they must be refused.

    Args:
        network: Network to check; left as it is.
        samples: Number of random configs besides the largest, the smallest and the emptied one.
        seed: Seed of configs, inputs and statistics.
        tolerance: Largest difference, as a share of the largest score (at least 1).
    """
    from brickyard.export.whole import export_blueprint

    if network.vocab_sizes:
        try:
            export_blueprint(network)
        except ExportError as error:
            require("token" in str(error), f"the error names no reason: {error}")
            return
        raise AssertionError("a network that reads token ids is not refused")
    blueprint = export_blueprint(prepared(network, seed=seed))

    def cut(_: Network, config: Config) -> bytes:
        return bytes(blueprint.cut(config).SerializeToString())

    check_graph(network, cut, samples=samples, seed=seed, tolerance=tolerance)


@torch.no_grad()
def check_graph(
    network: Network, graph: Graph, *, samples: int = 1, seed: int = 0, tolerance: float = 1e-4
) -> None:
    """Check that the ONNX file which a function gives for a config agrees with the extracted module.

    Args:
        network: Network to check; left as it is.
        graph: Called with a prepared copy of the network and a config; gives the bytes of an ONNX file with
            inputs like the network's, `[1, *input_shape]`, in their order, and the outputs of the network.
        samples: Number of random configs besides the largest, the smallest and the emptied one.
        seed: Seed of configs, inputs and statistics.
        tolerance: Largest difference, as a share of the largest score (at least 1).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for net, config in _each(network, samples=samples, seed=seed):
        session = onnxruntime.InferenceSession(
            graph(net, config), options, providers=["CPUExecutionProvider"]
        )
        plain, names = net.extract(config), [entry.name for entry in session.get_inputs()]
        for row in zip(*(x.split(1) for x in net.example_inputs(batch=3, seed=seed)), strict=True):
            feed = {name: x.numpy() for name, x in zip(names, row, strict=True)}
            found = tuple(torch.from_numpy(np.asarray(part)) for part in session.run(None, feed))
            _agree(found, plain(*row), tolerance=tolerance, what=f"ONNX file of {config}")
