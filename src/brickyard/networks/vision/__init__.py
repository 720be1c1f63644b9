"""Modular networks for pictures."""

from brickyard.networks.vision.mobile import mobile_cnn
from brickyard.networks.vision.residual import residual_cnn

__all__ = ["mobile_cnn", "residual_cnn"]
