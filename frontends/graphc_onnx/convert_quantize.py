"""Quantization, and products of quantized tensors: integers with a scale and a zero point."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, Expr
from graphc.ir.types import DType, f32, i32
from graphc_onnx.call import Call, Converter
from graphc_onnx.convert_contraction import matmul
from graphc_onnx.convert_conv import convolve
from graphc_onnx.imported import Refused, broadcast_to


def _quantize_linear(c: Call) -> Value:
    x, scale = c.x(0), c.x(1)
    if c.has(2):
        target = c.tensor(2).type.dtype
    else:
        target = c.dtype(c.get("output_dtype") or 2)  # u8
    precision = c.dtype(c.get("precision")) if c.get("precision") else scale.type.dtype
    steps = c.b.op("div", c.b.cast(x, precision), _spread(c, c.b.cast(scale, precision), x))
    zero = _spread(c, c.b.cast(c.x(2), f32), x) if c.has(2) else None
    return _rounded(c, c.b.cast(steps, f32), zero, target)


def _rounded(c: Call, steps: Value, zero: Value | None, target: DType) -> Value:
    """round(steps) + zero as an integer, at the nearest that the type has. f32 holds all of 8 and 16 bits."""
    if not target.is_integer or target.bytes > 2:
        raise Refused(f"quantizing to {target} isn't supported")
    whole = c.b.op("round", steps)
    if zero is not None:
        whole = c.b.op("add", whole, zero)
    info = np.iinfo(target.numpy)
    return c.b.cast(c.scaled("min", c.scaled("max", whole, int(info.min)), int(info.max)), target)


def _dequantize_linear(c: Call) -> Value:
    x, scale = c.x(0), c.x(1)
    result = c.dtype(c.get("output_dtype")) if c.get("output_dtype") else scale.type.dtype
    if not x.type.dtype.is_integer:
        raise Refused(f"dequantizing {x.type.dtype} isn't supported")
    steps = c.b.cast(x, i32)
    if c.has(2):
        steps = c.b.op("sub", steps, _spread(c, c.b.cast(c.x(2), i32), x))
    product = c.b.op("mul", c.b.cast(steps, f32), _spread(c, c.b.cast(scale, f32), x))
    return c.b.cast(product, result)


def _spread(c: Call, p: Value, x: Value) -> Value:
    """A scale or zero point for each element of x: one for all, one along the axis, or one for each block of it."""
    shape = x.type.shape
    if p.type.rank == 0 or p.type.shape == (1,):
        return c.b.broadcast(c.b.reshape(p, ()), shape, ())
    axis = c.axis(c.get("axis", 1), x.type.rank)
    if p.type.rank == 1:
        return c.b.broadcast(p, shape, (axis,))
    block = int(c.get("block_size", 0))
    if block < 1 or p.type.rank != x.type.rank:
        raise c.wrong("a scale is a number, a vector along the axis, or a tensor of blocks", p.type)
    repeated: tuple[Dim, ...] = (*p.type.shape[: axis + 1], block, *p.type.shape[axis + 1 :])
    others = [i if i <= axis else i + 1 for i in range(p.type.rank)]
    blocks = c.b.broadcast(p, repeated, others)
    full = c.b.reshape(blocks, (*p.type.shape[:axis], p.type.shape[axis] * block, *p.type.shape[axis + 1 :]))
    limits = shape
    if full.type.shape == shape:
        return full
    return c.b.op("slice", full, starts=(0,) * len(shape), limits=limits, strides=(1,) * len(shape))


def _centred(c: Call, index: int, zero: int, shape_of: str) -> Value:
    """An integer operand less its zero point, as i32: one zero, or one for each row (of A) or column (of B)."""
    x = c.b.cast(c.x(index), i32)
    if not c.has(zero):
        return x
    p = c.b.cast(c.x(zero), i32)
    if p.type.rank == 1 and p.type.shape != (1,) and shape_of == "row":
        p = c.b.reshape(p, (*p.type.shape, 1))
    elif p.type.rank == 1 and p.type.shape != (1,) and shape_of == "kernel":
        p = c.b.reshape(p, (*p.type.shape, *(1 for _ in x.type.shape[1:])))
    if p.type.shape == (1,):
        p = c.b.reshape(p, ())
    return c.b.op("sub", x, broadcast_to(c.b, p, x.type.shape))


def _matmul_integer(c: Call) -> Value:
    return matmul(c, _centred(c, 0, 2, "row"), _centred(c, 1, 3, "column"))


def _conv_integer(c: Call) -> Value:
    return convolve(c, _centred(c, 0, 2, "all"), _centred(c, 1, 3, "kernel"))


def _one(c: Call, index: int, what: str) -> Value:
    """A scale or zero point that is one number, in f32."""
    p = c.x(index)
    if isinstance(p.type.size, Expr) or p.type.size != 1:
        raise Refused(f"a {what} for each row isn't supported")
    return c.b.cast(c.b.reshape(p, ()), f32)


def _qlinear_matmul(c: Call) -> Value:
    total = matmul(c, _centred(c, 0, 2, "row"), _centred(c, 3, 5, "column"))
    factor = c.b.op("div", c.b.op("mul", _one(c, 1, "scale"), _one(c, 4, "scale")), _one(c, 6, "scale"))
    return _requantized(c, total, c.b.broadcast(factor, total.type.shape, ()), 7)


def _qlinear_conv(c: Call) -> Value:
    total = convolve(c, _centred(c, 0, 2, "all"), _centred(c, 3, 5, "kernel"))
    if c.has(8):
        total = c.b.op("add", total, c.b.broadcast(c.x(8), total.type.shape, (1,)))
    scale = c.b.cast(c.x(4), f32)
    outer = c.b.op("div", _one(c, 1, "scale"), _one(c, 6, "scale"))
    if scale.type.size == 1:
        factor = c.b.broadcast(c.b.op("mul", c.b.reshape(scale, ()), outer), total.type.shape, ())
    else:
        each = c.b.op("mul", scale, c.b.broadcast(outer, scale.type.shape, ()))
        factor = c.b.broadcast(each, total.type.shape, (1,))
    return _requantized(c, total, factor, 7)


def _requantized(c: Call, total: Value, factor: Value, zero: int) -> Value:
    steps = c.b.op("mul", c.b.cast(total, f32), factor)
    shift = c.b.broadcast(_one(c, zero, "zero point"), total.type.shape, ())
    return _rounded(c, steps, shift, c.tensor(zero).type.dtype)


def _dynamic_quantize_linear(c: Call) -> list[Value]:
    """Bytes over the range of x, widened to hold 0; with the scale and zero point found."""
    x = c.x()
    axes = tuple(range(x.type.rank))
    zero = c.b.scalar(0, x.type.dtype)
    low = c.b.op("min", c.b.op("reduce_min", x, axes=axes), zero)
    high = c.b.op("max", c.b.op("reduce_max", x, axes=axes), zero)
    scale = c.scaled("div", c.b.op("sub", high, low), 255)
    start = c.scaled("min", c.scaled("max", c.b.op("round", c.b.op("div", c.b.op("neg", low), scale)), 0), 255)
    shape = x.type.shape
    steps = c.b.op("div", x, c.b.broadcast(scale, shape, ()))
    point = c.b.cast(start, c.dtype(2))
    return [_rounded(c, steps, c.b.broadcast(start, shape, ()), c.dtype(2)), scale, point]


CONVERTERS: Mapping[str, Converter] = {
    "QuantizeLinear": _quantize_linear,
    "DequantizeLinear": _dequantize_linear,
    "DynamicQuantizeLinear": _dynamic_quantize_linear,
    "MatMulInteger": _matmul_integer,
    "ConvInteger": _conv_integer,
    "QLinearMatMul": _qlinear_matmul,
    "QLinearConv": _qlinear_conv,
}
