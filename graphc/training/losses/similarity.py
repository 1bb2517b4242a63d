"""Losses of embeddings: what belongs together is to lie close."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ops.arithmetic import add, div, mul, one_minus, sub
from graphc.training.hyperparameters import ANY, NOT_NEGATIVE, REDUCTION, check
from graphc.training.losses.loss import Reduction, check_same, operands, reduced

COSINE_EPS = 1e-12
"""What is added to squared lengths, as in torch's cosine_embedding_loss."""


@dataclass(frozen=True)
class Triplet:
    """The mean of max(0, |a - p| - |a - n| + margin); the model's outputs are anchors a, positives p, negatives n (N, D).

    The distance is the Euclidean norm of the difference, to whose elements eps is added; with `swap` a negative is as far
    as it is from the nearer of anchor and positive. Source: Balntas et al., 2016. torch: triplet_margin_loss.
    """

    margin: float = 1.0
    swap: bool = False
    eps: float = 1e-6
    reduction: Reduction = "mean"
    targets: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check(self, margin=ANY, eps=NOT_NEGATIVE, reduction=REDUCTION)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        anchor, positive, negative = operands(b, "triplet", outputs, targets, (3, 0))
        check_same("triplet", anchor, positive, negative)
        near, far = self._distance(b, anchor, positive), self._distance(b, anchor, negative)
        if self.swap:
            far = b.op("min", far, self._distance(b, positive, negative))
        return reduced(b, b.op("relu", add(b, sub(b, near, far), self.margin)), self.reduction)

    def _distance(self, b: Builder, x: Value, y: Value) -> Value:
        d = add(b, sub(b, x, y), self.eps)
        return b.op("sqrt", _product(b, d, d))


@dataclass(frozen=True)
class CosineEmbedding:
    """The mean of 1 - cos(x, y) where the target is 1, of max(0, cos(x, y) - margin) where it is -1.

    The model's outputs are x and y (N, D), targets are (N): integers or floats. torch: cosine_embedding_loss.
    """

    margin: float = 0.0
    reduction: Reduction = "mean"
    targets: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self, margin=ANY, reduction=REDUCTION)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        x, y, t = operands(b, "cosine embedding", outputs, targets, (2, 1))
        check_same("cosine embedding", x, y)
        lengths = [add(b, _product(b, v, v), COSINE_EPS) for v in (x, y)]
        cosine = div(b, _product(b, x, y), b.op("sqrt", mul(b, *lengths)))
        if t.type.rank != cosine.type.rank:
            raise ShapeError("cosine embedding: targets must have the shape of outputs without their last axis",
                             seen=f"targets {t.type}, outputs {x.type}")  # fmt: skip
        apart = b.op("relu", sub(b, cosine, self.margin))
        zero = b.full_like(0, cosine)
        close = b.op("select", b.op("eq", t, b.full_like(1, t)), one_minus(b, cosine), zero)
        each = add(b, close, b.op("select", b.op("eq", t, b.full_like(-1, t)), apart, zero))
        return reduced(b, each, self.reduction)


def _product(b: Builder, x: Value, y: Value) -> Value:
    """Sums of products over the last axis."""
    return b.op("reduce_sum", mul(b, x, y), axes=(x.type.rank - 1,))
