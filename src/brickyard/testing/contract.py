"""The contract of a network as a whole: one call, or one test class to subclass."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from brickyard.core.network import Network
from brickyard.testing import checks


def check_network(
    network: Network | Callable[[], Network],
    *,
    samples: int = 8,
    seed: int = 0,
    tolerance: float = 1e-5,
    cut_graph: bool = True,
) -> None:
    """Check everything that a network promises; see the `check_` functions of this package.

    Args:
        network: The network, or what builds it; left as it is.
        samples: Number of random configs, besides the largest, the smallest and the emptied one.
        seed: Seed of configs, inputs and normalisation statistics.
        tolerance: Largest difference between active subnet and extracted module, as a share of the largest
            score.
        cut_graph: Whether to check `brickyard.export` too, which cuts the exported graph; it takes no tied
            weights.

    Raises:
        AssertionError: A promise is broken; the message names the config at fault.

    Example:
        >>> from brickyard.networks import build
        >>> check_network(build("residual_cnn_pico"), samples=2)
    """
    net = network if isinstance(network, Network) else network()
    checks.check_extract(net, samples=samples, seed=seed, tolerance=tolerance)
    checks.check_no_bricks(net, samples=samples, seed=seed)
    checks.check_nothing_shared(net, samples=samples, seed=seed)
    checks.check_sharing_kept(net, samples=samples, seed=seed)
    checks.check_weights_untouched(net, samples=samples, seed=seed)
    checks.check_config_round_trip(net, samples=samples, seed=seed)
    checks.check_refusal(net, seed=seed)
    checks.check_gates(net, samples=samples, seed=seed)
    checks.check_export(net, seed=seed)
    if cut_graph:
        checks.check_cut_graph(net, samples=samples, seed=seed)


class NetworkContract:
    """The contract as test methods: subclass it as `Test...` with a fixture `network`.

    Attributes:
        samples: Number of random configs.
        seed: Seed of everything that is drawn.
        tolerance: Largest difference between active subnet and extracted module, as a share of the largest
            score.

    Example:
        >>> class TestMine(NetworkContract):
        ...     @pytest.fixture
        ...     def network(self):
        ...         return my_network()
    """

    samples: ClassVar[int] = 8
    seed: ClassVar[int] = 0
    tolerance: ClassVar[float] = 1e-5

    def test_extract_equals_the_active_network(self, network: Network) -> None:
        """Extracted module and active subnet give equal scores."""
        checks.check_extract(network, samples=self.samples, seed=self.seed, tolerance=self.tolerance)

    def test_no_brick_is_left(self, network: Network) -> None:
        """The extracted module is made of plain modules."""
        checks.check_no_bricks(network, samples=self.samples, seed=self.seed)

    def test_nothing_is_shared_with_the_network(self, network: Network) -> None:
        """The extracted module stands alone."""
        checks.check_nothing_shared(network, samples=self.samples, seed=self.seed)

    def test_sharing_inside_is_kept(self, network: Network) -> None:
        """Tied weights stay tied."""
        checks.check_sharing_kept(network, samples=self.samples, seed=self.seed)

    def test_weights_are_untouched(self, network: Network) -> None:
        """Configuring, extracting and computing change no weight."""
        checks.check_weights_untouched(network, samples=self.samples, seed=self.seed)

    def test_configs_round_trip(self, network: Network) -> None:
        """Configs survive JSON and encoding."""
        checks.check_config_round_trip(network, samples=self.samples, seed=self.seed)

    def test_illegal_configs_are_refused(self, network: Network) -> None:
        """Illegal configs are refused by name and change nothing."""
        checks.check_refusal(network, seed=self.seed)

    def test_gates_equal_the_configured_network(self, network: Network) -> None:
        """Gates of 0 and 1 per sample compute what configured subnets compute."""
        checks.check_gates(network, samples=self.samples, seed=self.seed)

    def test_extracted_module_exports(self, network: Network) -> None:
        """The extracted module exports to ONNX and agrees with ONNX Runtime."""
        checks.check_export(network, seed=self.seed)

    def test_cut_graph_equals_the_extracted_module(self, network: Network) -> None:
        """The exported graph, cut without torch, agrees with the extracted module."""
        checks.check_cut_graph(network, samples=self.samples, seed=self.seed)
