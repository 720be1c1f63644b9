"""The factory: task, budget and device in, a standalone model and its report out."""

from brickyard.factory.factory import Factory
from brickyard.factory.records import Budget, Report

__all__ = ["Budget", "Factory", "Report"]
