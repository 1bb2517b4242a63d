"""Scaled dot-product attention, kept whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from graphc.ir.graph import Value
from graphc.ir.symbolic import product
from graphc.ops.attention import attention_weights
from graphc_torch.call import Call, Converter
from graphc_torch.convert_elementwise import truth
from graphc_torch.convert_random import dropout

_MINUS_INFINITY = float("-inf")


def _attention(c: Call) -> Value:
    """softmax(q k^T * scale + mask) v; a query that sees no key gives zeros."""
    q, k, v = (c.x(name) for name in ("query", "key", "value"))
    shape = c.type().shape
    scale = c.get("scale")
    if scale is None:
        scale = 1 / math.sqrt(c.static(q.type.shape[-1], "depth of heads"))
    if c.get("enable_gqa"):
        k, v = _repeated(c, k, q), _repeated(c, v, q)
    mask = c.x("attn_mask") if c.has("attn_mask") else None
    if mask is not None:
        mask = c.broadcast(mask, (*shape[:-1], k.type.shape[-2]))
    q, k, v = (_four_axes(c, c.broadcast(x, (*shape[:-2], *x.type.shape[-2:]))) for x in (q, k, v))
    operands = [q, k, v] if mask is None else [q, k, v, _four_axes(c, mask)]
    y = _attend(c, operands, float(scale))
    return c.b.reshape(y if mask is None else _zero_where_hidden(c, y, operands[3]), shape)


def _attend(c: Call, operands: Sequence[Value], scale: float) -> Value:
    """Attention, whole where none of its weights are dropped."""
    q, k, v, *mask = operands
    causal, rate = bool(c.get("is_causal")), float(c.get("dropout_p", 0.0))
    if not rate:
        return c.b.op("attention", *operands, scale=scale, causal=causal)
    weights = dropout(c, attention_weights(c.b, q, k, *mask, scale=scale, causal=causal), rate)
    return c.b.op("dot", weights, v, lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(2,))


def _four_axes(c: Call, x: Value) -> Value:
    """[batch, heads, length, depth]: axes in front of that are one, missing ones are of size 1."""
    *batch, length, depth = x.type.shape
    if len(batch) > 2:
        batch = [product(batch[:-1]), batch[-1]]
    return c.b.reshape(x, (*(1 for _ in range(2 - len(batch))), *batch, length, depth))


def _repeated(c: Call, x: Value, q: Value) -> Value:
    """Keys or values with each head repeated for the queries that share it."""
    *batch, heads, length, depth = x.type.shape
    wanted = c.static(q.type.shape[-3], "number of heads")
    if heads == wanted:
        return x
    group = wanted // c.static(heads, "number of heads")
    n = len(batch)
    spread = c.b.broadcast(x, (*batch, heads, group, length, depth), (*range(n), n, n + 2, n + 3))
    return c.b.reshape(spread, (*batch, wanted, length, depth))


def _zero_where_hidden(c: Call, y: Value, mask: Value) -> Value:
    """y with zeros for the queries whose mask leaves no key."""
    if mask.type.dtype.is_bool:
        visible = truth(c, mask)
    else:
        visible = c.b.op("ne", mask, c.b.full_like(_MINUS_INFINITY, mask))
    hidden = c.b.op("logical_not", c.b.op("reduce_max", visible, axes=(3,)))
    return c.b.op("select", c.b.broadcast(hidden, y.type.shape, (0, 1, 2)), c.b.full_like(0, y), y)


CONVERTERS: Mapping[str, Converter] = {"scaled_dot_product_attention": _attention}
