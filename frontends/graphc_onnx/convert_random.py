"""Random numbers: dropout and draws, in training from the key; a seed that a node has isn't read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim
from graphc.ir.types import DType, f32
from graphc.ops import random
from graphc_onnx.call import Call, Converter
from graphc_onnx.imported import Refused

Draw: TypeAlias = Callable[[Builder, Value, Sequence[Dim], DType, int], Value]


def _dropout(c: Call) -> Sequence[Value | None]:
    """The identity in inference; in training it drops unless the node says that it doesn't."""
    x, learned = c.x(), c.mode.learned
    given = bool(c.numbers(2, "training mode").any()) if c.opset >= 12 and c.has(2) else None
    if learned is not None and given is not False:
        key, stream = learned.stream(c.b)
        return [random.dropout(c.b, x, key, _ratio(c), stream), None][: len(c.outputs)]
    if given and not c.mode.evaluating and _ratio(c):
        raise Refused("training mode, which drops elements at random, isn't supported in inference")
    mask = c.b.full(True, x.type.with_dtype(c.dtype(9)))
    return [x, mask if c.opset >= 10 else c.b.cast(mask, x.type.dtype)][: len(c.outputs)]


def _ratio(c: Call) -> float:
    if c.opset < 12:
        return float(c.get("ratio", 0.5))
    return float(c.numbers(1, "ratio").reshape(-1)[0]) if c.has(1) else 0.5


def _drawn(c: Call, draw: Draw, shape: Sequence[Dim], dtype: DType) -> Value:
    """Numbers of a distribution; those of 16 bits are rounded."""
    if c.mode.learned is None:
        raise Refused("random numbers aren't supported in inference")
    key, stream = c.mode.learned.stream(c.b)
    return c.b.cast(draw(c.b, key, shape, f32 if dtype.bytes == 2 else dtype, stream), dtype)


def _type(c: Call) -> tuple[Sequence[Dim], DType]:
    """Shape and element type of what is drawn, by attributes or like the operand."""
    if not c.operands:
        return tuple(c.get("shape")), c.dtype(c.get("dtype", 1))
    like = c.tensor(0).type
    return like.shape, c.dtype(c.get("dtype")) if c.get("dtype") else like.dtype


def _normal(c: Call) -> Value:
    drawn = _drawn(c, random.normal, *_type(c))
    return c.scaled("add", c.scaled("mul", drawn, float(c.get("scale", 1.0))), float(c.get("mean", 0.0)))


def _uniform(c: Call) -> Value:
    low, high = float(c.get("low", 0.0)), float(c.get("high", 1.0))
    return c.scaled("add", c.scaled("mul", _drawn(c, random.uniform, *_type(c)), high - low), low)


def _bernoulli(c: Call) -> Value:
    """1 with the probability that the operand has, else 0."""
    x, (shape, dtype) = c.x(), _type(c)
    return c.b.cast(c.b.op("lt", _drawn(c, random.uniform, shape, x.type.dtype), x), dtype)


def _multinomial(c: Call) -> Value:
    raise Refused("draws of indices by probability aren't supported")


CONVERTERS: Mapping[str, Converter] = {
    "Dropout": _dropout,
    "RandomNormal": _normal,
    "RandomNormalLike": _normal,
    "RandomUniform": _uniform,
    "RandomUniformLike": _uniform,
    "Bernoulli": _bernoulli,
    "Multinomial": _multinomial,
}
