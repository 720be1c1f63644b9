"""Elastic twins of torch layers, and the blocks made of them."""

from brickyard.bricks.calibration import calibrate_, extract_calibrated
from brickyard.bricks.conv import ElasticConv2d
from brickyard.bricks.depth import ElasticDepth
from brickyard.bricks.embedding import ElasticEmbedding
from brickyard.bricks.exits import ExitHead, ExitLayers
from brickyard.bricks.experts import Bypass, ExpertGate, ExpertMatrix, Experts, ExpertSplit
from brickyard.bricks.inverted_residual import inverted_residual, squeeze_excite
from brickyard.bricks.layer_norm import ElasticLayerNorm
from brickyard.bricks.linear import ElasticLinear
from brickyard.bricks.norm import ElasticBatchNorm2d, fold_norms_, loose_norms
from brickyard.bricks.option import Alternatives
from brickyard.bricks.residual import residual_block
from brickyard.bricks.span import ElasticSpan
from brickyard.bricks.transformer import decoder_layer, encoder_layer, feed_forward, multi_head_attention

__all__ = [
    "Alternatives",
    "Bypass",
    "ElasticBatchNorm2d",
    "ElasticConv2d",
    "ElasticDepth",
    "ElasticEmbedding",
    "ElasticLayerNorm",
    "ElasticLinear",
    "ElasticSpan",
    "ExitHead",
    "ExitLayers",
    "ExpertGate",
    "ExpertMatrix",
    "ExpertSplit",
    "Experts",
    "calibrate_",
    "decoder_layer",
    "encoder_layer",
    "extract_calibrated",
    "feed_forward",
    "fold_norms_",
    "inverted_residual",
    "loose_norms",
    "multi_head_attention",
    "residual_block",
    "squeeze_excite",
]
