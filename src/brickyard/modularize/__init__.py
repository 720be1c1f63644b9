"""Turns trained dense networks into modular ones, weights kept."""

from brickyard.modularize.cnn import Modularized, Split, Whole, modularize_cnn

__all__ = ["Modularized", "Split", "Whole", "modularize_cnn"]
