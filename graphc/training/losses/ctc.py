"""Connectionist temporal classification: the likelihood of a label sequence over all its alignments to the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import Dim
from graphc.ir.types import TensorType, bool_, i32, i64
from graphc.ops.arithmetic import add, div, mul, sub
from graphc.ops.movement import cut
from graphc.training.hyperparameters import REDUCTION, WHOLE, check
from graphc.training.losses.loss import Reduction, operands, reduced

LOG_ZERO = -1e30
"""The logarithm of probability zero: finite, so that differences of two of them are 0 and not NaN."""


@dataclass(frozen=True)
class CTC:
    """-log of the probability of the labels; "mean" divides each by its number of labels (at least 1), then averages.

    The model's output is log-probabilities (T, N, C); targets are labels (N, S), without `blank`, then the lengths of
    frames (N) and of labels (N), all i64 or i32; what lies beyond the lengths isn't read. Labels that can't be aligned to
    so few frames give infinity, or 0 with `zero_infinity`. Labels that are no class and lengths beyond T and S raise
    NumericError. Source: Graves et al., 2006, the recursion of section 4.1 in log space. torch: ctc_loss, whose gradient
    is meant for the logits below a log_softmax alone; this one is that of the log-probabilities themselves.
    """

    blank: int = 0
    zero_infinity: bool = False
    reduction: Reduction = "mean"
    targets: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check(self, blank=WHOLE, reduction=REDUCTION)

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        x, labels, frames, length = operands(b, "CTC", outputs, targets, (1, 3))
        _check_types(x, labels, frames, length)
        time = x.type.shape[0]
        size = labels.type.shape[1]
        frames, length = _checked(b, frames, time), _checked(b, length, size)
        path, skips = self._path(b, b.cast(labels, i64), length)
        # The log-probability of each element of the path in each frame, all gathered at once.
        at = b.broadcast(path, (time, *path.type.shape), (1, 2))
        y = b.op("take_along", b.op("max", x, b.full_like(LOG_ZERO, x)), at, axis=2)
        start = b.op("eq", b.op("iota", dtype=i64, shape=path.type.shape, axis=1), b.full_like(0, path))
        alpha = TensorType(x.type.dtype, path.type.shape)
        alpha0 = b.op("select", start, b.full(0, alpha), b.full(LOG_ZERO, alpha))
        clock = b.op("iota", dtype=i64, shape=(time,), axis=0)
        body = _body(alpha, y.type.shape)
        last = b.ops("scan", alpha0, y, clock, skips, frames, body=body, carries=1, scanned=2)[0]
        each = self._loss(b, last, length)
        if self.reduction == "mean":
            each = div(b, each, b.cast(b.op("max", length, b.full_like(1, length)), each.type.dtype))
        return reduced(b, each, self.reduction)

    def _path(self, b: Builder, labels: Value, length: Value) -> tuple[Value, Value]:
        """Labels with blanks around each, (N, 2 S + 1), and where the path may come from two elements before."""
        batch, size = labels.type.shape
        number = b.op("iota", dtype=i64, shape=labels.type.shape, axis=1)
        read = b.op("lt", number, b.broadcast(length, labels.type.shape, (0,)))
        blanks = b.full_like(self.blank, labels)
        labels = b.op("select", read, labels, blanks)
        pairs = b.op("concat", *(b.reshape(v, (batch, size, 1)) for v in (blanks, labels)), axis=2)
        end = b.full(self.blank, labels.type.with_shape((batch, 1)))
        path = b.op("concat", b.reshape(pairs, (batch, size * 2)), end, axis=1)
        is_label = b.op("ne", path, b.full_like(self.blank, path))
        return path, b.op("logical_and", is_label, b.op("ne", path, _shifted(b, path, 2, self.blank)))

    def _loss(self, b: Builder, last: Value, length: Value) -> Value:
        """The alignments that end at the last label or at the blank after it."""
        position = b.op("iota", dtype=i64, shape=last.type.shape, axis=1)
        end = b.broadcast(mul(b, length, 2), last.type.shape, (0,))
        ends = b.op("logical_or", b.op("eq", position, end), b.op("eq", position, sub(b, end, 1)))
        chosen = b.op("select", ends, last, b.full_like(LOG_ZERO, last))
        top = b.op("stop_gradient", b.op("reduce_max", chosen, axes=(1,)))
        powers = b.op("exp", sub(b, chosen, b.broadcast(top, chosen.type.shape, (0,))))
        likelihood = add(b, top, b.op("log", b.op("reduce_sum", powers, axes=(1,))))
        impossible = b.op("lt", likelihood, b.full_like(LOG_ZERO / 2, likelihood))
        otherwise = b.full_like(0 if self.zero_infinity else float("inf"), likelihood)
        return b.op("select", impossible, otherwise, b.op("neg", likelihood))


def _check_types(x: Value, labels: Value, frames: Value, length: Value) -> None:
    ranks = tuple(v.type.rank for v in (x, labels, frames, length))
    if ranks != (3, 2, 1, 1) or any(v.type.dtype not in (i32, i64) for v in (labels, frames, length)):
        raise ShapeError(
            "CTC: outputs and targets",
            seen=", ".join(str(v.type) for v in (x, labels, frames, length)),
            expected="log-probabilities (T, N, C); integers (N, S), (N) and (N)",
        )


def _checked(b: Builder, lengths: Value, most: Dim) -> Value:
    """The lengths as i64, looked up in 0 .. most: the look-up refuses any other."""
    return b.op("gather", b.op("iota", dtype=i64, shape=(most + 1,), axis=0), lengths, axis=0)


def _shifted(b: Builder, x: Value, by: int, fill: float) -> Value:
    """Elements moved along axis 1, the first ones `fill`."""
    padded = b.op("pad", x, b.scalar(fill, x.type.dtype), low=(0, by), high=(0, 0))
    return cut(b, padded, 1, 0, x.type.shape[1])


def _body(alpha: TensorType, shape: Sequence[Dim]) -> Graph:
    """One frame: (alpha, y, t, skips, frames) -> alpha, where the frame is within the length."""
    b = Builder(Graph("ctc_frame"))
    a, y, t = b.input("alpha", alpha.dtype, shape[1:]), b.input("y", alpha.dtype, shape[1:]), b.input("t", i64, ())
    skips, frames = b.input("skips", bool_, shape[1:]), b.input("frames", i64, shape[1:2])
    one = _shifted(b, a, 1, LOG_ZERO)
    two = b.op("select", skips, _shifted(b, a, 2, LOG_ZERO), b.full_like(LOG_ZERO, a))
    top = b.op("stop_gradient", b.op("max", b.op("max", a, one), two))
    powers = [b.op("exp", sub(b, v, top)) for v in (a, one, two)]
    after = add(b, add(b, top, b.op("log", add(b, add(b, *powers[:2]), powers[2]))), y)
    running = b.op("lt", b.broadcast(t, frames.type.shape, ()), frames)
    return b.returns(b.op("select", b.broadcast(running, a.type.shape, (0,)), after, a))
