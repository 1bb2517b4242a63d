"""Chooses the 3x3 convolutions that Winograd's F(4x4, 3x3) computes faster, and transforms their weights.

    conv(x, w)  =  winograd_conv(x, unpack(pack(G w G^T)))

The transform of constant weights moves to `prepare`; others, as in training, are transformed at each call. Panels are
those of `packing.py`. In f32 the result differs from the exact one by about 1e-6 of its largest value, two or three times
as much as a direct convolution's: fast numerics only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import bounds
from graphc.ir.types import f32
from graphc.ops.winograd import REACH, TILE, output_size, transformed
from graphc.pipeline import Claim, PassContext, PassResult, approximate
from graphc_llvm.choices import PREDICTED, Choices
from graphc_llvm.contraction import panel_widths
from graphc_llvm.packing import constant_values
from graphc_llvm.panels import Panels
from graphc_llvm.target import Target

CLAIM = approximate(1e-4)
"""Of a value's largest element, in a whole network of such convolutions. One alone stays below 1e-5."""

MARGIN = 0.8
"""How long Winograd may be predicted to take, of the direct convolution's time."""

SEVERAL = 8
"""Images that a dynamic number of them is judged by, beside the fewest: at few, weights are read for little work."""

INPUT_CYCLES, OUTPUT_CYCLES = 120, 120
"""Cycles to transform one vector of channels of a tile: loads, stores and additions."""
BYTES_PER_CYCLE = 7
"""At which weights stream that lie in no cache."""


@dataclass(frozen=True)
class Winograd:
    """Replaces 3x3 convolutions, channels last and of stride 1, where that is predicted to be faster."""

    target: Target
    choices: Choices = PREDICTED
    name: str = "winograd"
    claim: Claim = CLAIM

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        constant = constant_values(graph)
        direct_rate = 2 if context.precision == "bf16" and self.target.bf16_pairs else 1
        replaced = 0
        for node in graph.nodes:
            if node.op.name == "conv" and self.is_chosen(node, node.operands[1] in constant, direct_rate):
                self.replace(graph, node, context)
                replaced += 1
        self.choices.tell(context)
        return PassResult(bool(replaced), {"replaced": replaced})

    def is_chosen(self, node: Node, prepared: bool, direct_rate: int = 1) -> bool:
        """Whether a convolution has the form for it, and is to have it.

        prepared: its weights are transformed once; direct_rate: how many times f32's rate a direct one runs at.
        """
        if not self.has_form(node):
            return False
        predicted = int(self.is_faster(node, prepared, direct_rate))
        return bool(self.choices.choose(node, "winograd", (predicted, 1 - predicted)))

    def has_form(self, node: Node) -> bool:
        """Whether the algorithm can compute a convolution."""
        x, w = node.operands
        form = {"strides": (1, 1), "dilation": (1, 1), "groups": 1, "layout": "channels_last", "kernel_layout": "io"}
        if any(node[k] != v for k, v in form.items()) or w.type.dtype.name != "f32" or w.type.shape[:2] != (3, 3):
            return False
        size = x.type.shape[1:3]
        channels, outputs = w.type.shape[2:]
        if not all(isinstance(d, int) for d in size) or not isinstance(channels, int) or not isinstance(outputs, int):
            return False
        height, width = (int(d) for d in output_size(size, node["padding"]))
        return min(height, width, channels, outputs) >= 2

    def is_faster(self, node: Node, prepared: bool, direct_rate: int = 1) -> bool:
        """Whether a convolution that has the form is predicted to be faster so."""
        x, w = node.operands
        images, *size = x.type.shape[:3]
        channels, outputs = (int(d) for d in w.type.shape[2:] if isinstance(d, int))
        height, width = (int(d) for d in output_size(size, node["padding"]) if isinstance(d, int))
        low, high = bounds(images)
        counts = {max(low or 1, 1), SEVERAL if high is None else min(high, SEVERAL)}
        found = [cycles(n, height, width, channels, outputs, self.target, prepared) for n in counts]
        return prod(winograd / direct * direct_rate for direct, winograd in found) < MARGIN ** len(found)

    def replace(self, graph: Graph, node: Node, context: PassContext) -> None:
        x, w = node.operands
        b = Builder(graph, before=node, origin=node.origin)
        rows = output_size(x.type.shape[1:3], node["padding"])
        u = transformed(b, w)
        form = Panels(u.type.shape, panel_widths(w.type.shape[3], rows[0] * rows[1], w.type.dtype, self.target)[0], 0)
        y = b.op("winograd_conv", x, form.unpack(b, form.pack(b, u)), padding=node["padding"])
        context.replace(graph, node.result, y)
        graph.erase(node)


def cycles(
    images: int, height: int, width: int, channels: int, outputs: int, target: Target, prepared: bool = True
) -> tuple[float, float]:
    """Predicted cycles of a 3x3 convolution whose result is that large: (direct, by Winograd).

    Weights that aren't `prepared` are packed at each call, for Winograd after they were transformed.
    """
    lanes = target.lanes(4)
    panel = panel_widths(outputs, height * width, f32, target)[0]
    columns = -(-outputs // panel) * panel
    tiles = images * -(-height // TILE) * -(-width // TILE)
    direct = _product(images * height * width, 9, channels, columns, lanes)
    inside = _product(tiles, REACH * REACH, channels, columns, lanes)
    transforms = tiles * (-(-channels // lanes) * INPUT_CYCLES + columns // lanes * OUTPUT_CYCLES)
    if not prepared:
        position = 4 * channels * columns / BYTES_PER_CYCLE
        direct += 2 * 9 * position
        transforms += 3 * REACH * REACH * position
    return direct, inside + transforms


def _product(rows: int, taps: int, channels: int, columns: int, lanes: int) -> float:
    """Two fused multiply-adds a cycle, or the weights' way from memory where that takes longer."""
    return max(rows * taps * channels * columns / (2 * lanes), 4 * taps * channels * columns / BYTES_PER_CYCLE)
