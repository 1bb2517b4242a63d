"""Packing for convolutions of few channels, as on images: rows of the window are the terms that are summed in pairs.

In an image with channels last, the elements of a window's row are neighbours: kw * c of them for a window of width kw. So
the convolution is one over rows of W * c elements of one channel each, in steps of stride * c, with windows of kw * c:

    y[p, q, o] = sum over i and j in [0, kw * c) of x[p * stride + i, q * stride * c + j] * w[i, j, o]

j makes pairs of bf16, with a zero weight more where kw * c is odd. x is copied, with its borders and that last element.
"""

from __future__ import annotations

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import product
from graphc.ir.types import bf16
from graphc.ops.by_decomposition import wide
from graphc.ops.convolution import ConvSpec
from graphc.pipeline import PassContext
from graphc_llvm.contraction import panel_widths
from graphc_llvm.panels import Panels
from graphc_llvm.target import Target

MOST_CHANNELS = 15
"""More channels are packed in pairs themselves."""


def pack_few_channels(graph: Graph, node: Node, target: Target, context: PassContext) -> bool:
    """Packs a `conv` of bf16, with few channels and a width that is known, for a target that multiplies pairs."""
    spec = ConvSpec.from_attributes(node.attributes)
    x, w = node.operands
    if spec.layout != "channels_last" or spec.kernel_layout != "io" or spec.groups > 1 or spec.dilation[-1] > 1:
        return False
    sizes, window = x.type.shape[1:-1], w.type.shape[:-2]
    if not (x.type.dtype == bf16 and target.bf16_pairs and w.type.is_static and all(isinstance(s, int) for s in sizes)):
        return False
    channels, outputs = w.type.shape[-2:]
    assert isinstance(channels, int) and isinstance(window[-1], int)
    if channels > MOST_CHANNELS:
        return False
    b = Builder(graph, before=node, origin=node.origin)
    run = window[-1] * channels
    even = run + run % 2
    elements = _rows(b, x, spec, node, even)
    taps = b.reshape(w, (*window[:-1], run, outputs))
    if even != run:
        zeros = (0,) * taps.type.rank
        taps = b.op("pad", taps, b.scalar(0, w.type.dtype), low=zeros, high=(*zeros[2:], 1, 0))
    width = panel_widths(outputs, product(node.result.type.shape[:-1]), wide(bf16), target)[0]
    form = Panels(taps.type.shape, width, 0, terms=2)
    packed = b.reshape(form.unpack(b, form.pack(b, taps)), (*window[:-1], even, 1, outputs))
    step = (*spec.strides[:-1], spec.strides[-1] * channels)
    attributes = {**node.attributes, "strides": step, "padding": (0,) * len(spec.padding)}
    context.replace(graph, node.result, b.op("conv", elements, packed, **attributes))
    graph.erase(node)
    return True


def _rows(b: Builder, x: Value, spec: ConvSpec, node: Node, run: int) -> Value:
    """(N, *sizes, W * C, 1): the image with its borders, as long as windows of `run` elements reach."""
    n, channels = spec.spatial, x.type.shape[-1]
    assert isinstance(channels, int)
    low, high = [0] * (n + 2), [0] * (n + 2)
    limits = list(x.type.shape)
    for i in range(n):
        size, positions = x.type.shape[i + 1], node.result.type.shape[i + 1]
        assert isinstance(size, int) and isinstance(positions, int)
        window = -(-run // channels) if i == n - 1 else (node.operands[1].type.shape[i] - 1) * spec.dilation[i] + 1
        assert isinstance(window, int)
        low[i + 1] = spec.padding[2 * i]
        more = (positions - 1) * spec.strides[i] + window - low[i + 1] - size
        limits[i + 1], high[i + 1] = size + min(more, 0), max(more, 0)
    if tuple(limits) != x.type.shape:
        x = b.op("slice", x, starts=(0,) * (n + 2), limits=tuple(limits), strides=(1,) * (n + 2))
    if any(low) or any(high):
        x = b.op("pad", x, b.scalar(0, x.type.dtype), low=tuple(low), high=tuple(high))
    copied = b.op("materialize", x)
    *outer, width, _ = copied.type.shape
    return b.reshape(copied, (*outer, width * channels, 1))
