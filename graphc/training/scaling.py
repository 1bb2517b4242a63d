"""Loss scaling: gradients of f16 arithmetic are kept from vanishing by a factor that falls where they overflow."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.types import bool_
from graphc.ops.arithmetic import add, mul

GROWTH_INTERVAL = 2000
"""Finite updates in a row after which the scale doubles. Source: Micikevicius et al., "Mixed precision training", 2018."""

LARGEST = 2.0**127
"""What the scale doubles to at most: an infinite one would never fall again."""


SMALLEST = 1.0
"""What the scale halves to at least: one of 0 would never rise again, and make every gradient NaN. Below 1 a scale takes
from small gradients what it is there for; what overflows unscaled, no scale helps. 1 is the least of TensorFlow's
DynamicLossScale too, and of DeepSpeed's by default; torch's GradScaler has no bound.
"""


def all_finite(b: Builder, values: Sequence[Value]) -> Value:
    """bool[]: whether no element is infinite or NaN."""
    finite = b.scalar(True, bool_)
    for v in values:
        if v.type.is_static and 0 in v.type.shape:
            continue
        greatest = b.op("reduce_max", b.op("abs", v), axes=tuple(range(v.type.rank)))  # NaN if there is one
        finite = b.op("logical_and", finite, b.op("lt", greatest, b.full_like(float("inf"), greatest)))
    return finite


def next_scale(b: Builder, scale: Value, count: Value, finite: Value) -> tuple[Value, Value]:
    """The next scale and count: halved at an overflow, to `SMALLEST` at least, doubled after `GROWTH_INTERVAL` finite
    updates in a row, to `LARGEST` at most."""
    counted = add(b, count, b.full_like(1, count))
    grows = b.op("ge", counted, b.full_like(GROWTH_INTERVAL, counted))
    larger = b.op("select", grows, b.op("min", mul(b, scale, 2.0), b.full_like(LARGEST, scale)), scale)
    none = b.full_like(0, count)
    kept = b.op("select", grows, none, counted)
    smaller = b.op("max", mul(b, scale, 0.5), b.full_like(SMALLEST, scale))
    return b.op("select", finite, larger, smaller), b.op("select", finite, kept, none)
