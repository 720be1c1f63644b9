"""Export: the whole network as one graph, and the cutting of subnets from it without torch."""

from brickyard.export.blueprint import Blueprint, Counts, Skip

__all__ = ["Blueprint", "Counts", "Skip"]
