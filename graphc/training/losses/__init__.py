"""Losses: builders of one number from a model's outputs and targets, computed as torch's of the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphc.training.losses.classes import NLL, CrossEntropy, Focal, Hinge
from graphc.training.losses.loss import Loss
from graphc.training.losses.regression import MAE, MSE, RMSE, Huber

LOSSES: Mapping[str, Callable[[], Loss]] = {
    "cross_entropy": CrossEntropy, "focal": Focal, "hinge": Hinge, "huber": Huber, "mae": MAE, "mse": MSE, "nll": NLL,
    "rmse": RMSE,
}  # fmt: skip
"""Losses with their defaults, by name."""

__all__ = ["LOSSES", "MAE", "MSE", "NLL", "RMSE", "CrossEntropy", "Focal", "Hinge", "Huber", "Loss"]
