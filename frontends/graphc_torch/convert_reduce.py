"""Reductions, positions of extremes, running sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphc.ir.graph import Value
from graphc.ir.symbolic import product
from graphc.ir.types import f32
from graphc_torch.call import Call, Converter
from graphc_torch.convert_elementwise import truth
from graphc_torch.refused import Refused

Reduction = Callable[[Call, Value, tuple[int, ...]], Value]


def _reduce(reduction: Reduction, *, cast: bool = False) -> Converter:
    """A reduction over `dim`, kept with size 1 where keepdim is set; `cast`: computed in the result's type."""

    def convert(c: Call) -> Value:
        x = c.b.cast(c.x(), c.type().dtype) if cast else c.x()
        axes = c.axes("dim", x.type.rank)
        y = reduction(c, x, axes)
        return c.keep(y, x, axes) if c.get("keepdim") else y

    return convert


def _named(op: str) -> Reduction:
    return lambda c, x, axes: c.b.op(op, x, axes=axes)


def _truth(op: str) -> Reduction:
    return lambda c, x, axes: c.b.op(op, truth(c, x), axes=axes)


def _wide(c: Call, x: Value) -> Value:
    """Small floats in f32, where their sums can't overflow."""
    return c.b.cast(x, f32) if x.type.dtype.is_float and x.type.dtype.bytes == 2 else x


def average(c: Call, x: Value, axes: Sequence[int]) -> Value:
    """The mean over axes."""
    axes = tuple(axes)
    total = c.b.op("reduce_sum", _wide(c, x), axes=axes)
    count = c.dim_value(product(x.type.shape[i] for i in axes), total.type.dtype)
    return c.b.cast(c.b.op("div", total, c.b.broadcast(count, total.type.shape, ())), x.type.dtype)


def _variance(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
    """The sum of squares about the mean, divided by count - correction (1 where it is left out)."""
    correction = c.get("correction")
    if correction is None:
        correction = 0 if c.get("unbiased") is False else 1
    wide = _wide(c, x)
    mean = average(c, wide, axes)
    kept = [i for i in range(wide.type.rank) if i not in axes]
    centred = c.b.op("sub", wide, c.b.broadcast(mean, wide.type.shape, kept))
    total = c.b.op("reduce_sum", c.b.op("mul", centred, centred), axes=axes)
    count = c.dim_value(product(x.type.shape[i] for i in axes), total.type.dtype)
    left = c.b.op("sub", count, c.b.full_like(float(correction), count))
    left = c.b.op("max", left, c.b.full_like(0, left))
    return c.b.cast(c.b.op("div", total, c.b.broadcast(left, total.type.shape, ())), x.type.dtype)


def _deviation(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
    return c.b.op("sqrt", _variance(c, x, axes))


def _variance_and_mean(c: Call) -> list[Value]:
    x = c.x()
    axes = c.axes("dim", x.type.rank)
    both = [_variance(c, x, axes), average(c, x, axes)]
    return [c.keep(y, x, axes) for y in both] if c.get("keepdim") else both


def _norm(c: Call, x: Value, axes: tuple[int, ...]) -> Value:
    """(sum |x|^p)^(1/p), its limits for infinite p, and the number of nonzero elements for p = 0."""
    order = float(c.get("ord", 2))
    wide = _wide(c, x)
    if order == 2:
        y = c.b.op("sqrt", c.b.op("reduce_sum", c.b.op("mul", wide, wide), axes=axes))
    elif order == 1:
        y = c.b.op("reduce_sum", c.b.op("abs", wide), axes=axes)
    elif order in (float("inf"), float("-inf")):
        y = c.b.op("reduce_max" if order > 0 else "reduce_min", c.b.op("abs", wide), axes=axes)
    elif order == 0:
        y = c.b.op("reduce_sum", c.b.cast(truth(c, wide), wide.type.dtype), axes=axes)
    else:
        powers = c.b.op("reduce_sum", c.scaled("pow", c.b.op("abs", wide), order), axes=axes)
        y = c.scaled("pow", powers, 1 / order)
    return c.b.cast(y, c.type().dtype)


# Along one axis


def _along(c: Call, x: Value) -> int:
    if x.type.rank == 0:
        raise Refused("a tensor without axes has no extreme along one")
    return c.axis(c.get("dim", 0), x.type.rank)


def _extreme(op: str) -> Converter:
    """Values and positions of the greatest or smallest elements along an axis."""

    def convert(c: Call) -> list[Value]:
        x = c.x()
        axis = _along(c, x)
        both = [c.b.op(f"reduce_{op}", x, axes=(axis,)), c.b.op(f"arg{op}", x, axis=axis)]
        return [c.keep(y, x, (axis,)) for y in both] if c.get("keepdim") else both

    return convert


def _position(op: str) -> Converter:
    """The position along an axis, or in the flattened tensor where none is given."""

    def convert(c: Call) -> Value:
        x = c.x()
        if not c.has("dim"):
            y = c.b.op(op, c.b.reshape(x, (x.type.size,)), axis=0)
            return c.b.reshape(y, c.type().shape)
        axis = _along(c, x)
        y = c.b.op(op, x, axis=axis)
        return c.keep(y, x, (axis,)) if c.get("keepdim") else y

    return convert


def _running(op: str) -> Converter:
    def convert(c: Call) -> Value:
        x = c.b.cast(c.x(), c.type().dtype)
        return x if x.type.rank == 0 else c.b.op(op, x, axis=_along(c, x))

    return convert


_SUM = _reduce(_named("reduce_sum"), cast=True)
_PRODUCT = _reduce(_named("reduce_prod"), cast=True)
_MEAN = _reduce(average, cast=True)
_MAX, _MIN = _reduce(_named("reduce_max")), _reduce(_named("reduce_min"))

CONVERTERS: Mapping[str, Converter] = {
    "sum": _SUM,
    "prod": _PRODUCT,
    "mean": _MEAN,
    "amax": _MAX,
    "amin": _MIN,
    "max.default": _MAX,
    "min.default": _MIN,
    "max": _MAX,
    "min": _MIN,
    "max.dim": _extreme("max"),
    "min.dim": _extreme("min"),
    "any": _reduce(_truth("reduce_max")),
    "all": _reduce(_truth("reduce_min")),
    "argmax": _position("argmax"),
    "argmin": _position("argmin"),
    "var": _reduce(_variance),
    "std": _reduce(_deviation),
    "var_mean": _variance_and_mean,
    "linalg_vector_norm": _reduce(_norm),
    "cumsum": _running("cumsum"),
    "cumprod": _running("cumprod"),
}
