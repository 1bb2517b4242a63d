"""Random numbers in training mode: dropout, and what modules draw themselves. Their bits are graphc's, not torch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim
from graphc.ir.types import DType, f32
from graphc.ops import random
from graphc_torch.call import Call, Converter
from graphc_torch.refused import Refused


def dropout(c: Call, x: Value, rate: float) -> Value:
    """x / (1 - rate) where it is kept, else 0."""
    if rate == 0:
        return x
    key, stream = c.random_stream()
    return random.dropout(c.b, x, key, rate, stream)


def _uniform(c: Call, shape: Sequence[Dim], dtype: DType) -> Value:
    """Numbers in [0, 1)."""
    key, stream = c.random_stream()
    return random.uniform(c.b, key, shape, dtype, stream)


def _normal(c: Call, shape: Sequence[Dim], dtype: DType) -> Value:
    """Normal numbers; those of 16 bits are rounded."""
    key, stream = c.random_stream()
    return c.b.cast(random.normal(c.b, key, shape, f32 if dtype.bytes == 2 else dtype, stream), dtype)


def _dropout(c: Call) -> Value:
    return dropout(c, c.x("input"), float(c.get("p"))) if c.get("train") else c.x("input")


def _native_dropout(c: Call) -> list[Value | None]:
    return [dropout(c, c.x("input"), float(c.get("p"))) if c.get("train") is not False else c.x("input"), None]


def _rand(c: Call) -> Value:
    return _uniform(c, c.type().shape, c.type().dtype)


def _randn(c: Call) -> Value:
    return _normal(c, c.type().shape, c.type().dtype)


def _randint(c: Call) -> Value:
    """Random bits times the size of the range, the upper half of that, from low on."""
    low, high = int(c.get("low", 0)), int(c.get("high"))
    if not 0 < high - low <= 1 << 31:
        raise Refused("a range of more than 2^31 integers isn't supported")
    key, stream = c.random_stream()
    bits = c.b.op("random_bits", key, shape=c.type().shape, stream=stream)
    scaled = c.b.op("shift_right", c.scaled("mul", bits, high - low), c.b.full_like(32, bits))
    return c.b.cast(c.scaled("add", scaled, low), c.type().dtype)


def _bernoulli(c: Call) -> Value:
    """1 with probability p, else 0."""
    type = c.type()
    u = _uniform(c, type.shape, f32 if type.dtype.bytes == 2 or not type.dtype.is_float else type.dtype)
    p = c.operand("p" if c.has("p") else "self", u.type.dtype, type.shape)
    return c.b.cast(c.b.op("lt", u, p), type.dtype)


def _uniform_between(c: Call) -> Value:
    low, high = float(c.get("from", 0.0)), float(c.get("to", 1.0))
    u = _rand(c)
    return c.scaled("add", c.scaled("mul", u, high - low), low)


def _normal_about(c: Call) -> Value:
    return c.scaled("add", c.scaled("mul", _randn(c), float(c.get("std", 1.0))), float(c.get("mean", 0.0)))


def _normal_of(c: Call) -> Value:
    """Means or deviations, or both, are tensors."""
    type = c.type()
    mean, std = (c.operand(n, type.dtype, type.shape) for n in ("mean", "std"))
    return c.b.op("add", mean, c.b.op("mul", std, _randn(c)))


def _exponential(c: Call) -> Value:
    """-log(1 - u) / lambda, which is never infinite."""
    u = _rand(c)
    drawn = c.b.op("log", c.b.op("sub", c.b.full_like(1, u), u))
    return c.scaled("mul", drawn, -1 / float(c.get("lambd", 1.0)))


def _rrelu(c: Call) -> list[Value | None]:
    """Negative elements by a random slope between lower and upper; by their mean outside of training."""
    x, low, high = c.x(), float(c.get("lower", 1 / 8)), float(c.get("upper", 1 / 3))
    if c.get("training"):
        u = _uniform(c, x.type.shape, x.type.dtype)
        slope = c.scaled("add", c.scaled("mul", u, high - low), low)
    else:
        slope = c.b.full_like((low + high) / 2, x)
    negative = c.b.op("lt", x, c.b.full_like(0, x))
    one = c.b.full_like(1, x)
    noise = c.b.op("select", negative, slope, one)
    return [c.b.op("mul", x, noise), noise]


CONVERTERS: Mapping[str, Converter] = {
    "dropout": _dropout,
    "native_dropout": _native_dropout,
    "rand": _rand,
    "rand_like": _rand,
    "randn": _randn,
    "randn_like": _randn,
    "randint": _randint,
    "randint_like.default": _randint,
    "randint_like.low_dtype": _randint,
    "bernoulli": _bernoulli,
    "uniform": _uniform_between,
    "normal_functional": _normal_about,
    "normal.float_float": _normal_about,
    "normal": _normal_of,
    "exponential": _exponential,
    "rrelu_with_noise_functional": _rrelu,
}
