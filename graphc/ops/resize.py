"""Resizing by interpolation, one axis after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.symbolic import Dim
from graphc.ir.types import TensorType, f64, i64
from graphc.ops.arithmetic import add, count, div, mul, one_minus, sub
from graphc.ops.by_decomposition import decomposition, vjp_by_decomposition
from graphc.ops.common import FLOATS, check_axes, check_dtype, widened
from graphc.ops.sampling import uniform

MODES = ("nearest", "linear", "cubic")
TRANSFORMS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def _infer(_: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    x = check_dtype(types[0], FLOATS)
    axes, sizes, scales = a["axes"], a["sizes"], a["scales"]
    check_axes(axes, x.rank)
    if len(sizes) != len(axes) or len(scales) not in (0, len(axes)):
        raise ShapeError("resize needs a size for each axis, and a scale for each or none", seen=f"{sizes}, {scales}")
    if any(s <= 0 for s in scales):
        raise ShapeError("scales must be positive", seen=scales)
    for name, allowed in (("mode", MODES), ("coordinate_transform", TRANSFORMS), ("nearest_rounding", ROUNDINGS)):
        if a[name] not in allowed:
            raise ShapeError(f"unknown {name}", seen=a[name], expected=", ".join(allowed))
    shape = list(x.shape)
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = size
    return (x.with_shape(shape),)


# In NumPy


def _coordinates(length: int, size: int, scale: float | None, transform: str) -> np.ndarray:
    """Where in the input each output position lies."""
    o = np.arange(size, dtype=np.float64)
    if scale is None:
        scale = size / length
    match transform:
        case "align_corners":
            return np.asarray(o * (length - 1) / max(size - 1, 1))
        case "asymmetric":
            return np.asarray(o / scale)
        case "pytorch_half_pixel" if size == 1:
            return np.zeros(1)
        case "half_pixel_symmetric":
            return np.asarray((o + 0.5) / scale - 0.5 + length / 2 * (1 - size / (scale * length)))
    return np.asarray((o + 0.5) / scale - 0.5)


def _rounded(x: np.ndarray, rounding: str) -> np.ndarray:
    match rounding:
        case "floor":
            return np.asarray(np.floor(x))
        case "ceil":
            return np.asarray(np.ceil(x))
        case "round_prefer_floor":
            return np.ceil(x - 0.5)
    return np.floor(x + 0.5)


def _taps(x: np.ndarray, length: int, a: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(indices, weights) whose weighted sum is the value at coordinates x."""
    if a["mode"] == "nearest":
        return [(np.clip(_rounded(x, a["nearest_rounding"]), 0, length - 1).astype(np.int64), np.ones_like(x))]
    base = np.floor(x)
    f, k = x - base, a["cubic_a"]
    if a["mode"] == "linear":
        weights = {0: 1 - f, 1: f}
    else:
        weights = {i: _cubic(np.abs(f - i), k) for i in (-1, 0, 1, 2)}
    if a["exclude_outside"]:
        weights = {i: np.where((base + i >= 0) & (base + i < length), w, 0) for i, w in weights.items()}
        total = np.sum(list(weights.values()), axis=0)
        weights = {i: w / total for i, w in weights.items()}
    return [(np.clip(base + i, 0, length - 1).astype(np.int64), w) for i, w in weights.items()]


def _cubic(d: np.ndarray, k: float) -> np.ndarray:
    """The cubic convolution kernel at distance d <= 2."""
    near = ((k + 2) * d - (k + 3)) * d * d + 1
    far = ((k * d - 5 * k) * d + 8 * k) * d - 4 * k
    return np.asarray(np.where(d <= 1, near, far))


def _reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    (x,) = operands
    for i, (axis, size) in enumerate(zip(a["axes"], a["sizes"], strict=True)):
        length, scale = x.shape[axis], a["scales"][i] if a["scales"] else None
        at = _coordinates(length, size, scale, a["coordinate_transform"])
        along = [-1 if j == axis else 1 for j in range(x.ndim)]
        taps = _taps(at, length, a)
        x = np.add.reduce([x.take(idx, axis) * w.reshape(along).astype(x.dtype) for idx, w in taps])
    return (x,)


# As a graph: positions are computed in f64 from the dims, so that symbolic ones work; known ones fold away


def _emit_coordinates(b: Builder, length: Dim, size: Dim, scale: float | None, transform: str) -> Value:
    o = b.op("iota", dtype=f64, shape=(size,), axis=0)

    def number(v: Value) -> Value:
        return b.broadcast(v, (size,), ())

    n, m = count(b, (length,), f64), count(b, (size,), f64)
    ratio = div(b, m, n) if scale is None else b.scalar(scale, f64)
    one = b.scalar(1, f64)
    if transform == "align_corners":
        return div(b, mul(b, o, number(sub(b, n, one))), number(b.op("max", sub(b, m, one), one)))
    if transform == "asymmetric":
        return div(b, o, number(ratio))
    x = sub(b, div(b, add(b, o, 0.5), number(ratio)), 0.5)
    if transform == "half_pixel_symmetric":
        share = div(b, m, mul(b, ratio, n))
        return add(b, x, number(mul(b, mul(b, n, 0.5), one_minus(b, share))))
    if transform == "pytorch_half_pixel":
        return b.op("select", number(b.op("eq", m, one)), b.full_like(0, x), x)
    return x


def _clamped(b: Builder, positions: Value, length: Dim) -> Value:
    """Positions as indices, at the nearest edge where they are outside."""
    top = b.broadcast(sub(b, count(b, (length,), f64), 1.0), positions.type.shape, ())
    return b.cast(b.op("max", b.op("min", positions, top), b.full_like(0, positions)), i64)


def _emit_taps(b: Builder, x: Value, length: Dim, a: Mapping[str, Any]) -> list[tuple[Value, Value]]:
    base = b.op("floor", x)
    f = sub(b, x, base)
    if a["mode"] == "linear":
        weights = {0: one_minus(b, f), 1: f}
    else:
        weights = {i: _emit_cubic(b, f, i, a["cubic_a"]) for i in (-1, 0, 1, 2)}
    places = {i: add(b, base, float(i)) for i in weights}
    if a["exclude_outside"]:
        zero = b.full_like(0, x)
        end = b.broadcast(count(b, (length,), f64), x.type.shape, ())
        for i, w in weights.items():
            inside = b.op("logical_and", b.op("ge", places[i], zero), b.op("lt", places[i], end))
            weights[i] = b.op("select", inside, w, zero)
        total = zero
        for w in weights.values():
            total = add(b, total, w)
        weights = {i: div(b, w, total) for i, w in weights.items()}
    return [(_clamped(b, places[i], length), w) for i, w in weights.items()]


def _emit_cubic(b: Builder, f: Value, i: int, k: float) -> Value:
    """The cubic kernel at |f - i|, f in [0, 1): near for 0 and 1, far for -1 and 2."""
    d = {-1: add(b, f, 1.0), 0: f, 1: one_minus(b, f), 2: sub(b, b.full_like(2, f), f)}[i]
    cubic, square, linear, constant = (k + 2, -(k + 3), 0.0, 1.0) if i in (0, 1) else (k, -5 * k, 8 * k, -4 * k)
    inner = add(b, mul(b, add(b, mul(b, d, cubic), square), d), linear)
    return add(b, mul(b, inner, d), constant)


def _emit_nearest(b: Builder, x: Value, rounding: str) -> Value:
    match rounding:
        case "round_prefer_floor":
            return b.op("ceil", sub(b, x, 0.5))
        case "round_prefer_ceil":
            return b.op("floor", add(b, x, 0.5))
    return b.op(rounding, x)


def _decompose(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    (x,) = operands
    for i, (axis, size) in enumerate(zip(a["axes"], a["sizes"], strict=True)):
        length, scale = x.type.shape[axis], a["scales"][i] if a["scales"] else None
        at = _emit_coordinates(b, length, size, scale, a["coordinate_transform"])
        if a["mode"] == "nearest":
            x = b.op("gather", x, _clamped(b, _emit_nearest(b, at, a["nearest_rounding"]), length), axis=axis)
            continue
        total: Value | None = None
        for indices, weight in _emit_taps(b, at, length, a):
            taken = b.op("gather", x, indices, axis=axis)
            part = mul(b, taken, b.broadcast(b.cast(weight, x.type.dtype), taken.type.shape, (axis,)))
            total = part if total is None else add(b, total, part)
        assert total is not None
        x = total
    return (x,)


def _samples() -> Iterable[Sample]:
    image = uniform(1, 2, 4, 5)
    for transform in TRANSFORMS:
        common = {"axes": (2, 3), "coordinate_transform": transform}
        for rounding in ROUNDINGS:
            yield Sample((image,), {**common, "sizes": (7, 3), "mode": "nearest", "nearest_rounding": rounding})
        yield Sample((image,), {**common, "sizes": (9, 3), "mode": "linear"})
        yield Sample((image,), {**common, "sizes": (3, 8), "mode": "cubic"})
        yield Sample((image,), {**common, "sizes": (1, 1), "mode": "linear"})
    scaled = {"axes": (1,), "sizes": (6,), "scales": (1.7,)}
    yield Sample((uniform(2, 4),), {**scaled, "mode": "linear", "coordinate_transform": "half_pixel_symmetric"})
    yield Sample((uniform(2, 4),), {**scaled, "mode": "cubic", "cubic_a": -0.5, "exclude_outside": True})
    yield Sample((uniform(2, 4),), {**scaled, "mode": "nearest", "coordinate_transform": "asymmetric"})
    yield Sample((uniform(0, 4),), {**scaled, "mode": "linear"})


OPERATORS = (
    OpDef(
        name="resize",
        operands=("x",),
        attributes={
            "axes": Attribute("ints"), "sizes": Attribute("dims"), "scales": Attribute("floats", ()),
            "mode": Attribute("str"), "coordinate_transform": Attribute("str", "half_pixel"),
            "nearest_rounding": Attribute("str", "round_prefer_floor"), "cubic_a": Attribute("float", -0.75),
            "exclude_outside": Attribute("bool", False),
        },
        infer=_infer,
        reference=widened(_reference),
        vjp=vjp_by_decomposition,
        decompose=decomposition(_decompose),
        samples=_samples,
        dtypes=FLOATS,
        doc="""x with other sizes along `axes`, each interpolated in turn: `mode` nearest, linear or cubic.

        Output position o lies at input coordinate (o + 0.5) / scale - 0.5 (half_pixel), the same but 0 for a size of 1
        (pytorch_half_pixel), that with the input's centre kept (half_pixel_symmetric), o / scale (asymmetric), or
        o * (length - 1) / (size - 1) (align_corners); computed in f64. `scales` (default: size / length) count where
        sizes were rounded. Taps outside of x take the edge's value; with `exclude_outside` their weight is spread over
        the others. `cubic_a` is the coefficient of the cubic kernel. ONNX: Resize. Source: Keys, 1981.""",
    ),
)  # fmt: skip
