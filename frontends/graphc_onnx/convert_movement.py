"""Operators that move elements: reshapes, transposes, slices, padding, concatenation, repetition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, Expr, bounds, ceildiv, floordiv, maximum, minimum, nonnegative, product
from graphc.ir.types import i64
from graphc_onnx.call import Call, Converter
from graphc_onnx.imported import MOST_KNOWN_ELEMENTS, Refused, broadcast_shape, broadcast_to

# From here on an end of a slice means "to the end": exporters write the largest int32 or int64.
_OPEN_END = 2**31 - 1


def _reshape(c: Call) -> Value:
    x = c.x()
    wanted = c.sizes(1, "shape")
    keep_zero = bool(c.get("allowzero", 0))
    shape: list[Dim] = []
    for i, d in enumerate(wanted):
        if d == 0 and not keep_zero:
            if i >= x.type.rank:
                raise c.wrong("a dim to keep isn't there", wanted, x.type)
            shape.append(x.type.shape[i])
        else:
            shape.append(d)
    return c.b.reshape(x, _without_unknown(c, x, shape))


def _without_unknown(c: Call, x: Value, shape: list[Dim]) -> list[Dim]:
    """The shape with -1 replaced by what is left of the size."""
    unknown = [i for i, d in enumerate(shape) if d == -1]
    if not unknown:
        return shape
    rest = product(d for d in shape if d != -1)
    low = bounds(rest)[0]
    if len(unknown) > 1 or rest == 0:
        raise c.wrong("the shape leaves more than one dim open", shape)
    if low is None or low < 1:
        raise Refused(f"the open dim of {shape} can't be found where others may be 0")
    shape[unknown[0]] = floordiv(x.type.size, rest)
    return shape


def _flatten(c: Call) -> Value:
    x = c.x()
    axis = c.get("axis")
    rank = x.type.rank
    split = rank if axis == rank else c.axis(axis, rank)
    return c.b.reshape(x, (product(x.type.shape[:split]), product(x.type.shape[split:])))


def _given_axes(c: Call, since: int, rank: int) -> tuple[int, ...] | None:
    """The axes: an attribute before version `since`, then operand 1; None where they are left out."""
    if c.opset >= since:
        return c.axes(c.integers(1, "axes"), rank) if c.has(1) else None
    axes = c.get("axes")
    return None if axes is None else c.axes(axes, rank)


def _squeeze(c: Call) -> Value:
    x = c.x()
    axes = _given_axes(c, 13, x.type.rank)
    if axes is None:
        axes = tuple(i for i, d in enumerate(x.type.shape) if d == 1)
    for i in axes:
        if isinstance(x.type.shape[i], int) and x.type.shape[i] != 1:
            raise c.wrong(f"axis {i} isn't of size 1", x.type)
    return c.b.reshape(x, [d for i, d in enumerate(x.type.shape) if i not in axes])


def _unsqueeze(c: Call) -> Value:
    x = c.x()
    count = len(c.integers(1, "axes") if c.opset >= 13 else c.get("axes"))
    axes = _given_axes(c, 13, x.type.rank + count)
    old = iter(x.type.shape)
    return c.b.reshape(x, [1 if i in (axes or ()) else next(old) for i in range(x.type.rank + count)])


def _transpose(c: Call) -> Value:
    x = c.x()
    permutation = c.get("perm", tuple(reversed(range(x.type.rank))))
    return c.b.transpose(x, c.axes(permutation, x.type.rank))


def _concat(c: Call) -> Value:
    values = c.xs()
    if any(v.type.rank != values[0].type.rank for v in values):
        raise c.wrong("operands differ in rank", ", ".join(str(v.type) for v in values[:8]))
    return concatenate(c, values, c.axis(c.get("axis"), values[0].type.rank))


def concatenate(c: Call, values: Sequence[Value], axis: int) -> Value:
    """The values one after another; the value itself where there is one."""
    return values[0] if len(values) == 1 else c.b.op("concat", *values, axis=axis)


def part(c: Call, x: Value, axis: int, start: Dim, limit: Dim) -> Value:
    """x[start:limit] along one axis."""
    if start == 0 and limit == x.type.shape[axis]:
        return x
    starts: list[Dim] = [0] * x.type.rank
    limits = list(x.type.shape)
    starts[axis], limits[axis] = start, limit
    return c.b.op("slice", x, starts=tuple(starts), limits=tuple(limits), strides=(1,) * x.type.rank)


def _split(c: Call) -> list[Value]:
    x = c.x()
    axis = c.axis(c.get("axis"), x.type.rank)
    whole, count = x.type.shape[axis], len(c.outputs)
    sizes: Sequence[Dim]
    if c.opset >= 13 and c.has(1):
        sizes = c.sizes(1, "sizes of parts")
    elif c.opset < 13 and c.get("split") is not None:
        sizes = c.get("split")
    else:
        if c.get("num_outputs", count) != count:
            raise c.wrong("num_outputs isn't the number of results", c.get("num_outputs"), count)
        sizes = equal_parts(whole, count)
    if len(sizes) < count:
        raise c.wrong("there are fewer parts than results", list(sizes), count)
    parts: list[Value] = []
    start: Dim = 0
    for size in sizes:
        parts.append(part(c, x, axis, start, start + size))
        start = start + size
    if isinstance(start - whole, int) and start != whole:
        raise c.wrong("the parts don't add up to the axis", list(sizes), whole)
    return parts[:count]


def equal_parts(whole: Dim, count: int) -> list[Dim]:
    """`count` sizes, all equal but for a smaller last one."""
    size = ceildiv(whole, count)
    return [size] * (count - 1) + [whole - size * (count - 1)]


# Slice


def _slice(c: Call) -> Value:
    x = c.x()
    starts: Sequence[Dim]
    ends: Sequence[Dim]
    if c.opset < 10:
        starts, ends = c.get("starts"), c.get("ends")
        axes, steps = c.get("axes", tuple(range(len(starts)))), (1,) * len(starts)
    else:
        starts, ends = c.sizes(1, "starts"), c.sizes(2, "ends")
        axes = c.integers(3, "axes") if c.has(3) else tuple(range(len(starts)))
        steps = c.integers(4, "steps") if c.has(4) else (1,) * len(starts)
    axes = c.axes(axes, x.type.rank)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise c.wrong("starts, ends, axes and steps differ in number")
    low: list[Dim] = [0] * x.type.rank
    high: list[Dim] = list(x.type.shape)
    strides = [1] * x.type.rank
    turned = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            raise c.wrong("a step is 0")
        size = x.type.shape[axis]
        if step > 0:
            low[axis], high[axis] = _forward(_counted(start, size), _counted(end, size), size)
        else:
            low[axis], high[axis] = _backward(_counted(start, size), _counted(end, size), size, -step)
            turned.append(axis)
        strides[axis] = abs(step)
    if any(s != 1 for s in strides) or tuple(high) != x.type.shape or any(d != 0 for d in low):
        x = c.b.op("slice", x, starts=tuple(low), limits=tuple(high), strides=tuple(strides))
    return c.b.op("reverse", x, axes=tuple(sorted(turned))) if turned else x


def _counted(position: Dim, size: Dim) -> Dim:
    """A position counted from the front: negative ones count from the end."""
    if isinstance(position, int):
        if position >= _OPEN_END:
            return maximum(size, position) if isinstance(size, int) else size
        return position + size if position < 0 else position
    if nonnegative(position):
        return position
    if nonnegative(-1 - position):
        return position + size
    raise Refused(f"whether the position {position} counts from the end isn't known")


def _forward(start: Dim, end: Dim, size: Dim) -> tuple[Dim, Dim]:
    low = minimum(maximum(start, 0), size)
    return low, maximum(minimum(end, size), low)


def _backward(start: Dim, end: Dim, size: Dim, step: int) -> tuple[Dim, Dim]:
    """The range that, read backwards, starts at `start` and ends before `end`."""
    first = maximum(minimum(start, size - 1), -1)
    last = maximum(minimum(end, size - 1), -1)
    count = ceildiv(maximum(first - last, 0), step)
    if count == 0:
        return 0, 0
    return first - (count - 1) * step, first + 1


# Padding


def _pad(c: Call) -> Value:
    x = c.x()
    rank = x.type.rank
    pads: Sequence[Dim] = c.get("pads") if c.opset < 11 else c.sizes(1, "pads")
    axes = c.axes(c.integers(3, "axes"), rank) if c.has(3) else tuple(range(rank))
    if len(pads) != 2 * len(axes):
        raise c.wrong("pads need a begin and an end for each axis", list(pads), f"{2 * len(axes)} numbers")
    low: list[Dim] = [0] * rank
    high: list[Dim] = [0] * rank
    for i, axis in enumerate(axes):
        low[axis], high[axis] = pads[i], pads[len(axes) + i]
    mode = c.get("mode")
    if mode == "constant":
        if c.opset < 11:
            value = c.b.scalar(c.get("value"), x.type.dtype)
        else:
            value = c.b.reshape(c.x(2), ()) if c.has(2) else c.b.scalar(0, x.type.dtype)
        return padded(c, x, value, low, high)
    if mode not in ("reflect", "edge", "wrap"):
        raise c.wrong("unknown mode", mode, "constant, reflect, edge or wrap")
    for axis in range(rank):
        if low[axis] != 0 or high[axis] != 0:
            x = _padded_from_inside(c, x, axis, low[axis], high[axis], mode)
    return x


def padded(c: Call, x: Value, value: Value, low: Sequence[Dim], high: Sequence[Dim]) -> Value:
    """x with a border of one value; negative widths cut."""
    x = _cropped(c, x, low, high)
    low, high = ([maximum(d, 0) for d in side] for side in (low, high))
    if all(d == 0 for d in (*low, *high)):
        return x
    return c.b.op("pad", x, value, low=tuple(low), high=tuple(high))


def _cropped(c: Call, x: Value, low: Sequence[Dim], high: Sequence[Dim]) -> Value:
    if all(nonnegative(d) for d in (*low, *high)):
        return x
    starts = tuple(maximum(-d, 0) for d in low)
    limits = tuple(n - maximum(-d, 0) for n, d in zip(x.type.shape, high, strict=True))
    return c.b.op("slice", x, starts=starts, limits=limits, strides=(1,) * x.type.rank)


def _padded_from_inside(c: Call, x: Value, axis: int, low: Dim, high: Dim, mode: str) -> Value:
    size = x.type.shape[axis]
    if isinstance(size, Expr) or isinstance(low, Expr) or isinstance(high, Expr):
        raise Refused(f"padding of mode {mode} along a dynamic axis isn't supported")
    if size < 1 or low + high + size > MOST_KNOWN_ELEMENTS:
        raise c.wrong("the padding is out of range", f"{low} and {high} around {x.type}")
    positions = np.pad(np.arange(size), (max(low, 0), max(high, 0)), mode=mode)  # type: ignore[call-overload]
    kept = positions[max(-low, 0) : len(positions) - max(-high, 0)]
    return c.b.op("gather", x, c.b.constant(kept.astype(np.int64)), axis=axis)


# Repetition and arrangement


def _expand(c: Call) -> Value:
    x = c.x()
    return broadcast_to(c.b, x, broadcast_shape([x.type.shape, c.sizes(1, "shape")]))


def _tile(c: Call) -> Value:
    x = c.x()
    repeats = c.sizes(1, "repeats")
    if len(repeats) != x.type.rank:
        raise c.wrong("repeats need a number for each axis", repeats, x.type)
    spread: list[Dim] = []
    axes = []
    for n, d in zip(repeats, x.type.shape, strict=True):
        if n != 1:
            spread.append(n)
        axes.append(len(spread))
        spread.append(d)
    shape = [n * d for n, d in zip(repeats, x.type.shape, strict=True)]
    return c.b.reshape(c.b.broadcast(x, spread, axes), shape)


def _depth_to_space(c: Call) -> Value:
    x = c.x()
    block = _block_size(c)
    n, depth, h, w = _images(c, x)
    channels = floordiv(depth, block * block)
    if c.get("mode", "DCR") == "DCR":
        split = c.b.reshape(x, (n, block, block, channels, h, w))
        order = (0, 3, 4, 1, 5, 2)
    else:
        split = c.b.reshape(x, (n, channels, block, block, h, w))
        order = (0, 1, 4, 2, 5, 3)
    return c.b.reshape(c.b.transpose(split, order), (n, channels, h * block, w * block))


def _space_to_depth(c: Call) -> Value:
    x = c.x()
    block = _block_size(c)
    n, channels, h, w = _images(c, x)
    rows, columns = floordiv(h, block), floordiv(w, block)
    split = c.b.reshape(x, (n, channels, rows, block, columns, block))
    order = (0, 1, 3, 5, 2, 4) if c.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return c.b.reshape(c.b.transpose(split, order), (n, channels * block * block, rows, columns))


def _block_size(c: Call) -> int:
    block = int(c.get("blocksize"))
    if not 1 <= block < 2**16:
        raise c.wrong("the block size is out of range", block)
    return block


def _images(c: Call, x: Value) -> tuple[Dim, Dim, Dim, Dim]:
    if x.type.rank != 4:
        raise c.wrong("x must have four axes", x.type)
    n, channels, h, w = x.type.shape
    return n, channels, h, w


def _reverse_sequence(c: Call) -> Value:
    """Element t of a sequence of length n becomes n - 1 - t; what follows the sequence stays."""
    x, lengths = c.x(0), c.x(1)
    time, batch = (c.axis(c.get(name), x.type.rank) for name in ("time_axis", "batch_axis"))
    if {time, batch} != {0, 1}:
        raise c.wrong("time and batch must be the first two axes", (time, batch))
    shape = x.type.shape
    position = c.b.op("iota", dtype=i64, shape=shape, axis=time)
    length = c.b.broadcast(c.b.cast(lengths, i64), shape, (batch,))
    turned = c.scaled("sub", c.b.op("sub", length, position), 1)
    inside = c.b.op("lt", position, length)
    return c.b.op("take_along", x, c.b.op("select", inside, turned, position), axis=time)


def _center_crop_pad(c: Call) -> Value:
    """Axes cut or filled with zeros about their middle, to the given sizes."""
    x = c.x()
    rank = x.type.rank
    given = c.get("axes")
    axes = tuple(range(rank)) if given is None else c.axes(given, rank)
    wanted = c.integers(1, "shape")
    low: list[Dim] = [0] * rank
    high: list[Dim] = [0] * rank
    for axis, size in zip(axes, wanted, strict=True):
        have = x.type.shape[axis]
        if isinstance(have, Expr):
            raise Refused("cropping a dynamic axis isn't supported")
        missing = size - have
        # Of an odd number, the larger half is added or cut at the end.
        low[axis] = missing // 2 if missing >= 0 else -((-missing) // 2)
        high[axis] = missing - low[axis]
    return padded(c, x, c.b.scalar(0, x.type.dtype), low, high)


def _shape_of(c: Call) -> Value:
    raise Refused("a sequence has no shape")


CONVERTERS: Mapping[str, Converter] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "ReverseSequence": _reverse_sequence,
    "CenterCropPad": _center_crop_pad,
    "Shape": _shape_of,
    "Size": _shape_of,
}
