"""Convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.ir.graph import Value
from graphc_torch.call import Call, Converter
from graphc_torch.refused import Refused


def _spatial(c: Call, name: str, rank: int) -> tuple[int, ...]:
    """A number for each spatial axis; one stands for all."""
    values = tuple(c.static(c.dim(v), name) for v in c.raw(name))
    return values * rank if len(values) == 1 else values


def _convolution(c: Call) -> Value:
    x, w = c.x("input"), c.x("weight")
    rank = w.type.rank - 2
    if not 1 <= rank <= 3:
        raise Refused("a convolution over other than one to three spatial axes isn't supported")
    strides, dilation = _spatial(c, "stride", rank), _spatial(c, "dilation", rank)
    padding = tuple(p for n in _spatial(c, "padding", rank) for p in (n, n))
    attributes: dict[str, Any] = {
        "strides": strides, "padding": padding, "dilation": dilation, "groups": int(c.get("groups")),
        "layout": "channels_first", "kernel_layout": "oi",
    }  # fmt: skip
    y = _transposed(c, x, w, attributes) if c.get("transposed") else c.b.op("conv", x, w, **attributes)
    return y if not c.has("bias") else c.b.op("add", y, c.b.broadcast(c.x("bias"), y.type.shape, (1,)))


def _transposed(c: Call, x: Value, w: Value, attributes: Mapping[str, Any]) -> Value:
    """The gradient of a convolution with respect to its input, of the size that torch gives the result."""
    extra = _spatial(c, "output_padding", w.type.rank - 2)
    strides: tuple[int, ...] = attributes["strides"]
    if any(e >= s for e, s in zip(extra, strides, strict=True)):
        raise Refused("an output padding that isn't smaller than the stride isn't supported")
    return c.b.op("conv_input_grad", x, w, input_size=c.type().shape[2:], **attributes)


CONVERTERS: Mapping[str, Converter] = {"convolution": _convolution}
