"""Optimizers: builders of a parameter's update, with torch's formulas and names of hyperparameters."""

from __future__ import annotations

from graphc.training.optimizers.adam import Adam, Adamax, AdamW, NAdam
from graphc.training.optimizers.optimizer import Optimizer, Slot
from graphc.training.optimizers.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "Optimizer", "Slot"]
