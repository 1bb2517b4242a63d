"""Operators that move elements: views, slices, padding, concatenation, repetition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, Expr, maximum, nonnegative
from graphc_torch.call import Call, Converter
from graphc_torch.refused import Refused
from graphc_torch.tensors import dtype_of

_OPEN_END = 2**62


def _view(c: Call) -> Value:
    """The shape is the one that torch has found."""
    return c.b.reshape(c.x(), c.type().shape)


def _view_dtype(c: Call) -> Value:
    if dtype_of(c.raw("dtype")) != c.x().type.dtype:
        raise Refused("reading memory as another element type isn't supported")
    return c.x()


def _permute(c: Call) -> Value:
    x = c.x()
    return c.b.transpose(x, [c.axis(a, x.type.rank) for a in c.get("dims")])


def _transpose(c: Call) -> Value:
    x = c.x()
    order = list(range(x.type.rank))
    if order:
        i, j = c.axis(c.get("dim0"), x.type.rank), c.axis(c.get("dim1"), x.type.rank)
        order[i], order[j] = j, i
    return c.b.transpose(x, order)


def _reversed_axes(c: Call) -> Value:
    x = c.x()
    return c.b.transpose(x, tuple(reversed(range(x.type.rank))))


def _move_axes(c: Call) -> Value:
    x = c.x()
    rank = x.type.rank
    source, target = ([c.axis(a, rank) for a in c.get(n)] for n in ("source", "destination"))
    rest = iter(a for a in range(rank) if a not in source)
    at = dict(zip(target, source, strict=True))
    return c.b.transpose(x, [at[i] if i in at else next(rest) for i in range(rank)])


def _expand(c: Call) -> Value:
    return c.broadcast(c.x(), c.type().shape)


def _cat(c: Call) -> Value:
    """Operands of the result's element type; legacy empty vectors count for nothing."""
    type = c.type()
    values = [v for v in c.xs("tensors") if v.type.shape != (0,) or type.rank == 1]
    return c.concat([c.b.cast(v, type.dtype) for v in values], c.axis(c.get("dim", 0), type.rank))


def _stack(c: Call) -> Value:
    type = c.type()
    axis = c.axis(c.get("dim", 0), type.rank)
    values = [c.b.cast(v, type.dtype) for v in c.xs("tensors")]
    return c.concat([c.b.reshape(v, (*v.type.shape[:axis], 1, *v.type.shape[axis:])) for v in values], axis)


def _split(c: Call) -> list[Value]:
    """Parts whose sizes are those of torch's results."""
    x = c.x()
    axis = c.axis(c.get("dim", 0), x.type.rank)
    parts, start = [], 0
    for i in range(len(c.node.meta["val"])):
        limit: Dim = start + c.type(i).shape[axis]
        parts.append(c.part(x, axis, start, limit))
        start = limit  # type: ignore[assignment]
    return parts


def _unbind(c: Call) -> list[Value]:
    x = c.x()
    axis = c.axis(c.get("dim", 0), x.type.rank)
    count = len(c.node.meta["val"])
    return [c.b.reshape(c.part(x, axis, i, i + 1), c.type(i).shape) for i in range(count)]


def position(c: Call, name: str, size: Dim, default: Dim) -> Dim:
    """An argument that is a position along an axis, counted from the front and within it."""
    if not c.has(name):
        return default
    at = c.size(name)
    if isinstance(at, int):
        if at >= _OPEN_END:
            return size
        at = at + size if at < 0 else at
    elif not nonnegative(at):
        if not nonnegative(-1 - at):
            raise Refused(f"whether the position {at} counts from the end isn't known")
        at = at + size
    return maximum(at, 0)


def _slice(c: Call) -> Value:
    """The end is found from the size that torch gives the result, which knows that it lies within x."""
    x = c.x()
    axis, step = c.axis(c.get("dim", 0), x.type.rank), c.get("step", 1)
    size = x.type.shape[axis]
    start = position(c, "start", size, 0)
    count = c.type().shape[axis]
    if isinstance(count, int) and count == 0:
        return c.part(x, axis, 0, 0)
    if start == 0 and step == 1 and count == size:
        return x
    return c.part(x, axis, start, start + (count - 1) * step + 1, step)


def _select(c: Call) -> Value:
    x = c.x()
    axis = c.axis(c.get("dim"), x.type.rank)
    start = position(c, "index", x.type.shape[axis], 0)
    return c.b.reshape(c.part(x, axis, start, start + 1), c.type().shape)


def _select_scatter(c: Call) -> Value:
    """x with one slice replaced."""
    x, source = c.x(), c.x("src")
    axis = c.axis(c.get("dim"), x.type.rank)
    start = position(c, "index", x.type.shape[axis], 0)
    shape = [1 if i == axis else d for i, d in enumerate(x.type.shape)]
    return _replaced(c, x, c.b.reshape(c.b.cast(source, x.type.dtype), shape), axis, start, start + 1)


def _slice_scatter(c: Call) -> Value:
    x = c.x()
    axis = c.axis(c.get("dim", 0), x.type.rank)
    if c.get("step", 1) != 1:
        raise Refused("a step other than 1 isn't supported")
    start = position(c, "start", x.type.shape[axis], 0)
    source = c.b.cast(c.x("src"), x.type.dtype)
    return _replaced(c, x, source, axis, start, start + source.type.shape[axis])


def _replaced(c: Call, x: Value, source: Value, axis: int, start: Dim, limit: Dim) -> Value:
    size = x.type.shape[axis]
    parts = [c.part(x, axis, 0, start)] if start != 0 else []
    parts.append(source)
    if limit != size:
        parts.append(c.part(x, axis, limit, size))
    y = c.concat(parts, axis)
    return c.b.reshape(y, x.type.shape)


def _flip(c: Call) -> Value:
    x = c.x()
    return c.b.op("reverse", x, axes=c.axes("dims", x.type.rank)) if c.get("dims") else x


def _roll(c: Call) -> Value:
    """Each axis with its end moved to the front."""
    x = c.x()
    axes = c.get("dims") or []
    flat = c.b.reshape(x, (x.type.size,)) if not axes else x
    for shift, axis in zip(c.get("shifts"), axes or [0], strict=True):
        at = c.axis(axis, flat.type.rank)
        size = flat.type.shape[at]
        if isinstance(size, Expr):
            amount: Dim = c.dim(shift)
            if not isinstance(amount, int):
                raise Refused("rolling by a dynamic number isn't supported")
            cut: Dim = -amount if amount <= 0 else size - amount
        else:
            cut = (-c.static(c.dim(shift), "shift")) % size if size else 0
        if cut not in (0, size):
            flat = c.concat([c.part(flat, at, cut, size), c.part(flat, at, 0, cut)], at)
    return c.b.reshape(flat, x.type.shape)


def _repeat(c: Call) -> Value:
    """x, with axes of size 1 in front where there are more repeats than axes, laid out side by side."""
    x = c.x()
    repeats = [c.dim(d) for d in c.raw("repeats")]
    shape = (1,) * (len(repeats) - x.type.rank) + x.type.shape
    spread: list[Dim] = []
    axes = []
    for n, d in zip(repeats, shape, strict=True):
        if n != 1:
            spread.append(n)
        axes.append(len(spread))
        spread.append(d)
    return c.b.reshape(c.b.broadcast(c.b.reshape(x, shape), spread, axes), c.type().shape)


def _repeat_interleave(c: Call) -> Value:
    """Each element of an axis several times in a row."""
    x, count = c.x(), c.size("repeats")
    if not c.has("dim"):
        x = c.b.reshape(x, (x.type.size,))
    axis = c.axis(c.get("dim", 0), x.type.rank)
    spread = (*x.type.shape[: axis + 1], count, *x.type.shape[axis + 1 :])
    kept = [i for i in range(len(spread)) if i != axis + 1]
    return c.b.reshape(c.b.broadcast(x, spread, kept), c.type().shape)


# Padding


def _pairs(c: Call, x: Value, name: str) -> tuple[list[Dim], list[Dim]]:
    """Widths before and after each axis; torch lists pairs from the last axis on."""
    widths = [c.dim(d) for d in c.raw(name)]
    low: list[Dim] = [0] * x.type.rank
    high: list[Dim] = [0] * x.type.rank
    for i in range(len(widths) // 2):
        low[-1 - i], high[-1 - i] = widths[2 * i : 2 * i + 2]
    return low, high


def padded(c: Call, x: Value, value: Value, low: Sequence[Dim], high: Sequence[Dim]) -> Value:
    """x with a border of one value; negative widths cut."""
    for axis, (a, b) in enumerate(zip(low, high, strict=True)):
        size = x.type.shape[axis]
        x = c.part(x, axis, maximum(-a, 0), size - maximum(-b, 0))
    low, high = ([maximum(d, 0) for d in side] for side in (low, high))
    if all(d == 0 for d in (*low, *high)):
        return x
    return c.b.op("pad", x, value, low=tuple(low), high=tuple(high))


def _constant_pad(c: Call) -> Value:
    x = c.x()
    return padded(c, x, c.number(c.get("value", 0), x.type.dtype), *_pairs(c, x, "pad"))


def _pad(c: Call) -> Value:
    mode = c.get("mode", "constant")
    if mode == "constant":
        return _constant_pad(c)
    return _pad_from_inside(c, c.x(), "pad", {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


def _padding_of(mode: str) -> Converter:
    return lambda c: _pad_from_inside(c, c.x(), "padding", mode)


def _pad_from_inside(c: Call, x: Value, name: str, mode: str) -> Value:
    """A border of elements of x, gathered by position."""
    for axis, (low, high) in enumerate(zip(*_pairs(c, x, name), strict=True)):
        if low == 0 and high == 0:
            continue
        size = x.type.shape[axis]
        if isinstance(size, Expr) or isinstance(low, Expr) or isinstance(high, Expr):
            raise Refused(f"padding of mode {mode} along a dynamic axis isn't supported")
        positions = np.pad(np.arange(size), (max(low, 0), max(high, 0)), mode=mode)  # type: ignore[call-overload]
        kept = positions[max(-low, 0) : len(positions) - max(-high, 0)]
        x = c.b.op("gather", x, c.b.constant(kept.astype(np.int64)), axis=axis)
    return x


def _pixel_shuffle(c: Call) -> Value:
    x, r = c.x(), c.get("upscale_factor")
    *batch, _, h, w = x.type.shape
    n = len(batch)
    channels = c.type().shape[-3]
    split = c.b.reshape(x, (*batch, channels, r, r, h, w))
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return c.b.reshape(c.b.transpose(split, order), c.type().shape)


def _pixel_unshuffle(c: Call) -> Value:
    x, r = c.x(), c.get("downscale_factor")
    *batch, channels, _, _ = x.type.shape
    n = len(batch)
    h, w = c.type().shape[-2:]
    split = c.b.reshape(x, (*batch, channels, h, r, w, r))
    order = (*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return c.b.reshape(c.b.transpose(split, order), c.type().shape)


def _windows(c: Call) -> Value:
    """Slices of an axis, `step` apart, with the elements of each on a new last axis."""
    x, size, step = c.x(), c.get("size"), c.get("step")
    axis = c.axis(c.get("dimension"), x.type.rank)
    count = c.type().shape[axis]
    if isinstance(count, Expr):
        raise Refused("sliding over a dynamic axis isn't supported")
    positions = np.arange(count)[:, None] * step + np.arange(size)
    y = c.b.op("gather", x, c.b.constant(positions.astype(np.int64)), axis=axis)
    order = [i for i in range(y.type.rank) if i != axis + 1] + [axis + 1]
    return c.b.transpose(y, order)


def _diagonal(c: Call) -> Value:
    """Elements i, i + offset of two axes, along a new last axis."""
    x, offset = c.x(), c.get("offset", 0)
    pair = [c.axis(c.get(n, d), x.type.rank) for n, d in (("dim1", 0), ("dim2", 1))]
    rest = [i for i in range(x.type.rank) if i not in pair]
    rows, columns = (c.static(x.type.shape[i], "size") for i in pair)
    row = np.arange(c.static(c.type().shape[-1], "size")) + max(-offset, 0)
    positions = row * columns + row + offset
    flat = c.b.reshape(c.b.transpose(x, (*rest, *pair)), (*(x.type.shape[i] for i in rest), rows * columns))
    return c.b.op("gather", flat, c.b.constant(positions.astype(np.int64)), axis=len(rest))


_VIEWS = (
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as",
    "_reshape_copy", "view_copy", "squeeze_copy", "unsqueeze_copy",
)  # fmt: skip

CONVERTERS: Mapping[str, Converter] = {
    "view.dtype": _view_dtype,
    **dict.fromkeys(_VIEWS, _view),
    "permute": _permute,
    "permute_copy": _permute,
    "transpose": _transpose,
    "transpose_copy": _transpose,
    "t": _reversed_axes,
    "t_copy": _reversed_axes,
    "movedim": _move_axes,
    "expand": _expand,
    "expand_copy": _expand,
    "cat": _cat,
    "stack": _stack,
    "split": _split,
    "split_copy": _split,
    "split_with_sizes": _split,
    "split_with_sizes_copy": _split,
    "chunk": _split,
    "unbind": _unbind,
    "unbind_copy": _unbind,
    "slice.Tensor": _slice,
    "slice_copy.Tensor": _slice,
    "select.int": _select,
    "select_copy.int": _select,
    "select_scatter": _select_scatter,
    "slice_scatter": _slice_scatter,
    "diagonal": _diagonal,
    "diagonal_copy": _diagonal,
    "flip": _flip,
    "roll": _roll,
    "repeat": _repeat,
    "repeat_interleave.self_int": _repeat_interleave,
    "constant_pad_nd": _constant_pad,
    "pad": _pad,
    "reflection_pad1d": _padding_of("reflect"),
    "reflection_pad2d": _padding_of("reflect"),
    "replication_pad1d": _padding_of("edge"),
    "replication_pad2d": _padding_of("edge"),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "unfold": _windows,
    "unfold_copy": _windows,
}  # fmt: skip
