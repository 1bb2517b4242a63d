"""Scaled dot-product attention over heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.types import TensorType, i64
from graphc.ops.arithmetic import add, mul
from graphc.ops.by_decomposition import decomposition, vjp_by_decomposition
from graphc.ops.common import FLOATS, check_dtype, check_same_dtype, widened
from graphc.ops.sampling import uniform

_MINUS_INFINITY = float("-inf")


def _infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    q, k, v = types[:3]
    check_same_dtype((q, k, v), "queries, keys and values")
    check_dtype(q, FLOATS, "queries, keys and values")
    if any(t.rank != 4 for t in types):
        raise ShapeError("attention takes [batch, heads, length, depth]", seen=", ".join(map(str, types)))
    batch, heads, s, depth = q.shape
    length = inference.equal(k.shape[2], v.shape[2], "numbers of keys and values")
    inference.equal(depth, k.shape[3], "depths of queries and keys")
    for t in (k, v):
        inference.equal(batch, t.shape[0], "batch of queries, keys and values")
        inference.equal(heads, t.shape[1], "heads of queries, keys and values")
    if len(types) == 4:
        mask = types[3]
        if not (mask.dtype.is_bool or mask.dtype == q.dtype):
            raise ShapeError("element type of mask", seen=mask, expected=f"bool or {q.dtype}")
        inference.same_shape([q.with_shape((batch, heads, s, length)), mask], "scores and mask")
    return (q.with_shape((batch, heads, s, v.shape[3])),)


def attention_weights(
    b: Builder, q: Value, k: Value, mask: Value | None = None, *, scale: float, causal: bool
) -> Value:
    """What attention multiplies the values by, [batch, heads, queries, keys]: the softmax of the masked scores."""
    scores = b.op("dot", q, k, lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(3,))
    scores = mul(b, scores, scale)
    hidden = b.full_like(_MINUS_INFINITY, scores)
    if mask is not None and mask.type.dtype.is_bool:
        scores = b.op("select", mask, scores, hidden)
    elif mask is not None:
        scores = add(b, scores, mask)
    if causal:
        square = scores.type.shape[2:]
        row, column = (b.op("iota", dtype=i64, shape=square, axis=i) for i in (0, 1))
        seen = b.broadcast(b.op("ge", row, column), scores.type.shape, (2, 3))
        scores = b.op("select", seen, scores, hidden)
    return b.op("softmax", scores, axis=3)


def _attention(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    q, k, v, *mask = operands
    weights = attention_weights(b, q, k, *mask, scale=a["scale"], causal=a["causal"])
    return (b.op("dot", weights, v, lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(2,)),)


def _reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    q, k, v, *mask = operands
    scores = (q @ k.swapaxes(2, 3)) * q.dtype.type(a["scale"])
    if mask and mask[0].dtype == bool:
        scores = np.where(mask[0], scores, -np.inf)
    elif mask:
        scores = scores + mask[0]
    if a["causal"]:
        scores = np.where(np.tri(*scores.shape[2:]) > 0, scores, -np.inf)
    scores = scores.astype(q.dtype, copy=False)
    weights = np.exp(scores - scores.max(3, keepdims=True))
    return (weights / weights.sum(3, keepdims=True) @ v,)


def _samples() -> Iterable[Sample]:
    def qkv(batch: int, heads: int, s: int, t: int, d: int, e: int) -> tuple[np.ndarray, ...]:
        return (uniform(batch, heads, s, d), uniform(batch, heads, t, d, seed=1), uniform(batch, heads, t, e, seed=2))

    yield Sample(qkv(2, 3, 5, 5, 4, 4), {"scale": 0.5})
    yield Sample(qkv(1, 2, 4, 7, 3, 5), {"scale": 0.6})
    yield Sample(qkv(1, 2, 17, 17, 8, 8), {"scale": 0.35, "causal": True})
    yield Sample(qkv(1, 1, 3, 5, 4, 2), {"scale": 0.5, "causal": True})
    yield Sample((*qkv(1, 2, 4, 6, 4, 4), uniform(1, 2, 4, 6, seed=3)), {"scale": 0.5})
    keep = uniform(1, 2, 4, 6, seed=4) > -0.5
    keep[..., 0] = True
    yield Sample((*qkv(1, 2, 4, 6, 4, 4), keep), {"scale": 0.5})
    yield Sample((*qkv(1, 1, 2, 3, 4, 4), np.zeros((1, 1, 2, 3), bool)), {"scale": 0.5}, differentiable=False)


OPERATORS = (
    OpDef(
        name="attention",
        operands=("q", "k", "v", "mask?"),
        attributes={"scale": Attribute("float"), "causal": Attribute("bool", False)},
        infer=_infer,
        reference=widened(_reference),
        vjp=vjp_by_decomposition,
        decompose=decomposition(_attention),
        samples=_samples,
        dtypes=FLOATS,
        doc="""softmax(q k^T * scale + mask) v for q [b,h,s,d], k [b,h,t,d], v [b,h,t,e]: [b,h,s,e].

        `mask` is [b,h,s,t]: a float is added, a bool hides where it is false. `causal` hides key j from query i where
        j > i. A row all hidden is NaN. ONNX: Attention. Source: Vaswani et al., 2017.""",
    ),
)
