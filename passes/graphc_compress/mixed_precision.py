"""Products of narrow floats: their operands are rounded to f16 or bf16, their sums and everything else stay f32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.errors import GraphcError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim, bounds, floordiv, product
from graphc.ir.types import DTYPES, DType, f32
from graphc.ops.convolution import ConvSpec
from graphc.pipeline import Claim, PassContext, PassResult, approximate

MOVES = frozenset({"reshape", "transpose", "slice", "reverse", "broadcast", "pad", "materialize", "concat"})
"""Operators that move elements: rounding what they move is rounding what they make."""

CONVOLUTIONS = frozenset({"conv", "conv_input_grad", "conv_weight_grad"})

FEWEST_TERMS = 16
"""Terms that a sum has at least, or a convolution's channels, for narrow operands to gain more than rounding them costs."""

FEWEST_READINGS = 256
"""Or, with fewer channels, how often a convolution reads each element at least: backends copy those in another form."""

FEWEST_WEIGHTS = 8192
"""Weights that a product inside a scan has at least, for the same."""


@dataclass(frozen=True)
class MixedPrecision:
    """Rounds what products (dot and the three convolutions) of f32 multiply to `dtype`; they sum in f32.

    Nothing else is rounded: softmax, norms, residual sums, reductions, losses and updates read the f32 that was computed, in
    strict numerics as in fast. In scans it is products by captures, weights most often, which are rounded once, before the loop.
    Depthwise convolutions, those of few channels, short sums, and all else inside loops stay as they are. Works on gradients'
    graphs too. dtype: "bf16" or "f16"; "": the compilation's precision.
    """

    dtype: str = ""
    name: ClassVar[str] = "mixed-precision"
    claim: ClassVar[Claim] = approximate(5e-2)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        chosen = self.dtype or context.precision
        if chosen == "f32":
            return PassResult(False)
        if chosen not in ("f16", "bf16"):
            raise GraphcError("no such precision", seen=chosen, expected='"f32", "bf16" or "f16"')
        rounding = _Rounding(DTYPES[chosen])
        products = 0
        for node in list(graph.nodes):  # in order, so that a value is rounded before the first that reads it so
            if node.op.name == "scan":
                products += rounding.narrow_scan(graph, node, context)
            elif _gains(node):
                b = Builder(graph, before=node, origin=node.origin)
                operands = [rounding.narrow(b, v) for v in node.operands]
                context.replace(graph, node.result, b.op(node.op, *operands, **{**node.attributes, "wide": True}))
                graph.erase(node)
                products += 1
        return PassResult(bool(products), {"products": products})


class _Rounding:
    """Values rounded to one dtype, each once, before products read them moved or not."""

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self.rounded: dict[Value, Value] = {}
        self.moved: dict[Value, Value] = {}

    def narrow(self, b: Builder, v: Value) -> Value:
        """`v` rounded."""
        node = v.producer
        if node is not None and node.op.name in MOVES:
            if v not in self.moved:
                self.moved[v] = b.op(node.op, *(self.narrow(b, x) for x in node.operands), **node.attributes)
            return self.moved[v]
        if v not in self.rounded:
            self.rounded[v] = b.cast(v, self.dtype)
        return self.rounded[v]

    def narrow_scan(self, graph: Graph, scan: Node, context: PassContext) -> int:
        """Narrows a scan's products by captures, which are rounded outside; returns how many."""
        body, inside = scan["body"].clone()
        outside = dict(zip((inside[v] for v in scan["body"].inputs), scan.operands, strict=True))
        captures = set(body.inputs[scan["carries"] + scan["scanned"] :])
        products = [
            n for n in body.nodes if _gains(n) and any(_moved(v) in captures and _is_long(v) for v in n.operands)
        ]
        if not products:
            return 0
        before, inner = Builder(graph, before=scan, origin=scan.origin), _Rounding(self.dtype)
        for weights in dict.fromkeys(_moved(v) for n in products for v in n.operands):
            if weights in captures:
                operand = self.narrow(before, outside[weights])
                inner.rounded[weights] = body.add_input(f"{weights.name}.rounded", operand.type)
                outside[inner.rounded[weights]] = operand
        for node in products:
            b = Builder(body, before=node, origin=node.origin)
            operands = [inner.narrow(b, v) for v in node.operands]
            body.replace_uses(node.result, b.op(node.op, *operands, **{**node.attributes, "wide": True}))
            body.erase(node)
        for node in reversed(body.nodes):
            if node.op.name in MOVES and not node.result.uses:
                body.erase(node)
        for v in [v for v in body.inputs if v in captures and not v.uses]:
            body.remove_input(v)
        results = before.ops("scan", *(outside[v] for v in body.inputs), **{**scan.attributes, "body": body})
        for old, new in zip(scan.results, results, strict=True):
            context.replace(graph, old, new)
        graph.erase(scan)
        return len(products)


def _moved(v: Value) -> Value:
    """What `v` is a moved form of."""
    while v.producer is not None and v.producer.op.name in MOVES and len(v.producer.operands) == 1:
        v = v.producer.operands[0]
    return v


def _is_long(weights: Value) -> bool:
    """Whether reading half the bytes at each step gains more than rounding the other operand costs."""
    most = bounds(product(weights.type.shape))[1]
    return most is None or most >= FEWEST_WEIGHTS


def _gains(node: Node) -> bool:
    """Whether a product of f32 sums enough terms for narrow operands to be faster."""
    if any(v.type.dtype != f32 for v in node.operands):
        return False
    if node.op.name == "dot":
        return _at_least(product(node.operands[0].type.shape[i] for i in node["lhs_contract"]))
    if node.op.name not in CONVOLUTIONS:
        return False
    spec = ConvSpec.from_attributes(node.attributes)
    w = node.results[0] if node.op.name == "conv_weight_grad" else node.operands[1]
    out, per_group, window = spec.kernel_axes
    channels, outputs, positions = w.type.shape[per_group], w.type.shape[out], product(w.type.shape[i] for i in window)
    if not _at_least(outputs):
        return False
    if _at_least(channels):
        return True
    readings = floordiv(positions * outputs, product(spec.strides))
    return node.op.name == "conv" and spec.groups == 1 and _at_least(readings, FEWEST_READINGS)


def _at_least(terms: Dim, fewest: int = FEWEST_TERMS) -> bool:
    most = bounds(terms)[1]
    return most is None or most >= fewest
