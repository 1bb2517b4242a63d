"""Cuts a graph into parts for several backends: convex ones, so that they can run one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Symbol, as_symbol, free_symbols, symbol
from graphc.ir.types import TensorType, bool_

MOVES = frozenset({"reshape", "transpose", "slice"})
"""Operators that are no reason to change to another backend: they stay where their operand was made."""


@dataclass(frozen=True)
class Part:
    """A piece of a graph that backend number `backend` runs.

    graph: its own, whose inputs and outputs have the names of the whole graph's values. symbols: the names of those that
    these inputs don't tell; one more input tells them, a tensor `bool[s0,s1,...,0]` without elements.
    """

    backend: int
    graph: Graph
    nodes: tuple[Node, ...]
    symbols: tuple[str, ...]

    @property
    def reads(self) -> list[Value]:
        """The inputs that are values of the whole graph."""
        return self.graph.inputs[: len(self.graph.inputs) - bool(self.symbols)]


def choose(graph: Graph, can: Callable[[int, Node], bool], backends: int) -> dict[Node, int]:
    """The first backend, in order, that can take each node; nodes that none can take are left out."""
    chosen: dict[Node, int] = {}
    for node in graph.nodes:
        able = [b for b in range(backends) if can(b, node)]
        source = node.operands[0].producer if node.op.name in MOVES else None
        if source is not None and chosen.get(source) in able:
            chosen[node] = chosen[source]
        elif able:
            chosen[node] = able[0]
    return chosen


def partition(graph: Graph, chosen: Mapping[Node, int], anywhere: Callable[[Node], bool]) -> list[Part]:
    """The parts of a graph, in an order in which they can run; every value is computed before it is read.

    Nodes that depend on no input, and that every backend can take (`anywhere`), are copied to where they are read. A part
    is a stage and a backend: a node's stage is that of its operands, or one later where another backend makes them. So no
    path leaves a part and comes back.
    """
    alive = _alive(graph)
    free = _free(graph, anywhere)
    stage: dict[Node, int] = {}
    groups: dict[tuple[int, int], list[Node]] = {}
    for node in graph.nodes:
        if node not in alive or node in free:
            continue
        makers = [v.producer for v in node.operands if v.producer is not None and v.producer not in free]
        stage[node] = max((stage[p] + (chosen[p] != chosen[node]) for p in makers), default=0)
        groups.setdefault((stage[node], chosen[node]), []).append(node)
    constant = [v.producer for v in graph.outputs if v.producer in free]
    if constant:  # outputs that depend on nothing: with the first part, or one of their own
        first = min(groups, default=(0, 0))
        groups.setdefault(first, []).extend(n for n in dict.fromkeys(constant) if n is not None)
    order = sorted(groups)
    return [_part(graph, i, key[1], groups[key], free) for i, key in enumerate(order)]


def _alive(graph: Graph) -> set[Node]:
    """The nodes that an output or a terminal node depends on."""
    found: set[Node] = set()
    wanted = {v.producer for v in graph.outputs}
    for node in reversed(graph.nodes):
        if node in wanted or "terminal" in node.op.traits:
            found.add(node)
            wanted |= {v.producer for v in node.operands}
    return found


def _free(graph: Graph, anywhere: Callable[[Node], bool]) -> set[Node]:
    found: set[Node] = set()
    for node in graph.nodes:
        if anywhere(node) and "terminal" not in node.op.traits and all(v.producer in found for v in node.operands):
            found.add(node)
    return found


def _part(graph: Graph, number: int, backend: int, nodes: Sequence[Node], free: set[Node]) -> Part:
    part = Graph(f"{graph.name}_{number}")
    mapping: dict[Value, Value] = {}
    inside = set(nodes)
    for value in _read(nodes, inside, free):
        mapping[value] = part.add_input(value.name, value.type)
    copied: set[Node] = set()

    def copy(node: Node) -> None:
        for v in node.operands:
            if v.producer in free and v.producer not in copied and v.producer is not None:
                copy(v.producer)
        copied.add(node)
        Graph.copy_node(node, part, mapping)

    for node in nodes:
        if node not in copied:
            copy(node)
    returned = [v for n in nodes for v in n.results if _leaves(v, inside, free)]
    part.set_outputs(mapping[v] for v in returned)
    needed = {s.name: s for s in _symbols(part)}
    told = {s.name for v in part.inputs for d in v.type.shape if (s := as_symbol(d)) is not None}
    untold = tuple(sorted(needed.keys() - told - _defined(nodes)))
    if untold:
        shape = [symbol(s.name, s.low, s.high) for s in map(needed.__getitem__, untold)]
        part.add_input("sizes", TensorType(bool_, (*shape, 0)))
    known = needed.keys() | told
    part.guards = [g for g in graph.guards if {s.name for s in free_symbols(g.left) | free_symbols(g.right)} <= known]
    return Part(backend, part, tuple(nodes), untold)


def _read(nodes: Iterable[Node], inside: set[Node], free: set[Node]) -> list[Value]:
    """What the nodes read of the others, and of the graph's inputs."""
    operands = (v for n in nodes for v in n.operands)
    return list(dict.fromkeys(v for v in operands if v.producer not in inside and v.producer not in free))


def _leaves(value: Value, inside: set[Node], free: set[Node]) -> bool:
    """Whether another part reads the value, or the graph returns it."""
    readers = {u.user for u in value.uses}
    return any(isinstance(r, Graph) or (r not in inside and r not in free) for r in readers)


def _symbols(graph: Graph) -> set[Symbol]:
    found = {s for v in graph.values() for s in v.type.symbols()}
    return found.union(*(n.symbols() for n in graph.nodes))


def _defined(nodes: Iterable[Node]) -> set[str]:
    """The symbols whose values the nodes themselves find, from data."""
    return {
        s.name
        for n in nodes
        if "defines_symbols" in n.op.traits
        for v in n.results
        for s in v.type.symbols() - {x for o in n.operands for x in o.type.symbols()}
    }
