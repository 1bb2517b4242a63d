"""Lowers row work (softmax, norms) to a tile: per row, a nest for each step that needs the step before to be complete.

Rows are the coordinates that the reductions keep; all reductions go over the same inner coordinates. A value that has one
element a row and that a later nest reads is kept in scratch of that one element; a value over the whole row is kept in a
scratch row where computing it again is dear and the row is short enough, else it is computed again from what is in cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim, bounds, free_symbols, product, symbol
from graphc.ir.types import TensorType
from graphc.lowering.canonical import canonical
from graphc.lowering.drafts import draft, new_nest
from graphc.lowering.index_maps import Index
from graphc.lowering.loop_body import Axis, Body, Buffer, LoopBody, Operand, ReduceKind
from graphc.lowering.nest import Demand, Kept, Nest, carrier, unsupported
from graphc.lowering.placement import REDUCTIONS, place, reduced_axes, reduces, symbols

SCRATCH_ELEMENTS = 1 << 16
"""The longest row that is kept in scratch."""

DEAR = frozenset({
    "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh",
    "atanh", "erf", "sigmoid", "pow", "rem", "mod",
})  # fmt: skip
"""Operators that cost many times an addition."""


def lower_tile(graph: Graph, buffers: Sequence[Buffer], name: str) -> Body:
    """The tile of a body whose reductions share their rows; raises UnsupportedOpError where they don't."""
    reductions = [n for n in graph.nodes if n.op.name in REDUCTIONS]
    if not reductions:
        raise UnsupportedOpError("lowering", [Unsupported("fusion", graph.name, "a tile needs a reduction")])
    return _Tile(graph, reductions).lower(list(buffers), name)


class _Tile:
    """One lowering. `placed`: every value's index in rows t0, t1, ... and inner coordinates r0, r1, ..."""

    def __init__(self, graph: Graph, reductions: Sequence[Node]) -> None:
        self.graph, self.reductions = graph, reductions
        anchor, axes = reductions[0].operands[0], reduced_axes(reductions[0])
        self.rows: list[Axis] = []
        self.inner: list[Axis] = []
        self.inner_extents = tuple(anchor.type.shape[a] for a in axes)
        index: list[Dim] = [
            _coordinate(self.inner, "r", d) if i in axes else _coordinate(self.rows, "t", d)
            for i, d in enumerate(anchor.type.shape)
        ]
        self.inner_index = tuple(index[a] for a in axes)
        self.placed = place(graph.nodes, anchor, index, self.inner_index)
        for node in reductions:
            at = self.placed.get(node.operands[0])
            if at is None or not reduces(node, at, self.inner_index, symbols(index)):
                raise unsupported(node, "it doesn't reduce over the same rows as the others of its tile")
        self.tail: dict[Value, int] = dict.fromkeys(graph.inputs, -1)
        self.start: dict[Value, int] = dict.fromkeys(graph.inputs, 0)
        for node in graph.nodes:
            self._schedule(node)

    def _schedule(self, node: Node) -> None:
        """When results can be computed: after nest `tail` (-1: at once) once a row, in nest `start` at every point."""
        for v in node.results:
            if node.op.name in REDUCTIONS:
                self.tail[v] = self.start[node.operands[0]]
            elif self._is_row(v) and all(x in self.tail for x in node.operands):
                self.tail[v] = max((self.tail[x] for x in node.operands), default=-1)
            else:
                self.start[v] = max((self.start[x] for x in node.operands), default=0)
                continue
            self.start[v] = self.tail[v] + 1

    def _is_row(self, v: Value) -> bool:
        names = {a.name for a in self.inner}
        return v in self.placed and not any(s.name in names for e in self.placed[v] for s in free_symbols(e))

    def _when(self, v: Value) -> int:
        """The nest that an output is stored in."""
        return max(self.tail[v], 0) if self._is_row(v) and v in self.tail else self.start[v]

    def lower(self, buffers: list[Buffer], name: str) -> Body:
        for v in self.graph.outputs:
            if v not in self.placed and v.producer is not None:
                raise unsupported(v.producer, "its elements don't correspond to the rows of its tile")
        count = 1 + max(max(map(self._when, self.graph.outputs)), *(self.tail[n.result] for n in self.reductions))
        kept: dict[Value, Kept] = {}
        loops: list[LoopBody] = []
        for k in range(count):
            nest = new_nest(self.graph, kept, dict.fromkeys(REDUCTIONS, _elsewhere))
            fresh = self._fill(nest, k, buffers)
            kept |= fresh
            loops.append(draft(nest))
        return canonical(name, buffers, self.rows, loops)

    def _fill(self, nest: Nest, k: int, buffers: list[Buffer]) -> dict[Value, Kept]:
        """Emits nest k; adds the scratch buffers it leaves values in to `buffers` and returns these values."""
        mine = [n for n in self.reductions if self.tail[n.result] == k]
        nest.axes = [Axis(a.name, a.extent, "reduction" if mine else "parallel") for a in self.inner]
        fresh: dict[Value, Kept] = {}
        whole = [v for n in self.graph.nodes for v in n.results if self._keeps_row(v, k)]
        for v in whole:
            at = self.inner_index
            fresh[v] = self._scratch(buffers, TensorType(v.type.dtype, self.inner_extents), self.placed[v], at)
            nest.store(fresh[v].buffer, at, self._element(nest, v), v.type.dtype)
        for node in mine:
            dtype = carrier(node.result.type.dtype)
            kind = cast(ReduceKind, node.op.name.removeprefix("reduce_"))
            found = nest.reduce(kind, dtype, self._element(nest, node.operands[0]), self.inner_index)
            nest.define(node.result, self.placed[node.result], nest.rounded(found, node.result.type.dtype))
        for n in self.graph.nodes:
            for v in n.results:
                if self.tail.get(v) == k and self._is_row(v) and self._is_read_after(v, k):
                    fresh[v] = self._scratch(buffers, TensorType(v.type.dtype, ()), self.placed[v], ())
                    nest.store(fresh[v].buffer, (), self._element(nest, v), v.type.dtype)
        for i, v in enumerate(self.graph.outputs):
            if self._when(v) == k:
                nest.store(str(len(self.graph.inputs) + i), self.placed[v], self._element(nest, v), v.type.dtype)
        return fresh

    def _element(self, nest: Nest, v: Value) -> Operand:
        return nest.value(v, Demand(self.placed[v]))

    def _scratch(self, buffers: list[Buffer], type: TensorType, index: Index, at: Index) -> Kept:
        buffers.append(Buffer(str(len(buffers)), type, "scratch"))
        return Kept(buffers[-1].name, index, at)

    def _is_read_after(self, v: Value, k: int) -> bool:
        """Whether a value of one element a row, complete after nest k, is read in a later nest."""
        return any(self.tail.get(r, k + 1) > k for n in v.users for r in n.results)

    def _keeps_row(self, v: Value, k: int) -> bool:
        """Whether nest k leaves a whole row of v in scratch: dear to compute again, read later, and not too long."""
        if v in self.tail or v not in self.placed or self.start[v] != k or not _is_dear(v):
            return False
        low, high = bounds(product(self.inner_extents))
        size = high if high is not None else low
        return size is not None and size <= SCRATCH_ELEMENTS and self._is_needed_later(v, k)

    def _is_needed_later(self, v: Value, k: int) -> bool:
        """Whether a nest after k computes, at every point, something that reads v, or reads cheap work on v."""
        waiting, seen = [v], {v}
        while waiting:
            for node in waiting.pop().users:
                for r in node.results:
                    at = self.tail[r] if node.op.name in REDUCTIONS else self.start[r]
                    if at > k:
                        return True
                    if node.op.name not in REDUCTIONS and not _is_dear(r) and r not in seen:
                        seen.add(r)
                        waiting.append(r)
        return False


def _is_dear(v: Value) -> bool:
    return v.producer is not None and v.producer.op.name in DEAR


def _coordinate(axes: list[Axis], prefix: str, extent: Dim) -> Dim:
    if extent == 1:
        return 0
    axes.append(Axis(f"{prefix}{len(axes)}", extent))
    return symbol(axes[-1].name, 0, extent - 1)


def _elsewhere(nest: Nest, v: Value, demand: Demand) -> Operand:
    assert v.producer is not None
    raise unsupported(v.producer, "a row's reduction is read at another row")
