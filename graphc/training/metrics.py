"""Metrics: numbers that tell how good a model is, from sums that are computed with the step and added up over batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from graphc.errors import GraphcError, ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.types import f32
from graphc.ops.arithmetic import count, mul
from graphc.ops.by_decomposition import wide
from graphc.training.losses import MAE, MSE, Loss
from graphc.training.losses.classes import along_classes, class_axis, is_target


class Metric(Protocol):
    """A name, sums over a batch as a graph, and the number that the sums of all batches make."""

    @property
    def name(self) -> str:
        """What it is called in logs."""

    def sums(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        """Emits a float vector of sums over the batch's samples. Raises ShapeError where outputs and targets don't fit."""

    def value(self, sums: np.ndarray) -> float:
        """The metric, from the sums over all batches."""


@dataclass(frozen=True)
class Accuracy:
    """The share of targets whose class has the highest score: outputs (N, C, ...), targets class numbers (N, ...).

    Of equal scores the first counts. Targets `ignore_index` are left out. With float targets of the outputs' shape: the
    share of elements on the same side, outputs of 0 and targets of 0.5.
    """

    ignore_index: int | None = None
    name: str = "accuracy"

    def sums(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        x, t = _pair(b, self.name, outputs, targets)
        if t.type.dtype.is_float:
            hit = b.op("eq", b.op("gt", x, b.full_like(0, x)), b.op("gt", t, b.full_like(0.5, t)))
            return _share(b, hit, None)
        axis = class_axis(self.name, x)
        hit = b.op("eq", b.cast(b.op("argmax", x, axis=axis), t.type.dtype), t)
        return _share(b, hit, _counted(b, t, self.ignore_index))

    def value(self, sums: np.ndarray) -> float:
        return _quotient(sums)


@dataclass(frozen=True)
class TopK:
    """The share of targets whose class is among the k highest scores: fewer than k are higher than its own."""

    k: int = 5
    ignore_index: int | None = None

    @property
    def name(self) -> str:
        return f"top{self.k}"

    def sums(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        x, t = _pair(b, self.name, outputs, targets)
        axis = class_axis(self.name, x)
        zero = b.full_like(0, x)
        own = b.op("reduce_sum", b.op("select", is_target(b, x, t, axis), x, zero), axes=(axis,))
        higher = b.cast(b.op("gt", x, along_classes(b, own, x, axis)), x.type.dtype)
        rank = b.op("reduce_sum", higher, axes=(axis,))
        return _share(b, b.op("lt", rank, b.full_like(self.k, rank)), _counted(b, t, self.ignore_index))

    def value(self, sums: np.ndarray) -> float:
        return _quotient(sums)


@dataclass(frozen=True)
class F1:
    """2 tp / (2 tp + fp + fn) of classes: their mean ("macro"), weighted by targets ("weighted"), or of all ("micro").

    Outputs are scores (N, C, ...), targets class numbers (N, ...). A class without any targets and predictions counts as 0
    in the mean. Source: van Rijsbergen, 1979. scikit-learn: f1_score with all labels.
    """

    average: Literal["macro", "micro", "weighted"] = "macro"
    name: str = "f1"

    def sums(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        x, t = _pair(b, self.name, outputs, targets)
        axis = class_axis(self.name, x)
        mine = is_target(b, x, t, axis)
        said = is_target(b, x, b.cast(b.op("argmax", x, axis=axis), t.type.dtype), axis)
        others = tuple(i for i in range(x.type.rank) if i != axis)
        parts = [
            b.op("reduce_sum", b.cast(v, x.type.dtype), axes=others) for v in (b.op("logical_and", mine, said), mine, said)
        ]
        return b.op("concat", *parts, axis=0)

    def value(self, sums: np.ndarray) -> float:
        right, mine, said = sums.reshape(3, -1)
        if self.average == "micro":
            right, mine, said = (v.sum(keepdims=True) for v in (right, mine, said))
        scores = 2 * right / np.maximum(mine + said, 1)
        return float(np.average(scores, weights=mine if self.average == "weighted" else None))


@dataclass(frozen=True)
class Mean:
    """A loss as a metric: its mean over samples."""

    loss: Loss
    name: str

    def sums(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        value = self.loss(b, outputs, targets)
        n = count(b, outputs[0].type.shape[:1], value.type.dtype)
        return _vector(b, mul(b, value, n), n)

    def value(self, sums: np.ndarray) -> float:
        return _quotient(sums)


METRICS: Mapping[str, Callable[[], Metric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "mae": lambda: Mean(MAE(), "mae"),
    "mse": lambda: Mean(MSE(), "mse"),
    "top5": TopK,
}
"""Metrics with their defaults, by name."""


def metrics_of(metrics: Sequence[str | Metric]) -> tuple[Metric, ...]:
    """Metrics, of which some are given by name. Raises GraphcError for an unknown or doubled name."""
    found = []
    for m in metrics:
        if isinstance(m, str) and m not in METRICS:
            raise GraphcError("there is no such metric", seen=m, expected=", ".join(sorted(METRICS)))
        found.append(METRICS[m]() if isinstance(m, str) else m)
    names = [m.name for m in found]
    if len(set(names)) < len(names) or "loss" in names:
        raise GraphcError("metrics must have names of their own", seen=", ".join(names))
    return tuple(found)


def _pair(b: Builder, name: str, outputs: Sequence[Value], targets: Sequence[Value]) -> tuple[Value, Value]:
    if not outputs or len(targets) != 1:
        raise ShapeError(f"{name} is of an output and a target", seen=f"{len(outputs)} and {len(targets)}")
    x, t = outputs[0], targets[0]
    return b.cast(x, wide(x.type.dtype)), b.cast(t, wide(t.type.dtype))


def _counted(b: Builder, t: Value, ignore: int | None) -> Value | None:
    return None if ignore is None else b.op("ne", t, b.full_like(ignore, t))


def _share(b: Builder, hit: Value, counted: Value | None) -> Value:
    """(hits, how many could be)."""
    if counted is None:
        return _vector(b, _total(b, hit), count(b, hit.type.shape, f32))
    return _vector(b, _total(b, b.op("logical_and", hit, counted)), _total(b, counted))


def _total(b: Builder, x: Value) -> Value:
    return b.op("reduce_sum", b.cast(x, f32), axes=tuple(range(x.type.rank)))


def _vector(b: Builder, *scalars: Value) -> Value:
    return b.op("concat", *(b.reshape(v, (1,)) for v in scalars), axis=0)


def _quotient(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1]) if sums[1] else float("nan")
