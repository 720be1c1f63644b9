"""Modular networks that find objects in pictures: boxes with scores."""

from brickyard.networks.detection.center import DETECTORS, OUTPUTS, center_detector

__all__ = ["DETECTORS", "OUTPUTS", "center_detector"]
