"""Losses of scores (N, C, ...) or (C) against class numbers (N, ...) or (), and against probabilities (N, C, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.types import i32, i64
from graphc.ops.arithmetic import add, div, mul, one_minus, sub
from graphc.training.hyperparameters import ANY, NOT_NEGATIVE, REDUCTION, SHARE, Each, Number, Optional, check
from graphc.training.losses.loss import Reduction, check_same, operands, reduced

WEIGHTS = Optional(Each(NOT_NEGATIVE))
INDEX = Optional(Number(whole=True))


@dataclass(frozen=True)
class CrossEntropy:
    """-log softmax(x)[t], weighted by `weight[t]` and averaged over what isn't ignored, by weight; x are logits.

    weight: one for each class. label_smoothing: the share of each target that goes evenly to all classes.
    ignore_index: a class number that counts for nothing; the mean over nothing is NaN. Targets of floats are probabilities
    of the shape of x; then the mean is over N and all further axes. Any other class number outside 0 .. C-1 makes the step
    raise NumericError. Source: Szegedy et al., 2015 (smoothing). torch: cross_entropy.
    """

    weight: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    ignore_index: int | None = None
    reduction: Reduction = "mean"
    targets: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self, weight=WEIGHTS, label_smoothing=SHARE, ignore_index=INDEX, reduction=REDUCTION)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        x, t = operands(b, "cross entropy", outputs, targets)
        axis = class_axis("cross entropy", x)
        y = b.op("log_softmax", x, axis=axis)
        if t.type.dtype.is_float:
            return self._of_probabilities(b, y, t, axis)
        return _likelihood(
            b, "cross entropy", y, t, self.weight, self.label_smoothing, self.ignore_index, self.reduction
        )

    def _of_probabilities(self, b: Builder, y: Value, t: Value, axis: int) -> Value:
        check_same("cross entropy", y, t)
        if self.ignore_index is not None:
            raise ShapeError("cross entropy: ignore_index is for class numbers", seen=t.type)
        if self.label_smoothing:
            share = b.full_like(self.label_smoothing, t)
            classes = b.full_like(1 / classes_of("cross entropy", y, axis), t)
            t = add(b, mul(b, t, 1 - self.label_smoothing), mul(b, share, classes))
        if self.weight is not None:
            t = mul(b, t, per_class(b, "cross entropy", self.weight, y, axis))
        each = b.op("reduce_sum", mul(b, b.op("neg", y), t), axes=(axis,))
        return reduced(b, each, self.reduction)


@dataclass(frozen=True)
class NLL:
    """-x[t], x being logarithms of probabilities; weighted and averaged like `CrossEntropy`. torch: nll_loss."""

    weight: tuple[float, ...] | None = None
    ignore_index: int | None = None
    reduction: Reduction = "mean"
    targets: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self, weight=WEIGHTS, ignore_index=INDEX, reduction=REDUCTION)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        x, t = operands(b, "NLL", outputs, targets)
        return _likelihood(b, "NLL", x, t, self.weight, 0.0, self.ignore_index, self.reduction)


@dataclass(frozen=True)
class Focal:
    """-(1 - p)^gamma * log(p), p the probability of the target: the mean over all, weighted by `weight[t]` (not divided by).

    Targets are class numbers, and p = softmax(x)[t]; or floats 0 and 1 of the shape of x, and p = sigmoid(x) of the 1s,
    1 - sigmoid(x) of the 0s, with weight (of 0, of 1). Source: Lin et al., 2017.
    """

    gamma: float = 2.0
    weight: tuple[float, ...] | None = None
    reduction: Reduction = "mean"
    targets: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self, gamma=NOT_NEGATIVE, weight=WEIGHTS, reduction=REDUCTION)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        x, t = operands(b, "focal", outputs, targets)
        if t.type.dtype.is_float:
            check_same("focal", x, t)
            # log p of the target is -softplus of -x for a 1, of x for a 0.
            log_p = b.op("neg", b.op("softplus", mul(b, x, one_minus(b, add(b, t, t)))))
            weights = None
            if self.weight is not None:
                zero, one = self.weight
                weights = add(b, mul(b, t, one - zero), zero)
        else:
            axis = class_axis("focal", x)
            log_p = _picked(b, b.op("log_softmax", x, axis=axis), t, axis)
            weights = _weights_of(b, "focal", self.weight, x, t, axis)
        # 1 - p by expm1, which keeps its digits where p is close to 1.
        rest = b.op("neg", b.op("expm1", log_p))
        each = mul(b, b.op("neg", log_p), b.op("pow", rest, b.full_like(self.gamma, rest)))
        return reduced(b, each if weights is None else mul(b, each, weights), self.reduction)


@dataclass(frozen=True)
class Hinge:
    """The mean of max(0, margin - x[t] + x[c])^p over the wrong classes c, divided by C; weighted by `weight[t]`.

    With float targets -1 and 1 of the shape of x: the mean of max(0, margin - t * x)^p. p is 1 or 2.
    Source: Crammer and Singer, 2001, summed over classes as by Weston and Watkins, 1999. torch: multi_margin_loss.
    """

    margin: float = 1.0
    p: int = 1
    weight: tuple[float, ...] | None = None
    reduction: Reduction = "mean"
    targets: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self, margin=ANY, p=Number(1, 2, whole=True), weight=WEIGHTS, reduction=REDUCTION)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        x, t = operands(b, "hinge", outputs, targets)
        if t.type.dtype.is_float:
            check_same("hinge", x, t)
            return reduced(b, self._power(b, sub(b, b.full_like(self.margin, x), mul(b, t, x))), self.reduction)
        axis = class_axis("hinge", x)
        mine = is_target(b, x, t, axis)
        right = along_classes(b, _picked(b, x, t, axis), x, axis)
        each = self._power(b, add(b, sub(b, x, right), self.margin))
        wrong = b.op("reduce_sum", b.op("select", mine, b.full_like(0, x), each), axes=(axis,))
        weights = _weights_of(b, "hinge", self.weight, x, t, axis)
        return reduced(b, mul(b, div(b, wrong, classes_of("hinge", x, axis)), weights), self.reduction)

    def _power(self, b: Builder, x: Value) -> Value:
        x = b.op("relu", x)
        return x if self.p == 1 else mul(b, x, x)


def class_axis(name: str, x: Value) -> int:
    """The axis of classes: 1, or 0 without a batch. Raises ShapeError for rank 0."""
    if x.type.rank == 0 or not x.type.dtype.is_float:
        raise ShapeError(f"{name}: scores must be floats (N, C, ...) or (C)", seen=x.type)
    return min(1, x.type.rank - 1)


def classes_of(name: str, x: Value, axis: int) -> int:
    """The number of classes; raises ShapeError where it isn't known at compile time."""
    classes = x.type.shape[axis]
    if not isinstance(classes, int):
        raise ShapeError(f"{name}: the number of classes must be known", seen=x.type)
    return classes


def per_class(b: Builder, name: str, weight: Sequence[float], x: Value, axis: int) -> Value:
    """Weights by class, repeated to the shape of `x`; raises ShapeError where there are more or fewer than classes."""
    return b.broadcast(_weights(b, name, weight, x, axis), x.type.shape, (axis,))


def is_target(b: Builder, x: Value, t: Value, axis: int) -> Value:
    """Whether an element of `x` is that of its target's class: bool of the shape of x.

    A comparison with a counter rather than a gather: it fuses into the same pass over the scores, and its gradient is
    elementwise where a gather's would scatter.
    """
    if t.type.dtype not in (i32, i64) or t.type.rank != x.type.rank - 1:
        raise ShapeError("targets must be class numbers, i32 or i64, of the scores' shape without the axis of classes",
                         seen=f"targets {t.type}, scores {x.type}")  # fmt: skip
    number = b.op("iota", dtype=t.type.dtype, shape=x.type.shape, axis=axis)
    return b.op("eq", number, along_classes(b, t, x, axis))


def along_classes(b: Builder, v: Value, x: Value, axis: int) -> Value:
    """A value without the axis of classes, repeated along it."""
    return b.broadcast(v, x.type.shape, [i for i in range(x.type.rank) if i != axis])


def _picked(b: Builder, x: Value, t: Value, axis: int) -> Value:
    """x[t]: zero where t is no class."""
    return b.op("reduce_sum", b.op("select", is_target(b, x, t, axis), x, b.full_like(0, x)), axes=(axis,))


def _weights(b: Builder, name: str, weight: Sequence[float] | None, x: Value, axis: int) -> Value:
    classes = classes_of(name, x, axis)
    if weight is not None and len(weight) != classes:
        raise ShapeError(f"{name}: weights of classes", seen=len(weight), expected=classes)
    values = np.ones(classes) if weight is None else np.asarray(weight)
    return b.constant(values.astype(x.type.dtype.numpy), "class_weights")


def _weights_of(b: Builder, name: str, weight: Sequence[float] | None, x: Value, t: Value, axis: int) -> Value:
    """The weight of each target's class. Also without weights by a gather: it is what refuses a number that is no class."""
    return b.op("gather", _weights(b, name, weight, x, axis), t, axis=0)


def _likelihood(
    b: Builder, name: str, y: Value, t: Value, weight: Sequence[float] | None, smoothing: float, ignore: int | None,
    reduction: Reduction,
) -> Value:  # fmt: skip
    """-y[t] by weight, y being logarithms of probabilities."""
    axis = class_axis(name, y)
    classes = classes_of(name, y, axis)
    counted = None
    if ignore is not None:
        counted = b.op("ne", t, b.full_like(ignore, t))
        t = b.op("select", counted, t, b.full_like(0, t))
    each = _picked(b, y, t, axis)
    w = _weights_of(b, name, weight, y, t, axis)
    each = mul(b, each, w)
    if smoothing:
        to_all = y if weight is None else mul(b, y, per_class(b, name, weight, y, axis))
        spread = b.op("reduce_sum", to_all, axes=(axis,))
        each = add(b, mul(b, each, 1 - smoothing), mul(b, spread, smoothing / classes))
    if counted is not None:
        each = b.op("select", counted, each, b.full_like(0, each))
        w = b.op("select", counted, w, b.full_like(0, w))
    total = b.op("neg", reduced(b, each, "sum"))
    return div(b, total, reduced(b, w, "sum")) if reduction == "mean" else total
