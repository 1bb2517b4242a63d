"""What reports and checks say of a kernel: its name, its work, the sizes that must not be 0."""

from __future__ import annotations

from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import Dim, nonnegative, product
from graphc.lowering.loop_body import Apply, Body, LoopBody, Reduce

PRODUCTS = ("dot", "conv", "conv_input_grad", "conv_weight_grad", "winograd_conv", "attention")
"""Operators that sum products, in hardware's own rate for their operands' type."""


def kernel_name(body: Graph) -> str:
    """What the kernel does, by its operators: "conv_add_max"; views aren't told."""
    names = [n.op.name for n in body.nodes if "view" not in n.op.traits and n.op.name != "constant"]
    short = [n.removeprefix("reduce_") for n in dict.fromkeys(names)] or [n.op.name for n in body.nodes[:1]] or ["copy"]
    return "_".join(short[:6])


def arithmetic(node: Node) -> str:
    """The element type that a kernel's products are of, or else that its other floats are computed in; "" for none."""
    nodes = node["body"].nodes if node.op.name == "fusion" else [node]
    products = [n.operands[0].type.dtype.name for n in nodes if n.op.name in PRODUCTS]
    if products:
        return products[0]
    computed = [n.results[0].type.dtype for n in nodes if "view" not in n.op.traits and n.results]
    floats = [t for t in computed if t.is_float]
    return "" if not floats else "f64" if any(t.bytes > 4 for t in floats) else "f32"


def nonempty(body: Body) -> tuple[Dim, ...]:
    """The sizes of axes that an extreme is taken over, where they may be 0: then it has no value."""
    nests = (body,) if isinstance(body, LoopBody) else body.loops
    extents = {
        axis.extent: None
        for nest in nests
        if any(isinstance(s, Reduce) and s.kind not in ("sum", "prod") and not s.predicate for s in nest.statements)
        for axis in nest.axes_of("reduction")
    }
    return tuple(e for e in extents if not nonnegative(e - 1))


def flops(body: Body) -> Dim:
    """Arithmetic of the statements at all points, sums included."""
    tile = product(() if isinstance(body, LoopBody) else (a.extent for a in body.axes))
    nests = (body,) if isinstance(body, LoopBody) else body.loops
    total: Dim = 0
    for nest in nests:
        last = max((n for n, s in enumerate(nest.statements) if isinstance(s, Reduce)), default=-1)
        outer = product(a.extent for a in nest.axes_of("parallel"))
        inner = product(a.extent for a in nest.axes if a.kind != "parallel")
        for n, s in enumerate(nest.statements):
            if isinstance(s, Apply | Reduce):
                total = total + tile * outer * (inner if n <= last else 1)
    return total
