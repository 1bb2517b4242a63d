"""Grows groups of nodes: which to join, in which order, without a cycle between kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import Dim, Expr, evaluate, free_symbols
from graphc.lowering.placement import CONTRACTIONS
from graphc_optimize.fuse_legality import Group, is_fusible, is_view, is_widening, kind_of

ASSUMED_DIM = 64
"""The size that a symbolic dim is taken for when bytes are weighed."""


class Grouping:
    """Disjoint groups of the graph's fusible nodes, each a kernel by `kind_of`, with no cycle between them."""

    def __init__(self, graph: Graph) -> None:
        self.position: Mapping[Node, int] = {n: i for i, n in enumerate(graph.nodes)}
        self.members: dict[Node, frozenset[Node]] = {n: frozenset((n,)) for n in graph.nodes if is_fusible(n)}
        self.refused: set[frozenset[Node]] = set()
        self.ends = list(range(len(graph)))
        """For each position, the last one of the groups that begin there or before: paths through groups lead so far."""

    def groups(self) -> list[Group]:
        """The groups, in the order of their first nodes."""
        return [self.group(nodes) for nodes in dict.fromkeys(self.members.values())]

    def group(self, nodes: Iterable[Node]) -> Group:
        return Group.of(sorted(nodes, key=self.position.__getitem__))

    def join(self, a: Node, b: Node) -> bool:
        """Makes the groups of two nodes one if that is a kernel and makes no cycle; whether they are one now."""
        if a not in self.members or b not in self.members:
            return False
        joined = self.members[a] | self.members[b]
        if joined == self.members[a]:
            return True
        if joined in self.refused:
            return False
        if kind_of(self.group(joined)) is None:
            self.refused.add(joined)
            return False
        if not self.is_convex(joined):
            return False
        for node in joined:
            self.members[node] = joined
        places = [self.position[n] for n in joined]
        for i in range(min(places), max(places)):
            self.ends[i] = max(self.ends[i], max(places))
        return True

    def is_convex(self, nodes: frozenset[Node]) -> bool:
        """Whether no path leaves the nodes and comes back, taking every other group as one."""
        last = max(map(self.position.__getitem__, nodes))
        while self.ends[last] > last:  # what lies behind comes back where a group reaches from there to here
            last = self.ends[last]
        stack = [u for n in nodes for v in n.results for u in v.users if u not in nodes]
        seen = set(stack)
        while stack:
            node = stack.pop()
            for member in self.members.get(node, (node,)):
                if self.position[member] > last:
                    continue
                for v in member.results:
                    for user in v.users:
                        if user in nodes:
                            return False
                        if user not in seen:
                            seen.add(user)
                            stack.append(user)
        return True


def grow(graph: Graph) -> Grouping:
    """The groups that save most bytes, found greedily.

    Views, and what widens floats, join their readers first (a view that would cut the sum or the columns of a product
    joins the other side). Then products take what is computed element by element from their results, in order. Then any
    two neighbours are joined, the pair with the largest value between them first, until no pair can be.
    """
    grouping = Grouping(graph)
    for node in reversed(graph.nodes):
        if (is_view(node) or is_widening(node)) and not node.result.is_output:
            for user in node.result.users:
                grouping.join(node, user)
    for node in graph.nodes:
        if node.op.name in CONTRACTIONS:
            _take_epilogue(grouping, node)
    pairs = [(v, v.producer, user) for v in _values(graph) for user in v.users if v.producer is not None]
    pairs.sort(key=lambda p: (-_estimate(p[0]), grouping.position[p[1]], grouping.position[p[2]]))
    progress = True
    while progress:
        progress = False
        for _, producer, user in pairs:
            if grouping.members.get(producer) != grouping.members.get(user) and grouping.join(producer, user):
                progress = True
    return grouping


def _take_epilogue(grouping: Grouping, node: Node) -> None:
    waiting = [node]
    while waiting:
        current = waiting.pop(0)
        users = {u for v in current.results for u in v.users}
        fresh = (u for u in users if u in grouping.members and u not in grouping.members[node])
        waiting += [u for u in sorted(fresh, key=grouping.position.__getitem__) if grouping.join(node, u)]


def _values(graph: Graph) -> list[Value]:
    return [v for n in graph.nodes if is_fusible(n) for v in n.results]


def _estimate(v: Value) -> int:
    """The bytes of a value, symbols taken for ASSUMED_DIM (or their bound, where lower)."""
    return _at(v.type.bytes)


def _at(e: Dim) -> int:
    if not isinstance(e, Expr):
        return e
    values = {}
    for s in free_symbols(e):
        high = s.high if isinstance(s.high, int) else ASSUMED_DIM
        values[s.name] = max(s.low, min(ASSUMED_DIM, high))
    return evaluate(e, values)
