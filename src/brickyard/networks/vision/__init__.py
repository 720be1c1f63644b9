"""Modular networks for pictures."""

from brickyard.networks.vision.mobile import mobile_cnn
from brickyard.networks.vision.ofa_mobile import ofa_mobile
from brickyard.networks.vision.ofa_resnet import ofa_resnet
from brickyard.networks.vision.residual import residual_cnn

__all__ = ["mobile_cnn", "ofa_mobile", "ofa_resnet", "residual_cnn"]
