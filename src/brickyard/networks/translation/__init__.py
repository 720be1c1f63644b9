"""Modular networks that translate, and how they write."""

from brickyard.networks.translation.decoding import END, START, beam_decode, greedy_decode
from brickyard.networks.translation.transformer import translation_transformer

__all__ = ["END", "START", "beam_decode", "greedy_decode", "translation_transformer"]
