"""Weights of a module as files keep them: a tensor that several names share is kept once."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def _shared(module: nn.Module) -> dict[str, str]:
    """Return, for each name of the state dict, the first name of the same tensor."""
    first: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    names = {}
    for name, tensor in module.state_dict().items():
        # Tensors without numbers have no place in memory that tells them apart.
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        names[name] = first.setdefault(key, name) if tensor.numel() else name
    return names


def distinct_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state dict without the further names of tensors that have several.

    Args:
        module: The module, with tied weights or not.

    Returns:
        Contiguous tensors by name, none of which shares memory with another.
    """
    names = _shared(module)
    state = module.state_dict()
    return {name: state[name].contiguous() for name, first in names.items() if name == first}


def load_distinct_state_(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill a module from what `distinct_state` returned, or from a whole state dict.

    Args:
        module: Module with the same names tied; changed.
        state: Tensors by name.

    Raises:
        RuntimeError: Names or shapes differ.
    """
    tied = {name: state[first] for name, first in _shared(module).items() if first in state}
    module.load_state_dict({**tied, **state})
