"""Lays constant operands of contractions out in the panels that the register-tiled kernel streams.

    dot(x, w)  =  dot(x, unpack(pack(w)))

Both halves are ordinary views: pack pads the columns to whole panels, cuts them and puts panels outermost; unpack is its
inverse; a `materialize` between them says that the packed form is the one in memory. Pack, which depends on constants alone, moves to `prepare`; unpack fuses into the contraction, whose loop body then
reads [n // width, k, n % width]. So the graph stays one that prints, verifies and interprets, and no operator is added.

A runtime operand whose columns aren't contiguous is transposed so that they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import ceildiv, product
from graphc.ops.contraction import free_axes
from graphc.pipeline import EXACT, Claim, PassContext, PassResult
from graphc_llvm.contraction import panel_widths
from graphc_llvm.target import Target


@dataclass(frozen=True)
class Pack:
    """Packs the weights of `dot` and `conv` for a target's vectors."""

    target: Target
    name: str = "pack"
    claim: Claim = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        constant = constant_values(graph)
        packed = transposed = 0
        for node in graph.nodes:
            if node.op.name == "dot" and node.operands[1] in constant:
                packed += self.pack_dot(graph, node, context)
            elif node.op.name == "dot":
                transposed += transpose_columns(graph, node, context)
            elif node.op.name == "conv" and node.operands[1] in constant:
                packed += self.pack_conv(graph, node, context)
        return PassResult(bool(packed or transposed), {"packed": packed, "transposed": transposed})

    def pack_dot(self, graph: Graph, node: Node, context: PassContext) -> bool:
        x, w = node.operands
        batch, contract = node["rhs_batch"], node["rhs_contract"]
        free = free_axes(w.type.rank, batch, contract)
        if len(free) != 1 or w.type.dtype.name not in ("f32", "f64") or not w.type.is_static:
            return False
        b = Builder(graph, before=node, origin=node.origin)
        rows = product(x.type.shape[i] for i in free_axes(x.type.rank, node["lhs_batch"], node["lhs_contract"]))
        order = (*batch, *contract, *free)
        panels = self.panels(b, b.transpose(w, order), rows, outer=len(batch))
        attributes = dict(node.attributes)
        attributes["rhs_batch"] = tuple(range(len(batch)))
        attributes["rhs_contract"] = tuple(range(len(batch), len(batch) + len(contract)))
        context.replace(graph, node.result, b.op("dot", x, panels, **attributes))
        graph.erase(node)
        return True

    def pack_conv(self, graph: Graph, node: Node, context: PassContext) -> bool:
        x, w = node.operands
        if node["layout"] != "channels_last" or node["kernel_layout"] != "io" or w.type.dtype.name not in ("f32", "f64"):
            return False
        groups, inputs, outputs = node["groups"], w.type.shape[-2], w.type.shape[-1]
        if inputs == 1 and groups > 1:
            return False  # depthwise: one term of the sum a tap, no matrix product
        b = Builder(graph, before=node, origin=node.origin)
        rows = product(node.result.type.shape[:-1])
        if groups == 1:
            panels = self.panels(b, w, rows, outer=0)
        else:
            kernel = w.type.shape[:-1]
            split = b.reshape(w, (*kernel, groups, outputs // groups))
            last = split.type.rank - 1
            grouped = b.transpose(split, (last - 1, *range(last - 1), last))
            back = b.transpose(self.panels(b, grouped, rows, outer=1), (*range(1, last), 0, last))
            panels = b.reshape(back, (*kernel, outputs))
        context.replace(graph, node.result, b.op("conv", x, panels, **node.attributes))
        graph.erase(node)
        return True

    def panels(self, b: Builder, w: Value, rows: object, outer: int) -> Value:
        """unpack(pack(w)): w is [outer axes, sum axes, columns]; packed, the panels come after the outer axes."""
        *lead, columns = w.type.shape
        width = panel_widths(columns, rows, w.type.dtype, self.target)[0]  # type: ignore[arg-type]
        count = ceildiv(columns, width)
        rank, low = len(lead) + 1, (0,) * len(lead)
        zero = b.scalar(0, w.type.dtype)
        whole = w if count * width == columns else b.op("pad", w, zero, low=(*low, 0), high=(*low, count * width - columns))
        cut = b.reshape(whole, (*lead, count, width))
        order = (*range(outer), rank - 1, *range(outer, rank - 1), rank)
        packed = b.op("materialize", b.transpose(cut, order))
        joined = b.reshape(b.transpose(packed, inverse(order)), (*lead, count * width))
        if count * width == columns:
            return joined
        return b.op("slice", joined, starts=(*low, 0), limits=(*lead, columns), strides=(1,) * rank)


def transpose_columns(graph: Graph, node: Node, context: PassContext) -> bool:
    """Puts the free axis of a runtime right-hand side last, so that the kernel reads whole vectors of it."""
    x, w = node.operands
    batch, contract = node["rhs_batch"], node["rhs_contract"]
    free = free_axes(w.type.rank, batch, contract)
    if not free or free[-1] == w.type.rank - 1 or w.type.shape[free[-1]] == 1:
        return False
    b = Builder(graph, before=node, origin=node.origin)
    order = (*batch, *contract, *free)
    attributes = dict(node.attributes)
    attributes["rhs_batch"] = tuple(range(len(batch)))
    attributes["rhs_contract"] = tuple(range(len(batch), len(batch) + len(contract)))
    columns = b.op("materialize", b.transpose(w, order))
    context.replace(graph, node.result, b.op("dot", x, columns, **attributes))
    graph.erase(node)
    return True


def constant_values(graph: Graph) -> set[Value]:
    """Values that depend on constants alone."""
    found: set[Value] = set()
    for node in graph.nodes:
        if node.op.name == "constant" or (node.operands and all(v in found for v in node.operands)):
            found.update(node.results)
    return found


def inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes it."""
    return tuple(sorted(range(len(permutation)), key=lambda i: permutation[i]))
