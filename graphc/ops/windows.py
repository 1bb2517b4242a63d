"""Sums and maxima over sliding windows, and the sizes that sliding windows give."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.symbolic import Dim, evaluate, floordiv, product
from graphc.ir.types import TensorType, i64
from graphc.ops.common import NUMBERS, check_axes, check_dtype, widened
from graphc.ops.sampling import uniform


@dataclass(frozen=True)
class WindowSpec:
    """Windows over `axes` (increasing) of a tensor; per axis: size, stride, (low, high) padding and dilation."""

    axes: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @staticmethod
    def from_attributes(a: Mapping[str, Any]) -> WindowSpec:
        """The spec in a node's attributes."""
        return WindowSpec(a["axes"], a["window"], a["strides"], a["padding"], a["dilation"])

    def check(self, rank: int) -> None:
        """Raises ShapeError where lengths, axes or ranges are wrong for a tensor of that rank."""
        check_axes(self.axes, rank, "windowed axes")
        if self.axes != tuple(sorted(self.axes)):
            raise ShapeError("windowed axes must be in increasing order", seen=self.axes)
        check_sliding(len(self.axes), self.strides, self.padding, self.dilation)
        if len(self.window) != len(self.axes) or min(self.window, default=1) < 1:
            raise ShapeError("a window needs one positive size for each axis", seen=self.window)

    def output_shape(self, inference: Inference, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """The shape of the windows' positions; assumes that one fits."""
        result = list(shape)
        for i, a in enumerate(self.axes):
            low, high = self.padding[2 * i : 2 * i + 2]
            result[a] = sliding_size(inference, shape[a], self.window[i], self.strides[i], low, high, self.dilation[i])
        return tuple(result)

    def positions(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """`output_shape` of an array's shape."""
        return concrete(self.output_shape(Inference(), shape))


def concrete(dims: Iterable[Dim]) -> tuple[int, ...]:
    """Dims that hold no symbol, as ints."""
    return tuple(evaluate(d, {}) for d in dims)


def check_sliding(rank: int, strides: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> None:
    """Raises ShapeError unless there are `rank` positive strides and dilations and as many (low, high) pads >= 0."""
    if len(strides) != rank or len(dilation) != rank or len(padding) != 2 * rank:
        raise ShapeError(
            f"strides and dilation need {rank} entries, padding {2 * rank}", seen=f"{strides}, {dilation}, {padding}"
        )
    if min((*strides, *dilation), default=1) < 1 or min(padding, default=0) < 0:
        raise ShapeError("strides and dilation must be positive, padding not negative",
                         seen=f"{strides}, {dilation}, {padding}")  # fmt: skip


def sliding_size(inference: Inference, size: Dim, window: Dim, stride: int, low: int, high: int, dilation: int) -> Dim:
    """How many windows fit: floor((size + low + high - dilation*(window-1) - 1) / stride) + 1; assumes that one does.

    Raises ShapeError where provably none fits.
    """
    extent, padded = (window - 1) * dilation + 1, size + low + high
    inference.at_most(extent, padded, "the window, which may not be larger than the padded input,")
    return floordiv(padded - extent, stride) + 1


def taps(x: np.ndarray, spec: WindowSpec, fill: Any) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """(t, view) for each position t in the window: `view` is what every window sees there, padding as `fill`."""
    pads = [(0, 0)] * x.ndim
    out = spec.positions(x.shape)
    for i, a in enumerate(spec.axes):
        pads[a] = (spec.padding[2 * i], spec.padding[2 * i + 1])
    padded = np.pad(x, pads, constant_values=fill) if any(map(any, pads)) else x
    for t in itertools.product(*map(range, spec.window)):
        index = [slice(None)] * x.ndim
        for i, a in enumerate(spec.axes):
            start, count = t[i] * spec.dilation[i], out[a]
            index[a] = slice(start, start + spec.strides[i] * (count - 1) + 1 if count else start, spec.strides[i])
        yield t, padded[tuple(index)]


def _sum_infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    check_dtype(types[0], NUMBERS)
    spec = WindowSpec.from_attributes(a)
    spec.check(types[0].rank)
    return (types[0].with_shape(spec.output_shape(inference, types[0].shape)),)


def _sum_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    (x,) = operands
    spec = WindowSpec.from_attributes(a)
    total = np.zeros(spec.positions(x.shape), x.dtype)
    for _, view in taps(x, spec, 0):
        total += view
    return (total,)


def _sum_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value]:
    """Spreads the cotangent `stride` apart, sums it over the same windows backwards, and cuts the padding off."""
    (x,), (g,) = node.operands, cotangents
    spec = WindowSpec.from_attributes(node.attributes)
    for a, stride in zip(spec.axes, spec.strides, strict=True):
        g = _spread(b, g, a, stride)
    extent = [d * (k - 1) for d, k in zip(spec.dilation, spec.window, strict=True)]
    ones = tuple(1 for _ in spec.axes)
    both = tuple(e for e in extent for _ in (0, 1))
    g = b.op("window_sum", g, axes=spec.axes, window=spec.window, strides=ones, padding=both, dilation=spec.dilation)
    high: list[Dim] = [0] * x.type.rank
    starts: list[Dim] = [0] * x.type.rank
    limits = list(x.type.shape)
    for i, a in enumerate(spec.axes):
        low = spec.padding[2 * i]
        high[a] = x.type.shape[a] + low + spec.padding[2 * i + 1] - g.type.shape[a]
        starts[a], limits[a] = low, x.type.shape[a] + low
    zero = b.scalar(0, g.type.dtype)
    if any(h != 0 for h in high):
        g = b.op("pad", g, zero, low=(0,) * x.type.rank, high=tuple(high))
    if any(s != 0 for s in starts) or g.type.shape != tuple(limits):
        g = b.op("slice", g, starts=tuple(starts), limits=tuple(limits), strides=(1,) * x.type.rank)
    return (g,)


def _spread(b: Builder, x: Value, axis: int, stride: int) -> Value:
    """`x` with stride - 1 zeros between neighbours along an axis."""
    if stride == 1:
        return x
    shape, rank = x.type.shape, x.type.rank
    apart = b.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    high = [0] * (rank + 1)
    high[axis + 1] = stride - 1
    apart = b.op("pad", apart, b.scalar(0, x.type.dtype), low=(0,) * (rank + 1), high=tuple(high))
    flat = b.reshape(apart, (*shape[:axis], shape[axis] * stride, *shape[axis + 1 :]))
    limits = (*shape[:axis], (shape[axis] - 1) * stride + 1, *shape[axis + 1 :])
    return b.op("slice", flat, starts=(0,) * rank, limits=limits, strides=(1,) * rank)


def _max_infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    check_dtype(types[0], NUMBERS)
    spec = WindowSpec.from_attributes(a)
    spec.check(types[0].rank)
    for i, size in enumerate(spec.window):
        if max(spec.padding[2 * i : 2 * i + 2]) > (size - 1) * spec.dilation[i]:
            raise ShapeError(
                "window_max: padding must be smaller than the window, or a maximum over nothing is asked for",
                seen=f"padding {spec.padding}, window {spec.window}",
            )
    values = types[0].with_shape(spec.output_shape(inference, types[0].shape))
    return values, values.with_dtype(i64)


def lowest(dtype: np.dtype) -> Any:
    """The smallest value of a NumPy dtype: -inf for floats."""
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


def _max_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    (x,) = operands
    spec = WindowSpec.from_attributes(a)
    floor = lowest(x.dtype)
    sizes = tuple(x.shape[i] for i in spec.axes)
    shape = [x.shape[i] if i in spec.axes else 1 for i in range(x.ndim)]
    positions = np.arange(int(np.prod(sizes)), dtype=np.int64).reshape(shape)
    out = spec.positions(x.shape)
    best, where = np.full(out, floor, x.dtype), np.full(out, -1, np.int64)
    for (_, values), (_, places) in zip(taps(x, spec, floor), taps(positions, spec, -1), strict=True):
        wins = (values > best) | (where < 0)
        if x.dtype.kind not in "iu":
            wins |= np.isnan(values) & ~np.isnan(best)
        wins &= places >= 0
        best = np.where(wins, values, best)
        where = np.where(wins, places, where)
    return best, np.maximum(where, 0)


def _max_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value]:
    """Adds each window's cotangent to the element that won it."""
    (x,), indices, g = node.operands, node.results[1], cotangents[0]
    axes = node["axes"]
    others = tuple(i for i in range(x.type.rank) if i not in axes)
    order = (*others, *axes)

    def flat(v: Value) -> Value:
        """The windowed axes last, as one."""
        shape = v.type.shape
        return b.reshape(b.transpose(v, order), (*(shape[i] for i in others), product(shape[i] for i in axes)))

    shape = x.type.shape
    size = product(shape[i] for i in axes)
    zeros = b.full(0, g.type.with_shape((*(shape[i] for i in others), size)))
    added = b.op("scatter_along", zeros, flat(indices), flat(g), axis=len(others), combine="sum")
    spread = b.reshape(added, tuple(shape[i] for i in order))
    return (b.transpose(spread, tuple(order.index(i) for i in range(x.type.rank))),)


def _windows(axes: Any, window: Any, strides: Any = None, padding: Any = None, dilation: Any = None) -> dict[str, Any]:
    n = len(axes)
    return {
        "axes": axes, "window": window, "strides": strides or (1,) * n, "padding": padding or (0,) * 2 * n,
        "dilation": dilation or (1,) * n,
    }  # fmt: skip


def window_samples() -> Iterable[Sample]:
    """Samples for every operator over a WindowSpec."""
    yield Sample((uniform(2, 3, 7, 6),), _windows((2, 3), (3, 2)))
    yield Sample((uniform(1, 2, 9, 8),), _windows((2, 3), (3, 3), (2, 2), (1, 1, 1, 0)))
    yield Sample((uniform(2, 9, 8, 3),), _windows((1, 2), (2, 3), (3, 2), (0, 1, 1, 2), (1, 2)))
    yield Sample((uniform(2, 11),), _windows((1,), (3,), (2,), (2, 1), (2,)))
    yield Sample((uniform(1, 2, 4, 5, 4),), _windows((2, 3, 4), (2, 2, 2), (2, 1, 2), (0, 0, 1, 1, 0, 0)))
    yield Sample((uniform(5),), _windows((0,), (5,)))
    yield Sample((uniform(0, 2, 5),), _windows((2,), (2,)))
    yield Sample((uniform(3, 2),), _windows((), ()))


def _max_samples() -> Iterable[Sample]:
    yield from window_samples()
    yield Sample((np.array([1.0, np.nan, 2.0, 3.0, -np.inf, -np.inf, 0.0]),), _windows((0,), (2,)), False)
    yield Sample((np.full((2, 4), -np.inf),), _windows((1,), (3,), None, (1, 1)), False)
    yield Sample((np.array([2.0, 2.0, 1.0, 2.0]),), _windows((0,), (3,), None, (1, 1)), False)


WINDOW_ATTRIBUTES = {
    "axes": Attribute("ints"), "window": Attribute("ints"), "strides": Attribute("ints"),
    "padding": Attribute("ints"), "dilation": Attribute("ints"),
}  # fmt: skip

WINDOW_SUM = OpDef(
    name="window_sum",
    operands=("x",),
    attributes=WINDOW_ATTRIBUTES,
    infer=_sum_infer,
    reference=widened(_sum_reference),
    vjp=_sum_vjp,
    samples=window_samples,
    dtypes=NUMBERS,
    doc="""Sum over sliding windows: result[o] = sum over t of x[o*stride + t*dilation - low], zero outside of x.

    `axes` (increasing) slide; `window`, `strides` and `dilation` have an entry each for them, `padding` a low and a
    high one. Their result dim is floor((size + low + high - dilation*(window-1) - 1) / stride) + 1; the others stay.
    Floats (f16 and bf16 accumulate in f32) and integers (wrap).""",
)

WINDOW_MAX = OpDef(
    name="window_max",
    operands=("x",),
    results=("values", "indices"),
    attributes=WINDOW_ATTRIBUTES,
    infer=_max_infer,
    reference=_max_reference,
    vjp=_max_vjp,
    samples=_max_samples,
    dtypes=NUMBERS,
    doc="""Maximum over sliding windows, and where it was found.

    values[o] = max over t of x[o*stride + t*dilation - low], over the positions inside of x; a NaN wins over numbers.
    indices (i64) are row-major positions within the windowed axes of x; the first of equals wins. Attributes and shapes
    are those of `window_sum`; padding must be smaller than the dilated window, and never wins. A dilated window all of
    whose elements are padding has the lowest value of its type, and index 0.""",
)

OPERATORS = (WINDOW_SUM, WINDOW_MAX)
