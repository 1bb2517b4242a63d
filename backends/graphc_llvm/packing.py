"""Lays constant operands of contractions out in the panels that the register-tiled kernel streams.

    dot(x, w)  =  dot(x, unpack(pack(w)))

Both halves are ordinary views: pack pads the columns to whole panels, cuts them and puts panels outermost; unpack is
its inverse; a `materialize` between them says that the packed form is the one in memory. Pack, which depends on
constants alone, moves to `prepare`; unpack fuses into the contraction, whose loop body then reads [n // width, k, n %
width]. So the graph stays one that prints, verifies and interprets, and no operator is added.

Weights of bf16 are packed in pairs of terms, [panel][k // 2][lane][k % 2], where the target multiplies pairs; so are a
product's runtime operands, where many rows read them. Its left operand is transposed where its pairs lie apart.

A convolution's weights that aren't constant, as in training, are packed at each call where many rows read them. A
product's runtime operand whose columns aren't contiguous is transposed so that they are. Gradients of convolutions'
weights: `packing_gradients.py`. Pairs of few channels: `packing_few_channels.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim, bounds, product
from graphc.ir.types import DType, bf16
from graphc.ops.by_decomposition import wide
from graphc.ops.contraction import free_axes
from graphc.pipeline import REASSOCIATES, Claim, PassContext, PassResult
from graphc_llvm.choices import PREDICTED, Choices
from graphc_llvm.contraction import panel_widths
from graphc_llvm.packing_few_channels import pack_few_channels
from graphc_llvm.packing_gradients import pack_weight_gradient
from graphc_llvm.panels import Panels
from graphc_llvm.target import Target

REUSES = 64
"""Readings of an element in one product, from which on it pays to pack an operand that isn't known before the call."""


@dataclass(frozen=True)
class Pack:
    """Packs the weights of `dot` and `conv` for a target's vectors. A product of another layout may sum in another order."""

    target: Target
    choices: Choices = PREDICTED
    name: str = "pack"
    claim: Claim = REASSOCIATES

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        constant = constant_values(graph)
        packed = transposed = 0
        for node in graph.nodes:
            if node.op.name == "dot" and (node.operands[1] in constant or self.gains_pairs(node)):
                exchanges = node.operands[1] not in constant and _read_transposed(node)
                packed += self.pack_dot(graph, exchanged(graph, node, context) if exchanges else node, context)
            elif node.op.name == "dot":
                transposed += transpose_columns(graph, node, context)
            elif node.op.name == "scan":
                packed += self.pack_scan(graph, node, context)
            elif node.op.name == "conv" and pack_few_channels(graph, node, self.target, context):
                packed += 1
            elif node.op.name == "conv" and (node.operands[1] in constant or _is_reused(node)):
                packed += self.pack_conv(graph, node, context)
            elif node.op.name == "conv_weight_grad":
                packed += pack_weight_gradient(graph, node, self.target, context)
        self.choices.tell(context)
        return PassResult(bool(packed or transposed), {"packed": packed, "transposed": transposed})

    def pack_dot(self, graph: Graph, node: Node, context: PassContext) -> bool:
        x, w = node.operands
        batch, contract, free = _rhs_axes(node)
        if len(free) != 1 or not w.type.dtype.is_float or not w.type.is_static:
            return False
        b = Builder(graph, before=node, origin=node.origin)
        rows = product(x.type.shape[i] for i in free_axes(x.type.rank, node["lhs_batch"], node["lhs_contract"]))
        order = (*batch, *contract, *free)
        attributes = _with_rhs_order(node)
        if self.has_pairs(w.type.dtype, [w.type.shape[i] for i in order]) and _reuses(w.type.shape[free[0]]):
            x, attributes = _with_dense_terms(b, node, attributes)
        panels = self.panels(b, b.transpose(w, order), rows, node, outer=len(batch))
        context.replace(graph, node.result, b.op("dot", x, panels, **attributes))
        graph.erase(node)
        return True

    def gains_pairs(self, node: Node) -> bool:
        """Whether packing a runtime operand in pairs at each call is nothing beside what they gain."""
        x, w = node.operands
        batch, contract, free = _rhs_axes(node)
        rows = product(x.type.shape[i] for i in free_axes(x.type.rank, node["lhs_batch"], node["lhs_contract"]))
        order = (*batch, *contract, *free)
        return bool(contract) and _reuses(rows) and self.has_pairs(w.type.dtype, [w.type.shape[i] for i in order])

    def has_pairs(self, dtype: DType, shape: Sequence[Dim]) -> bool:
        """Whether an operand of `shape` [outer axes, sum axes, columns] is packed in pairs of terms."""
        return dtype == bf16 and self.target.bf16_pairs and shape[-2] % 2 == 0 and shape[-2] != 2

    def pack_conv(self, graph: Graph, node: Node, context: PassContext) -> bool:
        x, w = node.operands
        if node["layout"] != "channels_last" or node["kernel_layout"] != "io" or not w.type.dtype.is_float:
            return False
        groups, inputs, outputs = node["groups"], w.type.shape[-2], w.type.shape[-1]
        if inputs == 1 and groups > 1:
            return False  # depthwise: one term of the sum a tap, no matrix product
        b = Builder(graph, before=node, origin=node.origin)
        rows = product(node.result.type.shape[:-1])
        if groups == 1:
            panels = self.panels(b, w, rows, node, outer=0)
        else:
            kernel = w.type.shape[:-1]
            split = b.reshape(w, (*kernel, groups, outputs // groups))
            last = split.type.rank - 1
            grouped = b.transpose(split, (last - 1, *range(last - 1), last))
            back = b.transpose(self.panels(b, grouped, rows, node, outer=1), (*range(1, last), 0, last))
            panels = b.reshape(back, (*kernel, outputs))
        context.replace(graph, node.result, b.op("conv", x, panels, **node.attributes))
        graph.erase(node)
        return True

    def panels(self, b: Builder, w: Value, rows: Dim, node: Node, outer: int) -> Value:
        """unpack(pack(w)): w is [outer axes, sum axes, columns]; packed, the panels come after the outer axes."""
        form = self.form(w.type.shape, rows, w.type.dtype, outer, node)
        return form.unpack(b, form.pack(b, w))

    def form(self, shape: Sequence[Dim], rows: Dim, dtype: DType, outer: int, node: Node | None = None) -> Panels:
        """The panels for an operand of `shape` [outer axes, sum axes, columns]; of a node whose width may be chosen."""
        terms = 2 if self.has_pairs(dtype, shape) else 1
        widths = panel_widths(shape[-1], rows, wide(dtype), self.target)
        return Panels(tuple(shape), widths[0] if node is None else self.choices.choose(node, "panel width", widths), outer, terms)

    def pack_scan(self, graph: Graph, node: Node, context: PassContext) -> int:
        """Packs what a scan's body multiplies by at each step, once, outside."""
        body, inside = node["body"].clone()
        first_capture = node["carries"] + node["scanned"]
        outside = dict(zip((inside[v] for v in node["body"].inputs), node.operands, strict=True))
        before = Builder(graph, before=node, origin=node.origin)
        captures = set(body.inputs[first_capture:])
        packed = 0
        for dot in [n for n in body.nodes if n.op.name == "dot" and n.operands[1] in captures]:
            x, w = dot.operands
            batch, contract, free = _rhs_axes(dot)
            if len(free) != 1 or not w.type.dtype.is_float:
                continue
            order = (*batch, *contract, *free)
            rows = product(x.type.shape[i] for i in free_axes(x.type.rank, dot["lhs_batch"], dot["lhs_contract"]))
            shape = tuple(w.type.shape[i] for i in order)
            form = self.form(shape, rows, w.type.dtype, len(batch))
            operand = form.pack(before, before.transpose(outside[w], order))
            capture = body.add_input(f"{w.name}.packed", operand.type)
            outside[capture] = operand
            b = Builder(body, before=dot, origin=dot.origin)
            new = b.op("dot", x, form.unpack(b, capture), **_with_rhs_order(dot))
            body.replace_uses(dot.result, new)
            body.erase(dot)
            packed += 1
        if not packed:
            return 0
        for v in [v for v in body.inputs[first_capture:] if not v.uses]:
            body.remove_input(v)
        results = before.ops("scan", *(outside[v] for v in body.inputs), **{**node.attributes, "body": body})
        for old, new in zip(node.results, results, strict=True):
            context.replace(graph, old, new)
        graph.erase(node)
        return packed


def _is_reused(node: Node) -> bool:
    """Whether a convolution reads its weights so often that packing them at each call is nothing beside it."""
    return _reuses(product(node.result.type.shape[:-1])) and node.operands[1].type.is_static


def _reuses(times: Dim) -> bool:
    return (bounds(times)[0] or 0) >= REUSES


def _rhs_axes(node: Node) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    batch, contract = node["rhs_batch"], node["rhs_contract"]
    return batch, contract, free_axes(node.operands[1].type.rank, batch, contract)


def _with_rhs_order(node: Node) -> dict[str, Any]:
    """The attributes of a `dot` whose right-hand side is transposed to batch, contracted, free."""
    batch, contract, _ = _rhs_axes(node)
    order = {
        "rhs_batch": tuple(range(len(batch))),
        "rhs_contract": tuple(range(len(batch), len(batch) + len(contract))),
    }
    return {**node.attributes, **order}


def _with_dense_terms(b: Builder, node: Node, attributes: dict[str, Any]) -> tuple[Value, dict[str, Any]]:
    """The left-hand side of a `dot` with neighbouring terms of the sum side by side in memory, and the attributes for it."""
    x, batch, contract = node.operands[0], node["lhs_batch"], node["lhs_contract"]
    view = x.producer
    moved = view is not None and view.op.name == "transpose" and view["permutation"][-1] != x.type.rank - 1
    if contract[-1] == x.type.rank - 1 and not moved:
        return x, attributes
    free = free_axes(x.type.rank, batch, contract)
    ordered = b.transpose(x, (*batch, *contract, *free))
    lead, rows = ordered.type.shape[: len(batch) + len(contract)], ordered.type.shape[len(batch) + len(contract) :]
    form = Panels((*lead, product(rows)), product(rows), len(batch), terms=2)
    interleaved = form.unpack(b, form.pack(b, b.reshape(ordered, form.shape)))
    axes = {"lhs_batch": tuple(range(len(batch))), "lhs_contract": tuple(range(len(batch), len(lead)))}
    return b.reshape(interleaved, (*lead, *rows)), {**attributes, **axes}


def _read_transposed(node: Node) -> bool:
    """Whether all that read a product transpose it so that the free axis of its left operand comes last."""
    x, w = node.operands
    shared = len(node["lhs_batch"])
    if x.type.rank != shared + len(node["lhs_contract"]) + 1:
        return False
    if not x.type.is_static or not _reuses(product(w.type.shape[i] for i in _rhs_axes(node)[2])):
        return False
    users = [u.user for u in node.result.uses]
    return bool(users) and all(
        isinstance(user, Node) and user.op.name == "transpose" and user["permutation"][-1] == shared for user in users
    )


def exchanged(graph: Graph, node: Node, context: PassContext) -> Node:
    """The product with its operands exchanged, seen through a transpose: its columns are what was its rows.

    Panels are cut along the columns, along which what follows must be dense for the tiled kernel to take it in.
    """
    x, w = node.operands
    batch, contract = node["lhs_batch"], node["lhs_contract"]
    attributes = {
        "lhs_batch": node["rhs_batch"], "rhs_batch": batch, "lhs_contract": node["rhs_contract"], "rhs_contract": contract,
    }  # fmt: skip
    b = Builder(graph, before=node, origin=node.origin)
    made = b.op("dot", w, x, **{**node.attributes, **attributes})
    shared, columns = len(batch), len(_rhs_axes(node)[2])
    rest = range(shared + columns, made.type.rank)
    context.replace(graph, node.result, b.transpose(made, (*range(shared), *rest, *range(shared, shared + columns))))
    graph.erase(node)
    assert made.producer is not None
    return made.producer


def transpose_columns(graph: Graph, node: Node, context: PassContext) -> bool:
    """Puts the free axis of a runtime right-hand side last, so that the kernel reads whole vectors of it."""
    x, w = node.operands
    batch, contract, free = _rhs_axes(node)
    if not free or free[-1] == w.type.rank - 1 or w.type.shape[free[-1]] == 1:
        return False
    b = Builder(graph, before=node, origin=node.origin)
    order = (*batch, *contract, *free)
    columns = b.op("materialize", b.transpose(w, order))
    context.replace(graph, node.result, b.op("dot", x, columns, **_with_rhs_order(node)))
    graph.erase(node)
    return True


def constant_values(graph: Graph) -> set[Value]:
    """Values that depend on constants alone."""
    found: set[Value] = set()
    for node in graph.nodes:
        depends_on_constants = node.op.name == "constant" or (node.operands and all(v in found for v in node.operands))
        if depends_on_constants and not node.symbols():
            found.update(node.results)
    return found
