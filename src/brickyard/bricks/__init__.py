"""Elastic twins of torch layers, and the blocks made of them."""

from brickyard.bricks.conv import ElasticConv2d
from brickyard.bricks.depth import ElasticDepth
from brickyard.bricks.inverted_residual import inverted_residual, squeeze_excite
from brickyard.bricks.linear import ElasticLinear
from brickyard.bricks.norm import ElasticBatchNorm2d, fold_norms_, loose_norms
from brickyard.bricks.option import Alternatives
from brickyard.bricks.residual import residual_block

__all__ = [
    "Alternatives",
    "ElasticBatchNorm2d",
    "ElasticConv2d",
    "ElasticDepth",
    "ElasticLinear",
    "fold_norms_",
    "inverted_residual",
    "loose_norms",
    "residual_block",
    "squeeze_excite",
]
