"""Turns trained dense networks into modular ones, weights kept.

The package can be called: `brickyard.modularize(model, ...)` is `modularize_transformer(model, ...)`.
"""

import sys
from types import ModuleType
from typing import Any

from torch import nn

from brickyard.modularize.brick_map import BrickMap, Changes, LayerMap, map_bricks
from brickyard.modularize.cnn import Modularized, Split, Whole, modularize_cnn
from brickyard.modularize.early_exit import ExitClassifier, fit_exit_classifier
from brickyard.modularize.exit_folder import load_exits, save_exits
from brickyard.modularize.exits import MultiExitEncoder, add_exits
from brickyard.modularize.expert_usage import ExpertUsage, usage_callback
from brickyard.modularize.folder import load_modular, load_transformer, save_modular
from brickyard.modularize.intake import Anatomy, Attention, FeedForward, Layer, example_inputs, find_anatomy
from brickyard.modularize.map_folder import load_map, map_record, save_map
from brickyard.modularize.neurons import NeuronProbe, fresh_twin
from brickyard.modularize.partition import balanced_kmeans, partition_neurons
from brickyard.modularize.prune import Pruned, keep_neurons, needed_neurons, prune_to
from brickyard.modularize.text_encoder import TextEncoder, Tokens
from brickyard.modularize.transformer import ModularTransformer, modularize_transformer

__all__ = [
    "Anatomy",
    "Attention",
    "BrickMap",
    "Changes",
    "ExitClassifier",
    "ExpertUsage",
    "FeedForward",
    "Layer",
    "LayerMap",
    "ModularTransformer",
    "MultiExitEncoder",
    "Modularized",
    "NeuronProbe",
    "Pruned",
    "Split",
    "TextEncoder",
    "Tokens",
    "Whole",
    "add_exits",
    "balanced_kmeans",
    "example_inputs",
    "find_anatomy",
    "fit_exit_classifier",
    "fresh_twin",
    "keep_neurons",
    "load_exits",
    "load_map",
    "load_modular",
    "load_transformer",
    "map_bricks",
    "map_record",
    "modularize_cnn",
    "modularize_transformer",
    "needed_neurons",
    "partition_neurons",
    "prune_to",
    "save_exits",
    "save_map",
    "save_modular",
    "usage_callback",
]


class _Package(ModuleType):
    """This package, as a module that can be called."""

    def __call__(self, model: nn.Module, **settings: Any) -> ModularTransformer:
        return modularize_transformer(model, **settings)


sys.modules[__name__].__class__ = _Package
