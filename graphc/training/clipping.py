"""Bounds on gradients: by value, and by their common norm."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.types import f32
from graphc.ops.arithmetic import add, div, mul


def clip_by_value(b: Builder, gradients: Sequence[Value], limit: float) -> list[Value]:
    """Each element, held between -limit and limit. torch: clip_grad_value_."""
    return [b.op("min", b.op("max", g, b.full_like(-limit, g)), b.full_like(limit, g)) for g in gradients]


def clip_by_norm(b: Builder, gradients: Sequence[Value], limit: float) -> list[Value]:
    """All gradients times min(1, limit / (norm + 1e-6)), norm that of all their elements. torch: clip_grad_norm_."""
    dtype = max((f32, *(g.type.dtype for g in gradients)), key=lambda d: d.bytes)  # f16 holds no square above 255
    total = b.scalar(0.0, dtype)
    for g in gradients:
        wide = b.cast(g, dtype)
        total = add(b, total, b.op("reduce_sum", mul(b, wide, wide), axes=tuple(range(g.type.rank))))
    limit_value = b.scalar(limit, dtype)
    factor = b.op("min", div(b, limit_value, add(b, b.op("sqrt", total), 1e-6)), b.scalar(1.0, dtype))
    return [mul(b, g, b.broadcast(b.cast(factor, g.type.dtype), g.type.shape, ())) for g in gradients]
