"""Which values of the forward pass are kept for the backward pass and which are computed again: a minimum cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphc.autodiff.costs import elements, seconds
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value

LIGHT = frozenset({"elementwise", "view"})


@dataclass(frozen=True)
class Recomputation:
    """What the backward pass computes again: nodes of the forward pass, and their cost in (estimated) seconds."""

    nodes: frozenset[Node]
    seconds: float


def cheapest(graph: Graph, last: int, price: float, segments: int) -> Recomputation:
    """The recomputation of least cost, where a byte that is kept costs `price` seconds times the part of the step that it waits.

    The forward pass is the nodes up to number `last`. A minimum cut finds it: a value that the backward pass needs, or that is
    needed to compute one again, is kept (its bytes at that price) or computed again (its node's cost, and then the node's
    operands are needed). What leads from one of so many segments of the forward pass to a later one isn't computed again:
    else the last layer's backward pass may need all that came before at once. Shapes are static.
    """
    import networkx

    forward = set(graph.nodes[: last + 1])
    crossing = _crossing(graph, last, segments)
    number = {n: i for i, n in enumerate(graph.nodes)}
    network = networkx.DiGraph()
    network.add_nodes_from(("backward", "end"))
    for node in forward:
        if not node.operands:  # constants are there anyway
            continue
        cost = seconds(node)
        network.add_edge(node, "end", **({} if cost is None else {"capacity": cost}))
        for value in node.operands:
            if value.producer is not None and value.producer.operands:
                network.add_edge(node, value)
        for value in node.results:
            size = value.type.dtype.bytes * elements(value)
            capacity = price * size * waits(value, number, last)
            network.add_edge(value, "end" if value in crossing else node, capacity=capacity)
            if any(u not in forward for u in value.users):
                network.add_edge("backward", value)
    _, (needed, _) = networkx.minimum_cut(network, "backward", "end")
    nodes = frozenset(n for n in needed if isinstance(n, Node))
    return Recomputation(nodes, sum(seconds(n) or 0.0 for n in nodes))


def waits(value: Value, number: Mapping[Node, int], last: int) -> float:
    """The part of the step until the backward pass reads a value; all of it, where only what is computed again does."""
    later = [number[u] for u in _readers(value) if number[u] > last]
    return (min(later) - number[value.producer]) / len(number) if later else 1.0  # type: ignore[index]


def _crossing(graph: Graph, last: int, segments: int) -> set[Value]:
    """The values that lead from one segment to a later one.

    Segments hold about equal bytes of what the backward pass needs, and end where the fewest bytes lead on.
    """
    forward = graph.nodes[: last + 1]
    number = {n: i for i, n in enumerate(graph.nodes)}
    needed, leading = [0] * (last + 2), [0] * (last + 2)
    until: dict[Value, int] = {}
    for i, node in enumerate(forward):
        if "view" in node.op.traits or not node.operands:
            continue
        for value in node.results:
            size = value.type.dtype.bytes * elements(value)
            readers = [number[u] for u in _readers(value)]
            inside = [r for r in readers if r <= last]
            until[value] = max(inside, default=i)
            needed[i] += size if len(inside) < len(readers) else 0
            leading[i] += size
            leading[until[value]] -= size
    total, ends = sum(needed), []
    kept = live = 0
    best: dict[int, tuple[int, int]] = {}  # by segment, the least bytes that lead on and the node after which
    for i in range(last):
        kept, live = kept + needed[i], live + leading[i]
        segment = int(kept * segments / (total + 1) + 0.5)  # each end is near where a segment is full
        if 0 < segment < segments:
            best[segment] = min(best.get(segment, (live, i)), (live, i))
    ends = [i for _, i in best.values()]
    return {v for v, end in until.items() if any(number[v.producer] <= e < end for e in ends)}  # type: ignore[index]


def _readers(value: Value) -> list[Node]:
    """The nodes that read the value, through views."""
    found: list[Node] = []
    for user in value.users:
        found += _readers(user.result) if "view" in user.op.traits else [user]
    return found


def recompute(graph: Graph, last: int, nodes: Iterable[Node]) -> int:
    """Makes the nodes after number `last` read values computed anew where `nodes` made them; how many nodes were copied.

    Each is copied once, before the first node that needs it, and reads what was kept behind an `after`: not before the
    backward pass has come near. A view of what is kept isn't copied, since whoever reads it takes it in.
    """
    return _Recompute(graph, last, frozenset(nodes)).run()


class _Recompute:
    def __init__(self, graph: Graph, last: int, nodes: frozenset[Node]) -> None:
        self.graph, self.last = graph, last
        self.number = {n: i for i, n in enumerate(graph.nodes)}
        self.copied: set[Node] = set()
        for node in graph.nodes[: last + 1]:  # a node comes after those that it reads
            reads = any(v.producer in self.copied for v in node.operands)
            if node in nodes and ("view" not in node.op.traits or reads):
                self.copied.add(node)
        self.again: dict[Value, Value] = {}
        self.behind: dict[Value, Value] = {}

    def run(self) -> int:
        backward = self.graph.nodes[self.last + 1 :]
        order = list(self.graph.nodes[: self.last + 1])
        for user in backward:
            made = self.copies(user)
            order += [*made, user]
            for i, value in enumerate(user.operands):
                if value in self.again:
                    self.graph.set_operand(user, i, self.again[value])
        self.graph.reorder(order)
        return len({v.producer for v in self.again})

    def copies(self, user: Node) -> list[Node]:
        """The copies, not made yet, of all that a node needs."""
        wanted: set[Node] = set()
        waiting = list(user.operands)
        while waiting:
            value = waiting.pop()
            node = value.producer
            if node in self.copied and node not in wanted and value not in self.again:
                wanted.add(node)
                waiting += node.operands
        if not wanted:
            return []
        event = self.event(user)
        before = len(self.graph)
        for node in sorted(wanted, key=self.number.__getitem__):
            mapping = {v: self.operand(v, event) for v in node.operands}
            if not any(
                v is not mapping[v] for v in node.operands
            ):  # only inputs: the first of them is what it waits for
                mapping[node.operands[0]] = self.delayed(node.operands[0], event)
            copy = Graph.copy_node(node, self.graph, mapping)
            self.again.update(zip(node.results, copy.results, strict=True))
        return list(self.graph.nodes[before:])

    def operand(self, value: Value, event: Value) -> Value:
        """What a copy reads: a value computed again, an input, or what was kept, behind an `after`; views of these are copied."""
        node = value.producer
        if value in self.again or node is None or not node.operands:
            return self.again.get(value, value)
        if "view" not in node.op.traits:
            return self.delayed(value, event)
        if value not in self.behind:
            source = self.operand(node.operands[0], event)
            same = source is node.operands[0]
            mapping = {node.operands[0]: source}
            self.behind[value] = value if same else Graph.copy_node(node, self.graph, mapping).result
        return self.behind[value]

    def delayed(self, value: Value, event: Value) -> Value:
        if value not in self.behind:
            self.behind[value] = Builder(self.graph).op("after", value, event)
        return self.behind[value]

    def event(self, user: Node) -> Value:
        """A value that the backward pass has computed some time before `user`: what its last product or sum read.

        Not later, since `user` itself should stay part of that product's kernel.
        """
        node = user
        while (value := self.latest(node)) is not None:
            assert value.producer is not None
            node = value.producer
            if not node.op.traits & LIGHT:
                return self.latest(node) or value
        return self.graph.outputs[0]

    def latest(self, node: Node) -> Value | None:
        """The operand that the backward pass computed last."""
        made = [v for v in node.operands if v.producer is not None and self.number.get(v.producer, -1) > self.last]
        return max(made, key=lambda v: self.number[v.producer], default=None)  # type: ignore[index]
