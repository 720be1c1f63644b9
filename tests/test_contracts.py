"""Every registered network keeps the contract; a new entry is tested for free."""

import inspect

import pytest

from brickyard.core.network import Network
from brickyard.networks import NETWORKS, build
from brickyard.testing import NetworkContract, check_network


def registered() -> list[object]:
    """Name and arguments of each network; those that are not of pico size are slow."""
    cases = []
    for name in NETWORKS:
        marks = () if name.endswith("_pico") else (pytest.mark.slow,)
        cases.append(pytest.param((name, {}), id=name, marks=marks))
        if not marks and "head_kind" in inspect.signature(NETWORKS[name]).parameters:
            arguments = {"head_kind": "classes", "num_outputs": 5}
            cases.append(pytest.param((name, arguments), id=f"{name}-classes"))
    return cases


class TestRegistered(NetworkContract):
    @pytest.fixture(params=registered())
    def network(self, request: pytest.FixtureRequest) -> Network:
        name, arguments = request.param
        return build(name, **arguments)


def test_whole_contract_in_one_call():
    check_network(lambda: build("residual_cnn_pico"), samples=2)
