"""Predictors: what a measured number will be for points that were not measured."""

from brickyard.search.predictors.base import PREDICTORS, Predictor
from brickyard.search.predictors.boosting import Boosting
from brickyard.search.predictors.ensemble import Ensemble
from brickyard.search.predictors.gaussian import GaussianProcess
from brickyard.search.predictors.linear import Ridge
from brickyard.search.predictors.select import Quality, held_out, select
from brickyard.search.predictors.support import SupportVectors

__all__ = [
    "PREDICTORS",
    "Boosting",
    "Ensemble",
    "GaussianProcess",
    "Predictor",
    "Quality",
    "Ridge",
    "SupportVectors",
    "held_out",
    "select",
]
