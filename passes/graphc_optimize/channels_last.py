"""Channels-last layout for convolutions and what is around them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.symbolic import evaluate
from graphc.pipeline import REASSOCIATES, Claim, PassContext, PassResult
from graphc.rewrite.constants import depends_on_constants_alone
from graphc_optimize.channels_last_rules import Rule, rule_of, to_first, to_last

if TYPE_CHECKING:
    import networkx as nx

SOURCE, SINK = "last", "first"
NOMINAL = 8
"""The value that a dim of unknown size has in costs, where its range allows it."""


@dataclass(frozen=True)
class ChannelsLast:
    """Convolutions run on [N, *spatial, C] with kernels [*window, I, O], and so does what is cheaper that way.

    Which nodes change is a minimum cut: a value that is read in another layout than it was made in costs its bytes,
    convolutions are last, the graph's borders and operators that know no other layout are first. Transposes that the
    model brings, as around channels-last norms, count as free between the layouts that they connect.
    """

    name: ClassVar[str] = "channels-last"
    claim: ClassVar[Claim] = REASSOCIATES

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        rules = _region(graph)
        if not rules:
            return PassResult(False)
        chosen = _cut(graph, rules)
        before = sum(n.op.name == "transpose" for n in graph.nodes)
        _Rewriter(graph, context, {n: rules[n] for n in chosen}).run()
        after = sum(n.op.name == "transpose" for n in graph.nodes)
        kinds = Counter("convolutions" if _is_convolution(rules[n]) else "others" for n in chosen)
        return PassResult(bool(chosen), {**dict(kinds), "transposes": after - before})


def _region(graph: Graph) -> dict[Node, Rule]:
    """Nodes that may change layout, and are connected with a convolution through others that may."""
    rules = {node: rule for node in graph.nodes if (rule := rule_of(node)) is not None}
    reached: set[Node] = set()
    stack = [node for node, rule in rules.items() if _is_convolution(rule)]
    while stack:
        node = stack.pop()
        if node in reached:
            continue
        reached.add(node)
        rule = rules[node]
        around = [v for v, port in zip(node.operands, rule.operands, strict=True) if port != "first"]
        for value, port in zip(node.results, rule.results, strict=True):
            if port != "first":
                around.append(value)
        for value in around:
            near = [value.producer, *value.users]
            for twin in [n for n in near if n is not None and _is_to_last(n)]:
                near.extend(twin.result.users)
            stack.extend(n for n in near if n in rules)
    return {node: rule for node, rule in rules.items() if node in reached}


def _is_convolution(rule: Rule) -> bool:
    """Whether the node runs with channels last in any case."""
    return "last" in (*rule.operands, *rule.results)


def _is_to_last(node: Node) -> bool:
    """Whether the node is a transpose from [N, C, *spatial] to [N, *spatial, C]; in rank 3 both ways look the same."""
    rank = node.results[0].type.rank
    return node.op.name == "transpose" and rank >= 3 and node["permutation"] == to_last(rank) and not _is_to_first(node)


def _is_to_first(node: Node) -> bool:
    rank = node.results[0].type.rank
    if node.op.name != "transpose" or rank < 3 or node["permutation"] != to_first(rank):
        return False
    return rank > 3 or any(user.op.name in ("conv", "conv_input_grad") for user in node.result.users)


# Choosing


def _cut(graph: Graph, rules: dict[Node, Rule]) -> list[Node]:
    """The nodes to run in the last layout, in order."""
    import networkx as nx

    network = nx.DiGraph()
    network.add_node(SINK)
    for node, rule in rules.items():
        if _is_convolution(rule):
            network.add_edge(SOURCE, node)  # without a capacity: never cut
        else:
            network.add_edge(SOURCE, node, capacity=1)  # among equals, last: convolutions can fuse with it
    for value in graph.values():
        if value.type.rank >= 3 and not depends_on_constants_alone(value):
            _add_value(network, value, rules)
    _, (last, _) = nx.minimum_cut(network, SOURCE, SINK)
    return [node for node in rules if node in last]


def _add_value(network: nx.DiGraph, value: Value, rules: dict[Node, Rule]) -> None:
    """Edges that are cut, at the value's cost, if it is made in one layout and read in the other, by however many."""
    made = _made_in(value, rules)
    readers = {_read_in(use.user, use.index, rules) for use in value.uses}
    cost = _cost(value)
    if made != SINK:
        hub = ("to first", value)
        network.add_edge(made, hub, capacity=cost)
        for reader in readers:
            network.add_edge(hub, reader)
    if made != SOURCE:
        hub = ("to last", value)
        network.add_edge(hub, made, capacity=cost)
        for reader in readers:
            network.add_edge(reader, hub)


def _made_in(value: Value, rules: dict[Node, Rule]) -> Node | str:
    node = value.producer
    if node is None:
        return SINK
    if node in rules:
        port = rules[node].results[value.index]
        return node if port == "own" else port
    return SOURCE if _is_to_first(node) else SINK


def _read_in(user: Node | Graph, index: int, rules: dict[Node, Rule]) -> Node | str:
    if isinstance(user, Graph):
        return SINK
    if user in rules:
        port = rules[user].operands[index]
        return user if port == "own" else port
    return SOURCE if _is_to_last(user) else SINK


def _cost(value: Value) -> int:
    """Bytes, scaled so that they outweigh all ties; next to nothing where the change of layout moves no element."""
    if _is_reshape(value):
        return 1024
    dims = {}
    for s in value.type.symbols():
        dims[s.name] = max(s.low, min(NOMINAL, s.high if isinstance(s.high, int) else NOMINAL))
    return 1024 * max(1, evaluate(value.type.bytes, dims))


def _is_reshape(value: Value) -> bool:
    """Whether both layouts have their elements in the same order."""
    _, channels, *spatial = value.type.shape
    return channels == 1 or all(d == 1 for d in spatial)


# Rewriting


class _Rewriter:
    """Emits the chosen nodes in the last layout; other layouts of a value are made once, where they are first read."""

    def __init__(self, graph: Graph, context: PassContext, chosen: dict[Node, Rule]) -> None:
        self.graph = graph
        self.context = context
        self.chosen = chosen
        self.last: dict[Value, Value] = {}
        self.gone: set[Value] = set()
        """Values of chosen nodes that nobody has asked for in the first layout: their nodes won't be there."""

    def run(self) -> None:
        order = self.graph.nodes
        for node in order:
            if node in self.chosen:
                self._emit(node, self.chosen[node])
                continue
            for value in dict.fromkeys(node.operands):
                if _is_to_last(node) and value in self.last:
                    self.context.replace(self.graph, node.result, self.last[value])
                else:
                    self._first(value, node)
            if _is_to_first(node):
                self.last[node.result] = node.operands[0]
        for value in self.graph.outputs:
            self._first(value, None)
        for node in reversed(order):
            if node in self.chosen or (node.op.name == "transpose" and not node.result.uses):
                self.graph.erase(node)

    def _emit(self, node: Node, rule: Rule) -> None:
        operands = []
        for value, port in zip(node.operands, rule.operands, strict=True):
            operands.append(self._first(value, node) if port == "first" else self._last(value, node))
        builder = Builder(self.graph, before=node, origin=node.origin)
        for old, new, port in zip(node.results, rule.emit(builder, node, operands), rule.results, strict=True):
            if port == "first" or old.type.rank < 3:
                self.context.replace(self.graph, old, new)
            else:
                self.last[old] = new
                self.gone.add(old)

    def _last(self, value: Value, reader: Node) -> Value:
        rank = value.type.rank
        if rank < 3:
            return self._first(value, reader)
        if value not in self.last:
            self.last[value] = self._moved(value, to_last(rank), reader, reader)
        return self.last[value]

    def _first(self, value: Value, reader: Node | None) -> Value:
        if value not in self.gone:
            return value
        assert value.producer is not None
        last = self.last[value]
        new = self._moved(last, to_first(value.type.rank), reader, value.producer)
        self.gone.discard(value)
        self.last[new] = last
        self.context.replace(self.graph, value, new)
        return new

    def _moved(self, value: Value, permutation: tuple[int, ...], before: Node | None, source: Node) -> Value:
        builder = Builder(self.graph, before=before, origin=source.origin)
        shape = tuple(value.type.shape[i] for i in permutation)
        kept = [i for i in permutation if value.type.shape[i] != 1]
        return builder.reshape(value, shape) if kept == sorted(kept) else builder.transpose(value, permutation)
