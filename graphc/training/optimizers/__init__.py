"""Optimizers: builders of a parameter's update, with torch's formulas and names of hyperparameters."""

from __future__ import annotations

from graphc.training.optimizers.adam import Adam, Adamax, AdamW, NAdam
from graphc.training.optimizers.adaptive import Adadelta, Adagrad, RMSprop, Rprop
from graphc.training.optimizers.large_batch import LAMB, Lion
from graphc.training.optimizers.lookahead import Lookahead
from graphc.training.optimizers.optimizer import Optimizer, Slot
from graphc.training.optimizers.sgd import SGD

__all__ = [
    "LAMB", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "Lookahead", "NAdam", "Optimizer", "RMSprop",
    "Rprop", "Slot",
]  # fmt: skip
