"""Losses of numbers against numbers: outputs and targets are floats of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ops.arithmetic import add, mul, sub
from graphc.training.hyperparameters import NOT_NEGATIVE, POSITIVE, REDUCTION, check
from graphc.training.losses.loss import Reduction, check_same, operands, reduced


@dataclass(frozen=True)
class MSE:
    """The mean (or sum) of (x - t)^2. torch: mse_loss."""

    reduction: Reduction = "mean"
    targets: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self, reduction=REDUCTION)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        d = _difference(b, "MSE", outputs, targets)
        return reduced(b, mul(b, d, d), self.reduction)


@dataclass(frozen=True)
class RMSE:
    """sqrt(mean((x - t)^2) + eps); without eps the gradient is NaN where all is right."""

    eps: float = 0.0
    targets: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self, eps=NOT_NEGATIVE)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        d = _difference(b, "RMSE", outputs, targets)
        mean = reduced(b, mul(b, d, d), "mean")
        return b.op("sqrt", add(b, mean, self.eps) if self.eps else mean)


@dataclass(frozen=True)
class MAE:
    """The mean (or sum) of |x - t|; the gradient is 0 where they are equal. torch: l1_loss."""

    reduction: Reduction = "mean"
    targets: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self, reduction=REDUCTION)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        return reduced(b, b.op("abs", _difference(b, "MAE", outputs, targets)), self.reduction)


@dataclass(frozen=True)
class Huber:
    """The mean (or sum) of d^2 / 2 where |d| <= delta, else delta * (|d| - delta / 2), d = x - t.

    Source: Huber, 1964. torch: huber_loss; with delta 1 smooth_l1_loss.
    """

    delta: float = 1.0
    reduction: Reduction = "mean"
    targets: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self, delta=POSITIVE, reduction=REDUCTION)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        d = b.op("abs", _difference(b, "Huber", outputs, targets))
        near = b.op("min", d, b.full_like(self.delta, d))
        # near * (|d| - near / 2) is both arms: near is |d| in the one and delta in the other.
        return reduced(b, mul(b, near, sub(b, d, mul(b, near, 0.5))), self.reduction)


def _difference(b: Builder, name: str, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
    x, t = operands(b, name, outputs, targets)
    check_same(name, x, t)
    return sub(b, x, t)
