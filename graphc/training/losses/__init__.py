"""Losses: builders of one number from a model's outputs and targets, computed as torch's of the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphc.errors import GraphcError
from graphc.training.losses.binary import KL, BinaryCrossEntropy, BinaryCrossEntropyWithLogits
from graphc.training.losses.classes import NLL, CrossEntropy, Focal, Hinge
from graphc.training.losses.ctc import CTC
from graphc.training.losses.loss import Loss
from graphc.training.losses.regression import MAE, MSE, RMSE, Huber
from graphc.training.losses.similarity import CosineEmbedding, Triplet

LOSSES: Mapping[str, Callable[[], Loss]] = {
    "binary_cross_entropy": BinaryCrossEntropy,
    "binary_cross_entropy_with_logits": BinaryCrossEntropyWithLogits,
    "cosine_embedding": CosineEmbedding,
    "cross_entropy": CrossEntropy,
    "ctc": CTC,
    "focal": Focal,
    "hinge": Hinge,
    "huber": Huber,
    "kl": KL,
    "mae": MAE,
    "mse": MSE,
    "nll": NLL,
    "rmse": RMSE,
    "triplet": Triplet,
}
"""Losses with their defaults, by name."""


def loss_of(loss: str | Loss | None) -> Loss | None:
    """The loss of that name, or what is given. Raises GraphcError for an unknown name, and for what is no loss."""
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise GraphcError("there is no such loss", seen=loss, expected=", ".join(sorted(LOSSES)))
        return LOSSES[loss]()
    if isinstance(loss, type) or not (loss is None or (callable(loss) and isinstance(getattr(loss, "targets", None), int))):
        raise GraphcError("no such loss", seen=repr(loss), expected="a name, a value as graphc.training.losses.MSE(), or None")
    return loss

__all__ = [
    "CTC", "KL", "LOSSES", "MAE", "MSE", "NLL", "RMSE", "BinaryCrossEntropy", "BinaryCrossEntropyWithLogits",
    "CosineEmbedding", "CrossEntropy", "Focal", "Hinge", "Huber", "Loss", "Triplet", "loss_of",
]  # fmt: skip
