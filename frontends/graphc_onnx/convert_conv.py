"""Convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, Expr
from graphc_onnx.call import Call, Converter
from graphc_onnx.convert_movement import padded
from graphc_onnx.imported import Refused
from graphc_onnx.sliding import Sliding, halves, sliding, spatial_dims


def convolve(c: Call, x: Value, w: Value) -> Value:
    """The convolution that the node's attributes describe."""
    frame = sliding(c, x, _window(c, x, w))
    return c.b.op("conv", x, w, **_slide(c, frame.strides, frame.padding, frame.dilation))


def _slide(c: Call, strides: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]) -> dict[str, Any]:
    return {
        "strides": strides, "padding": padding, "dilation": dilation, "groups": int(c.get("group", 1)),
        "layout": "channels_first", "kernel_layout": "oi",
    }  # fmt: skip


def _window(c: Call, x: Value, w: Value) -> tuple[int, ...]:
    """The kernel's spatial dims, which kernel_shape repeats."""
    if w.type.rank != x.type.rank:
        raise c.wrong("input and kernel differ in rank", f"{x.type} and {w.type}")
    window: list[int] = []
    for d in w.type.shape[2:]:
        if isinstance(d, Expr):
            raise Refused("a kernel of dynamic size isn't supported")
        window.append(d)
    given = c.get("kernel_shape")
    if given is not None and list(given) != window:
        raise c.wrong("kernel_shape isn't that of the kernel", list(given), window)
    return tuple(window)


def with_bias(c: Call, y: Value, index: int) -> Value:
    """y plus the operand's number for each channel, if it is there."""
    return c.b.op("add", y, c.b.broadcast(c.x(index), y.type.shape, (1,))) if c.has(index) else y


def _conv(c: Call) -> Value:
    return with_bias(c, convolve(c, c.x(0), c.x(1)), 2)


def _conv_transpose(c: Call) -> Value:
    """The gradient of a convolution with respect to its input."""
    x, w = c.x(0), c.x(1)
    window = _window(c, x, w)
    sizes = spatial_dims(c, x)
    rank = len(sizes)
    frame = sliding(_without_padding(c), x, window)
    extra = tuple(c.get("output_padding") or (0,) * rank)
    if len(extra) != rank or min(extra) < 0:
        raise c.wrong("output_padding needs a number for each spatial axis", list(extra))
    full = [(d - 1) * s + frame.extent(i) for i, (d, s) in enumerate(zip(sizes, frame.strides, strict=True))]
    pads = _transposed_padding(c, frame, sizes, full, extra)
    simple = min(pads) >= 0 and all(e < s for e, s in zip(extra, frame.strides, strict=True))
    padding = pads if simple else (0,) * 2 * rank
    more = extra if simple else (0,) * rank
    size = tuple(f + more[i] - padding[2 * i] - padding[2 * i + 1] for i, f in enumerate(full))
    y = c.b.op("conv_input_grad", x, w, input_size=size, **_slide(c, frame.strides, padding, frame.dilation))
    if not simple:
        low = [0, 0, *(-p for p in pads[::2])]
        high = [0, 0, *(e - p for e, p in zip(extra, pads[1::2], strict=True))]
        y = padded(c, y, c.b.scalar(0, y.type.dtype), low, high)
    return with_bias(c, y, 2)


def _without_padding(c: Call) -> Call:
    """The node with the padding left out, which means something else here."""
    attributes = {k: v for k, v in c.attributes.items() if k not in ("pads", "auto_pad")}
    return Call(c.op, c.layer, c.opset, attributes, c.operands, c.outputs, c.b, c.contents, c.within, c.mode)


def _transposed_padding(
    c: Call, frame: Sliding, sizes: tuple[Dim, ...], full: list[Dim], extra: tuple[int, ...]
) -> tuple[int, ...]:
    """What is cut off the full result, (low, high) for each axis."""
    rank = len(sizes)
    auto, wanted = c.get("auto_pad", "NOTSET"), c.get("output_shape")
    if wanted is None and auto in ("NOTSET", "VALID"):
        pads = (c.get("pads") if auto == "NOTSET" else None) or (0,) * 2 * rank
        if len(pads) != 2 * rank:
            raise c.wrong("pads needs a begin and an end for each spatial axis", list(pads))
        return tuple(p for i in range(rank) for p in (pads[i], pads[rank + i]))
    if wanted is not None:
        if len(wanted) < rank:
            raise c.wrong("output_shape needs a number for each spatial axis", list(wanted))
        wanted = wanted[-rank:]
    pairs: list[int] = []
    for i in range(rank):
        target = sizes[i] * frame.strides[i] if wanted is None else wanted[i]
        total = full[i] + extra[i] - target
        if isinstance(total, Expr):
            raise Refused("an output_shape for a dynamic axis isn't supported")
        pairs += halves(total, auto == "SAME_UPPER")
    return tuple(pairs)


CONVERTERS: Mapping[str, Converter] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
