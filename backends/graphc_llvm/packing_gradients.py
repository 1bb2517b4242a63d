"""Packing for the gradient of a convolution's weights, a product whose sum goes over images and positions.

    dw[t, c, o] = sum over positions p and images n of x[n, p * stride + t * dilation, c] * dy[n, p, o]

Both operands are copied so that a position's images lie together: x is [position][n][c], dy is in panels of columns,
[o // width][p][n][o % width]. With stride 1, the last axis of positions and the images are then one long axis of the sum,
whatever the window; small images have no short loops. bf16 is multiplied in pairs of images, [n // 2][c][n % 2].

It is again a `conv_weight_grad`, of an axis more, of views: graphs that print, verify and interpret.
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

REUSES_IN_PAIRS = 64
REUSES = 1024
"""Readings of an element of either operand, from which on copying it pays: with twice the rate, or for longer loops alone."""

FEWEST_IMAGES = 4


def pack_weight_gradient(graph: Graph, node: Node, target: Target, context: PassContext) -> bool:
    """Packs both operands of a `conv_weight_grad` of known sizes, without groups and padding, where that pays."""
    spec = ConvSpec.from_attributes(node.attributes)
    x, dy = node.operands
    if spec.layout != "channels_last" or spec.kernel_layout != "io" or spec.groups > 1 or any(spec.padding):
        return False
    if spec.spatial > 2 or not x.type.is_static or not dy.type.is_static or not x.type.dtype.is_float:
        return False
    images = x.type.shape[0]
    assert isinstance(images, int)
    *window, inputs, outputs = node.result.type.shape
    pairs = x.type.dtype == bf16 and target.bf16_pairs and images >= FEWEST_IMAGES
    readings = product(window) * inputs, product(window) * outputs // product(spec.strides)
    if min(readings) < (REUSES_IN_PAIRS if pairs else REUSES):
        return False
    b = Builder(graph, before=node, origin=node.origin)
    if pairs and images % 2:
        x, dy = _with_another_image(b, x), _with_another_image(b, dy)
    width = panel_widths(outputs, product(window) * inputs, wide(x.type.dtype), target)[0]
    form = {
        "strides": (*spec.strides, 1), "dilation": (*spec.dilation, 1), "padding": (0,) * (2 * spec.spatial + 2),
        "kernel_size": (*node["kernel_size"], 1),
    }  # fmt: skip
    terms = 2 if pairs else 1
    operands = _images_last(b, _unpacked(x), inputs, terms), _images_last(b, _unpacked(dy), width, terms)
    made = b.op("conv_weight_grad", *operands, **{**node.attributes, **form})
    context.replace(graph, node.result, b.reshape(made, node.result.type.shape))
    graph.erase(node)
    return True


def _with_another_image(b: Builder, v: Value) -> Value:
    zeros = (0,) * v.type.rank
    return b.op("pad", _unpacked(v), b.scalar(0, v.type.dtype), low=zeros, high=(1, *zeros[1:]))


def _unpacked(v: Value) -> Value:
    """What is copied where `v` is a copy: one copy, in the form that is wanted, is enough."""
    return v.producer.operands[0] if v.producer is not None and v.producer.op.name == "materialize" else v


def _images_last(b: Builder, v: Value, width: int, terms: int) -> Value:
    """(1, *positions, N, C), a view of a copy in panels, of an image (N, *positions, C)."""
    rank = v.type.rank
    moved = b.transpose(v, (*range(1, rank - 1), 0, rank - 1))
    form = Panels(moved.type.shape, width, 0, terms)
    return b.reshape(form.unpack(b, form.pack(b, moved)), (1, *moved.type.shape))
