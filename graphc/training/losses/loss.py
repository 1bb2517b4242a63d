"""What a loss is: a builder of one number from a model's outputs and the targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ops.arithmetic import count, div
from graphc.ops.by_decomposition import wide

Reduction = Literal["mean", "sum"]


class Loss(Protocol):
    """Emits a rank-0 float from the model's outputs and `targets` arrays that come with the data."""

    @property
    def targets(self) -> int:
        """How many targets follow the model's inputs in the data."""

    def __call__(self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value]) -> Value:
        """Emits the loss. Raises ShapeError where outputs or targets don't fit."""


def reduced(b: Builder, x: Value, reduction: Reduction) -> Value:
    """The mean or the sum of all elements."""
    total = b.op("reduce_sum", x, axes=tuple(range(x.type.rank)))
    return div(b, total, count(b, x.type.shape, x.type.dtype)) if reduction == "mean" else total


def operands(
    b: Builder, name: str, outputs: Sequence[Value], targets: Sequence[Value], expected: tuple[int, int] = (1, 1)
) -> tuple[Value, ...]:
    """The `expected` number of outputs and targets, f16 and bf16 cast to f32: losses are computed there.

    Raises ShapeError where there are more or fewer.
    """
    if (len(outputs), len(targets)) != expected:
        seen = f"{len(outputs)} and {len(targets)}"
        raise ShapeError(f"{name}: outputs of the model and targets", seen=seen, expected=f"{expected[0]} and {expected[1]}")
    return tuple(b.cast(v, wide(v.type.dtype)) for v in (*outputs, *targets))


def check_same(name: str, *values: Value) -> None:
    """Raises ShapeError unless all values have one rank and float element type; inference compares their dims."""
    first = values[0].type
    if any(v.type.rank != first.rank or v.type.dtype != first.dtype or not first.dtype.is_float for v in values):
        seen = " and ".join(str(v.type) for v in values)
        raise ShapeError(f"{name}: outputs and targets must have one shape and float element type", seen=seen)
