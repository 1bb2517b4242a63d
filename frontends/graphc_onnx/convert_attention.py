"""Attention and rotary positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, floordiv
from graphc.ir.types import i64
from graphc_onnx.call import Call, Converter
from graphc_onnx.convert_movement import part
from graphc_onnx.imported import Refused, broadcast_to

_MINUS_INFINITY = float("-inf")


@dataclass(frozen=True)
class _Mask:
    """What hides keys: `allowed` (bool) and `bias` (added), each of shape [batch, heads, queries, keys] or None."""

    allowed: Value | None
    bias: Value | None


def _attention(c: Call) -> list[Value | None]:
    """softmax(q k^T * scale + mask) v over heads; keys and values may follow those of a cache."""
    q, k, v = (_heads(c, c.x(i), name) for i, name in ((0, "q_num_heads"), (1, "kv_num_heads"), (2, "kv_num_heads")))
    if c.has(4) != c.has(5):
        raise c.wrong("past keys and values come together")
    past: Dim = 0
    if c.has(4):
        past = c.x(4).type.shape[2]
        k, v = c.b.op("concat", c.x(4), k, axis=2), c.b.op("concat", c.x(5), v, axis=2)
    present = (k, v)
    k, v = _repeated(c, k, q), _repeated(c, v, q)
    shape = (q.type.shape[0], q.type.shape[1], q.type.shape[2], k.type.shape[2])
    lengths = c.b.cast(c.x(6), i64) if c.has(6) else None
    scale = c.get("scale")
    scale = 1 / math.sqrt(_static(c, q.type.shape[3])) if scale is None else float(scale)
    plain_causal = bool(c.get("is_causal", 0)) and past == 0 and lengths is None
    mask = _mask(c, shape, past, lengths, causal=bool(c.get("is_causal", 0)) and not plain_causal)
    softcap = float(c.get("softcap", 0) or 0)
    precision = c.dtype(c.get("softmax_precision")) if c.get("softmax_precision") else q.type.dtype
    asked = len(c.outputs) > 3 and bool(c.outputs[3])
    if softcap == 0 and not asked and precision == q.type.dtype:
        y, seen = _whole(c, q, k, v, mask, scale, plain_causal), None
    else:
        if plain_causal:
            mask = _mask(c, shape, past, lengths, causal=True)
        y, seen = _in_steps(c, (q, k, v), mask, scale, softcap)
    if c.tensor(0).rank == 3:
        batch, heads, length, depth = y.type.shape
        y = c.b.reshape(c.b.transpose(y, (0, 2, 1, 3)), (batch, length, heads * depth))
    return [y, *present, seen]


def _static(c: Call, d: Dim) -> int:
    if not isinstance(d, int) or d < 1:
        raise Refused("heads of dynamic size aren't supported")
    return d


def _heads(c: Call, x: Value, name: str) -> Value:
    """[batch, heads, length, depth] from that or from [batch, length, heads * depth]."""
    if x.type.rank == 4:
        return x
    heads = int(c.get(name) or 0)
    if x.type.rank != 3 or heads < 1:
        raise c.wrong(f"an operand of three axes needs {name}, and none has others than three or four", x.type)
    batch, length, width = x.type.shape
    return c.b.transpose(c.b.reshape(x, (batch, length, heads, floordiv(width, heads))), (0, 2, 1, 3))


def _repeated(c: Call, x: Value, q: Value) -> Value:
    """Keys or values with each head repeated for the queries that share it."""
    heads, wanted = x.type.shape[1], q.type.shape[1]
    if heads == wanted:
        return x
    if not isinstance(heads, int) or not isinstance(wanted, int) or wanted % heads:
        raise c.wrong("query heads must be a multiple of key heads", f"{q.type} and {x.type}")
    batch, _, length, depth = x.type.shape
    spread = c.b.broadcast(x, (batch, heads, wanted // heads, length, depth), (0, 1, 3, 4))
    return c.b.reshape(spread, (batch, wanted, length, depth))


# Masks


def _mask(c: Call, shape: tuple[Dim, ...], past: Dim, lengths: Value | None, *, causal: bool) -> _Mask:
    bias: Value | None = None
    allowed: list[Value] = []
    if c.has(3):
        given = _given_mask(c, c.x(3), shape)
        if given.type.dtype.is_bool:
            allowed.append(given)
        else:
            bias = given
    left, right = int(c.get("left_window_size", -1)), int(c.get("right_window_size", -1))
    if causal or left >= 0 or right >= 0:
        distance = _distance(c, shape, past, lengths)
        zero = c.b.full_like(0, distance)
        if causal:
            allowed.append(c.b.op("le", distance, zero))
        if left >= 0:
            allowed.append(c.b.op("ge", distance, c.b.full_like(-left, distance)))
        if right >= 0:
            allowed.append(c.b.op("le", distance, c.b.full_like(right, distance)))
    if lengths is not None:
        key = c.b.op("iota", dtype=i64, shape=shape, axis=3)
        allowed.append(c.b.op("lt", key, c.b.broadcast(lengths, shape, (0,))))
    combined: Value | None = None
    for condition in allowed:
        combined = condition if combined is None else c.b.op("logical_and", combined, condition)
    return _Mask(combined, bias)


def _given_mask(c: Call, mask: Value, shape: tuple[Dim, ...]) -> Value:
    """The operand in full shape; keys beyond its end are hidden."""
    last = mask.type.shape[-1] if mask.type.rank else 1
    if last not in (1, shape[3]) or (last == 1 and shape[3] != 1):
        hidden = c.b.scalar(False if mask.type.dtype.is_bool else _MINUS_INFINITY, mask.type.dtype)
        high = (*(0 for _ in mask.type.shape[1:]), shape[3] - last)
        mask = c.b.op("pad", mask, hidden, low=(0,) * mask.type.rank, high=high)
    return broadcast_to(c.b, mask, shape)


def _distance(c: Call, shape: tuple[Dim, ...], past: Dim, lengths: Value | None) -> Value:
    """How far each key lies behind (or, negative, before) the position of each query."""
    query, key = (c.b.op("iota", dtype=i64, shape=shape, axis=i) for i in (2, 3))
    if lengths is not None and not c.has(4):
        queries = c.b.broadcast(c.b.reshape(c.b.op("dims", values=(shape[2],)), ()), lengths.type.shape, ())
        offset = c.b.broadcast(c.b.op("sub", lengths, queries), shape, (0,))
    else:
        offset = c.b.broadcast(c.b.reshape(c.b.op("dims", values=(past,)), ()), shape, ())
    return c.b.op("sub", key, c.b.op("add", query, offset))


def _hidden_rows(c: Call, mask: _Mask) -> Value | None:
    """Whether a query sees no key at all, [batch, heads, queries]; None where no mask could do that."""
    combined = mask.allowed
    if mask.bias is not None:
        visible = c.b.op("ne", mask.bias, c.b.full_like(_MINUS_INFINITY, mask.bias))
        combined = visible if combined is None else c.b.op("logical_and", combined, visible)
    if combined is None:
        return None
    return c.b.op("logical_not", c.b.op("reduce_max", combined, axes=(3,)))


def _zero_where(c: Call, rows: Value | None, x: Value) -> Value:
    if rows is None:
        return x
    return c.b.op("select", c.b.broadcast(rows, x.type.shape, (0, 1, 2)), c.b.full_like(0, x), x)


# The computation


def _whole(c: Call, q: Value, k: Value, v: Value, mask: _Mask, scale: float, causal: bool) -> Value:
    """One attention operator."""
    combined = mask.allowed
    if mask.bias is not None:
        combined = c.b.cast(mask.bias, q.type.dtype)
        if mask.allowed is not None:
            hidden = c.b.full_like(_MINUS_INFINITY, combined)
            combined = c.b.op("select", mask.allowed, combined, hidden)
    operands = [q, k, v] if combined is None else [q, k, v, combined]
    y = c.b.op("attention", *operands, scale=scale, causal=causal)
    if causal and combined is not None:
        mask = _with_causal(c, mask, combined.type.shape)
    return _zero_where(c, _hidden_rows(c, mask), y)


def _with_causal(c: Call, mask: _Mask, shape: tuple[Dim, ...]) -> _Mask:
    query, key = (c.b.op("iota", dtype=i64, shape=shape, axis=i) for i in (2, 3))
    seen = c.b.op("ge", query, key)
    return _Mask(seen if mask.allowed is None else c.b.op("logical_and", mask.allowed, seen), mask.bias)


def _in_steps(
    c: Call, qkv: tuple[Value, Value, Value], mask: _Mask, scale: float, softcap: float
) -> tuple[Value, Value]:
    """Attention step by step, and the step that qk_matmul_output_mode names."""
    q, k, v = qkv
    root = math.sqrt(scale)
    scores = c.b.op(
        "dot", c.scaled("mul", q, root), c.scaled("mul", k, root),
        lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(3,),
    )  # fmt: skip
    steps = [scores]
    if softcap:
        scores = c.scaled("mul", c.b.op("tanh", c.scaled("div", scores, softcap)), softcap)
    steps.append(scores)
    if mask.bias is not None:
        scores = c.b.op("add", scores, c.b.cast(mask.bias, scores.type.dtype))
    if mask.allowed is not None:
        scores = c.b.op("select", mask.allowed, scores, c.b.full_like(_MINUS_INFINITY, scores))
    steps.append(scores)
    precision = c.dtype(c.get("softmax_precision")) if c.get("softmax_precision") else q.type.dtype
    weights = c.b.op("softmax", c.b.cast(scores, precision), axis=3)
    weights = c.b.cast(_zero_where(c, _hidden_rows(c, mask), weights), q.type.dtype)
    steps.append(weights)
    y = c.b.op("dot", weights, v, lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(2,))
    mode = int(c.get("qk_matmul_output_mode", 0))
    if not 0 <= mode < len(steps):
        raise c.wrong("unknown qk_matmul_output_mode", mode)
    return y, steps[mode]


# Rotary positions


def _rotary_embedding(c: Call) -> Value:
    """Pairs of elements of each head turned by an angle of their position."""
    x = c.x()
    rank = x.type.rank
    if rank == 3:
        heads = int(c.get("num_heads") or 0)
        if heads < 1:
            raise c.wrong("an operand of three axes needs num_heads", x.type)
        batch, length, width = x.type.shape
        x = c.b.reshape(x, (batch, length, heads, floordiv(width, heads)))
    else:
        x = c.b.transpose(x, (0, 2, 1, 3))
    size = _static(c, x.type.shape[3])
    rotated = int(c.get("rotary_embedding_dim", 0)) or size
    turned = part(c, x, 3, 0, rotated)
    half = rotated // 2
    cos, sin = (_angles(c, i, x, half) for i in (1, 2))
    shape = turned.type.shape
    if c.get("interleaved", 0):
        pairs = c.b.reshape(turned, (*shape[:3], half, 2))
        first, second = (c.b.reshape(part(c, pairs, 4, i, i + 1), (*shape[:3], half)) for i in (0, 1))
    else:
        first, second = part(c, turned, 3, 0, half), part(c, turned, 3, half, rotated)
    real = c.b.op("sub", c.b.op("mul", cos, first), c.b.op("mul", sin, second))
    imaginary = c.b.op("add", c.b.op("mul", sin, first), c.b.op("mul", cos, second))
    if c.get("interleaved", 0):
        halves = [c.b.reshape(v, (*shape[:3], half, 1)) for v in (real, imaginary)]
        turned = c.b.reshape(c.b.op("concat", *halves, axis=4), shape)
    else:
        turned = c.b.op("concat", real, imaginary, axis=3)
    if rotated != size:
        turned = c.b.op("concat", turned, part(c, x, 3, rotated, size), axis=3)
    return c.b.transpose(turned, (0, 2, 1, 3)) if rank == 4 else c.b.reshape(turned, c.x().type.shape)


def _angles(c: Call, index: int, x: Value, half: int) -> Value:
    """Sines or cosines for each batch, position and pair: looked up by position where positions are given."""
    cache = c.x(index)
    if c.has(3):
        cache = c.b.op("gather", cache, c.x(3), axis=0)
    if cache.type.shape[-1] != half:
        cache = part(c, cache, cache.type.rank - 1, 0, half)
    return c.b.broadcast(cache, (*x.type.shape[:3], half), (0, 1, 3))


CONVERTERS: Mapping[str, Converter] = {"Attention": _attention, "RotaryEmbedding": _rotary_embedding}
