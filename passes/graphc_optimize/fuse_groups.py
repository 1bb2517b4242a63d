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
    """Disjoint groups of the graph's fusible nodes, each a kernel by `kind_of`, with no cycle between them.

    The groups are kept in an order in which each comes after those that it reads; joining two looks only at what lies
    between them, and moves it. Source: Pearce and Kelly, "A dynamic topological sort algorithm", 2006.
    """

    def __init__(self, graph: Graph) -> None:
        self.position: Mapping[Node, int] = {n: i for i, n in enumerate(graph.nodes)}
        self.members: dict[Node, frozenset[Node]] = {n: frozenset((n,)) for n in graph.nodes if is_fusible(n)}
        self.refused: set[frozenset[Node]] = set()
        self._users = [{self.position[u] for v in n.results for u in v.users} for n in graph.nodes]
        self._joined = list(range(len(graph)))  # a number for each group, its first node's; joined ones point to another
        self._place = list(range(len(graph)))
        self._order = list(range(len(graph)))
        self._crossed: set[tuple[int, int]] = set()

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
        first, second = sorted((self._number(a), self._number(b)), key=self._place.__getitem__)
        if (first, second) in self._crossed:
            return False
        if kind_of(self.group(joined)) is None:
            self.refused.add(joined)
            return False
        between = self._between(first, second)
        if between is None:
            self._crossed.add((first, second))
            return False
        self._merge(first, second, between)
        for node in joined:
            self.members[node] = joined
        return True

    def _number(self, node: Node) -> int:
        return self._find(self.position[node])

    def _find(self, number: int) -> int:
        """The group that a group has become a part of."""
        joined = self._joined
        while joined[number] != number:
            joined[number] = number = joined[joined[number]]
        return number

    def _between(self, first: int, second: int) -> set[int] | None:
        """The groups before `second` that depend on `first`; None where `second` depends on one of them."""
        end = self._place[second]
        found: set[int] = set()
        stack = [u for n in self._users[first] if (u := self._find(n)) not in (first, second)]
        while stack:
            number = stack.pop()
            if number in found or self._place[number] > end:
                continue
            found.add(number)
            for n in self._users[number]:
                user = self._find(n)
                if user == second:
                    return None
                if user not in found:
                    stack.append(user)
        return found

    def _merge(self, first: int, second: int, between: set[int]) -> None:
        """Makes `second` a part of `first`, which takes its place behind all that `second` reads."""
        start, end = self._place[first], self._place[second]
        window = self._order[start + 1 : end]
        before = [n for n in window if n not in between]
        self._order[start : end + 1] = [*before, first, *(n for n in window if n in between), second]
        for place in range(start, end + 1):
            self._place[self._order[place]] = place
        self._joined[second] = first
        # What joined may have been what lay on a path.
        self._crossed = {pair for pair in self._crossed if first not in pair and second not in pair}
        self._users[first] |= self._users[second]


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
