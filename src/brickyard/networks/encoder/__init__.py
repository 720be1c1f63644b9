"""Modular networks that read a text and give one answer."""

from brickyard.networks.encoder.text import text_encoder

__all__ = ["text_encoder"]
