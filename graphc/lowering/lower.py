"""Lowers the body of a fusion to one loop nest, or to several per tile."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim, symbol
from graphc.lowering.canonical import canonical
from graphc.lowering.drafts import buffers_of, draft, new_nest
from graphc.lowering.index_maps import Index, inserted
from graphc.lowering.loop_body import Body, Buffer, Store
from graphc.lowering.nest import Demand, Nest, unsupported
from graphc.lowering.placement import CONTRACTIONS, REDUCTIONS, place, reduced_axes, symbols
from graphc.lowering.rules import RUNNING, SCATTERS
from graphc.lowering.rules_indexing import index_vector
from graphc.lowering.tile import lower_tile


def lower(graph: Graph, kind: str = "loop", name: str = "kernel") -> Body:
    """The loops that compute a fusion's body; buffers are its inputs, its outputs, then scratch.

    kind "loop" gives a LoopBody (a TileBody without axes for a scatter or a concatenation: nests that run in order);
    "tile" a TileBody. Raises UnsupportedOpError with the reason where the body has no such form.
    """
    _check_symbols(graph)
    buffers = buffers_of(graph)
    if kind == "tile":
        return lower_tile(graph, buffers, name)
    only = graph.outputs[0].producer if len(graph.outputs) == 1 else None
    if only is not None and only.op.name in SCATTERS:
        return _lower_scatter(graph, only, buffers, name)
    if only is not None and only.op.name == "concat" and len(only.operands) > 1:
        return _lower_concat(graph, only, buffers, name)
    return _lower_loop(graph, buffers, name)


def _lower_loop(graph: Graph, buffers: Sequence[Buffer], name: str) -> Body:
    nest, placed = _placed(graph)
    for i, v in enumerate(graph.outputs):
        if v not in placed:
            raise _no_common_frame(graph, v)
        nest.store(str(len(graph.inputs) + i), placed[v], nest.value(v, Demand(placed[v])), v.type.dtype)
    return canonical(name, buffers, None, [draft(nest)])


def _placed(graph: Graph) -> tuple[Nest, dict[Value, Index]]:
    """A nest with its parallel axes, and where values lie in them.

    The axes are the dims of the result of what sums, where something does; else those of an output that places all others.
    """
    nest = new_nest(graph)
    for node in graph.nodes:
        if node.op.name in CONTRACTIONS | RUNNING:
            frame = _frame(nest, node.results[0].type.shape, node)
            placed = place(graph.nodes, node.results[0], frame)
            return nest, placed | {v: tuple(frame) for v in node.results}
        if node.op.name in REDUCTIONS:
            (x,), axes = node.operands, reduced_axes(node)
            kept = _frame(nest, [d for i, d in enumerate(x.type.shape) if i not in axes])
            inner = [symbol(f"inner{a}", 0) if x.type.shape[a] != 1 else 0 for a in axes]
            placed = place(graph.nodes, x, inserted(kept, axes, inner), inner)
            rows = {v: at for v, at in placed.items() if not symbols(at) & symbols(inner)}
            return nest, {node.result: tuple(kept)} | rows
    for anchor in graph.outputs:
        nest = new_nest(graph)
        placed = place(graph.nodes, anchor, _frame(nest, anchor.type.shape))
        if all(v in placed for v in graph.outputs):
            break
    return nest, placed


def _frame(nest: Nest, shape: Sequence[Dim], node: Node | None = None) -> list[Dim]:
    """One axis for each dim; the axis along which `node` runs a sum is walked the way that it runs."""
    index: list[Dim] = []
    for i, d in enumerate(shape):
        if node is not None and node.op.name in RUNNING and i == node["axis"]:
            t = nest.axis(d, "scan")
            index.append(d - 1 - t if node["reverse"] else t)
        else:
            index.append(nest.axis(d))
    return index


def _lower_concat(graph: Graph, node: Node, buffers: Sequence[Buffer], name: str) -> Body:
    """A nest for each operand, which writes its part of the result: no element asks where it comes from."""
    loops = []
    offset: Dim = 0
    axis = node["axis"]
    for x in node.operands:
        nest = new_nest(graph)
        index = _frame(nest, x.type.shape)
        to = (*index[:axis], index[axis] + offset, *index[axis + 1 :])
        nest.store(str(len(graph.inputs)), to, nest.value(x, Demand(tuple(index))), x.type.dtype)
        loops.append(draft(nest))
        offset = offset + x.type.shape[axis]
    return canonical(name, buffers, [], loops)


def _lower_scatter(graph: Graph, node: Node, buffers: Sequence[Buffer], name: str) -> Body:
    """A copy of x, then the updates in order."""
    x, indices, updates = node.operands
    copy, write = new_nest(graph), new_nest(graph)
    out = str(len(graph.inputs))
    index = tuple(_frame(copy, x.type.shape))
    copy.store(out, index, copy.value(x, Demand(index)), x.type.dtype)
    at = tuple(_frame(write, updates.type.shape))
    element = write.value(updates, Demand(at))
    if node.op.name == "scatter_along":
        axis = node["axis"]
        found = write.position(write.value(indices, Demand(at)), x.type.shape[axis])
        store = Store(out, (*at[:axis], found, *at[axis + 1 :]), element, combine=node["combine"], checked=(axis,))
    else:
        lead = indices.type.rank - 1
        vector = index_vector(write, indices, Demand(at[:lead]), x.type.shape)
        checked = tuple(range(len(vector)))
        store = Store(out, (*vector, *at[lead:]), element, combine=node["combine"], checked=checked)
    write.statements.append(store)
    return canonical(name, buffers, [], [draft(copy), draft(write, sequential=True)])


def _no_common_frame(graph: Graph, v: Value) -> UnsupportedOpError:
    if v.producer is None:
        return UnsupportedOpError("lowering", [Unsupported("input", f"%{v.name}", "an output that is an input")])
    return unsupported(v.producer, "its elements don't correspond to those of the other outputs")


def _check_symbols(graph: Graph) -> None:
    """Axes are called i0, i1, ... and values v0, v1, ...: dimensions can't be."""
    taken = [n for n in graph.symbols() if n[0] in "iv" and n[1:].isdigit()]
    if taken:
        reason = f"dimensions can't be called {', '.join(taken)}: these are names of loop axes and values"
        raise UnsupportedOpError("lowering", [Unsupported("graph", graph.name, reason)])
