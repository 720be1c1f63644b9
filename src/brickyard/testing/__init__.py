"""Contract tests for networks of your own: what every modular network of brickyard promises, ready to run."""

from brickyard.testing.checks import (
    check_config_round_trip,
    check_cut_graph,
    check_export,
    check_extract,
    check_gates,
    check_graph,
    check_no_bricks,
    check_nothing_shared,
    check_refusal,
    check_sharing_kept,
    check_weights_untouched,
    prepared,
    sampled_configs,
)
from brickyard.testing.contract import NetworkContract, check_network

__all__ = [
    "NetworkContract",
    "check_config_round_trip",
    "check_cut_graph",
    "check_export",
    "check_extract",
    "check_gates",
    "check_graph",
    "check_network",
    "check_no_bricks",
    "check_nothing_shared",
    "check_refusal",
    "check_sharing_kept",
    "check_weights_untouched",
    "prepared",
    "sampled_configs",
]
