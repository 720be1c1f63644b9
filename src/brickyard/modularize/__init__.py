"""Turns trained dense networks into modular ones, weights kept.

The package can be called: `brickyard.modularize(model, ...)` is `modularize_transformer(model, ...)`.
"""

import sys
from types import ModuleType
from typing import Any

from torch import nn

from brickyard.modularize.cnn import Modularized, Split, Whole, modularize_cnn
from brickyard.modularize.early_exit import ExitClassifier, fit_exit_classifier
from brickyard.modularize.exit_folder import load_exits, save_exits
from brickyard.modularize.exits import MultiExitEncoder, add_exits
from brickyard.modularize.expert_usage import ExpertUsage, usage_callback
from brickyard.modularize.folder import load_modular, load_transformer, save_modular
from brickyard.modularize.intake import Anatomy, Attention, FeedForward, Layer, example_inputs, find_anatomy
from brickyard.modularize.partition import balanced_kmeans, partition_neurons
from brickyard.modularize.text_encoder import TextEncoder, Tokens
from brickyard.modularize.transformer import ModularTransformer, modularize_transformer

__all__ = [
    "Anatomy",
    "Attention",
    "ExitClassifier",
    "ExpertUsage",
    "FeedForward",
    "Layer",
    "ModularTransformer",
    "MultiExitEncoder",
    "Modularized",
    "Split",
    "TextEncoder",
    "Tokens",
    "Whole",
    "add_exits",
    "balanced_kmeans",
    "example_inputs",
    "find_anatomy",
    "fit_exit_classifier",
    "load_exits",
    "load_modular",
    "load_transformer",
    "modularize_cnn",
    "modularize_transformer",
    "partition_neurons",
    "save_exits",
    "save_modular",
    "usage_callback",
]


class _Package(ModuleType):
    """This package, as a module that can be called."""

    def __call__(self, model: nn.Module, **settings: Any) -> ModularTransformer:
        return modularize_transformer(model, **settings)


sys.modules[__name__].__class__ = _Package
