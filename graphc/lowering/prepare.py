"""Splits a graph in two: what depends on constants alone, run once at load, and the rest, run at each call."""

from __future__ import annotations

from graphc.ir.graph import Graph, Node, Value
from graphc.ir.tensor_data import TensorData


def split_prepare(graph: Graph) -> tuple[Graph, Graph, list[TensorData]]:
    """(prepare, main, weights): prepare(weights) gives main's last inputs. The graph itself is left as it is.

    Literals (constants of one element) and what is made of them stay in main, where they are part of the code. So do
    broadcasts, which would take memory, views of a `materialize`, which say how main reads what lies in memory, and loops
    that data ends: loading a model must not hang.
    """
    split = _Split(graph, _constants(graph), _literals(graph))
    for node in graph.nodes:
        if not all(v in split.constant for v in node.results):
            for v in node.operands:
                split.need(v)
            Graph.copy_node(node, split.main, split.in_main)
    for v in graph.outputs:
        split.need(v)
    split.main.set_outputs(split.in_main[v] for v in graph.outputs)
    split.main.donations = list(graph.donations)
    split.prepare.set_outputs(split.in_prepare[v] for v in split.moved)
    return split.prepare, split.main, split.weights


def _constants(graph: Graph) -> set[Value]:
    """Values that depend on constants alone, and not on the sizes of inputs."""
    found: set[Value] = set()
    for node in graph.nodes:
        depends_on_constants = node.op.name == "constant" or (node.operands and all(v in found for v in node.operands))
        if depends_on_constants and "terminal" not in node.op.traits and not node.symbols() and not _loops(node):
            found.update(node.results)
    return found


def _loops(node: Node) -> bool:
    """Whether the node is a `while`, or has one in a region."""
    regions = (a for a in node.attributes.values() if isinstance(a, Graph))
    return node.op.name == "while" or any(_loops(n) for region in regions for n in region.nodes)


def _literals(graph: Graph) -> set[Value]:
    """Constants of one element, and what elementwise operators and views make of them."""
    found: set[Value] = set()
    for node in graph.nodes:
        if node.op.name == "constant":
            if node["value"].is_literal:
                found.add(node.result)
        elif node.operands and all(v in found for v in node.operands) and node.op.traits & {"elementwise", "view"}:
            found.update(node.results)
    return found


class _Split:
    def __init__(self, graph: Graph, constant: set[Value], literal: set[Value]) -> None:
        self.constant, self.literal = constant, literal
        self.main, self.prepare = Graph(graph.name), Graph("prepare")
        self.main.guards = list(graph.guards)
        self.in_main = {v: self.main.add_input(v.name, v.type) for v in graph.inputs}
        self.in_prepare: dict[Value, Value] = {}
        self.moved: list[Value] = []
        self.weights: list[TensorData] = []

    def need(self, v: Value) -> None:
        """Makes `v` a value of main: a view of what lies in memory is copied there, anything else constant moves in."""
        if v in self.in_main or v not in self.constant:
            return
        node = v.producer
        assert node is not None
        if v in self.literal or node.op.name == "broadcast" or _reads_memory(v):
            for x in node.operands:
                self.need(x)
            Graph.copy_node(node, self.main, self.in_main)
            return
        self.in_main[v] = self.main.add_input(v.name, v.type)
        self.moved.append(v)
        self.compute(v)

    def compute(self, v: Value) -> None:
        """Makes `v` a value of prepare."""
        stack = [v]
        while stack:
            node = stack[-1].producer
            assert node is not None
            missing = [x for x in node.operands if x not in self.in_prepare]
            if node.results[0] in self.in_prepare:
                stack.pop()
            elif missing:
                stack += missing
            elif node.op.name == "constant" and not node["value"].is_literal:
                self.in_prepare[node.result] = self.prepare.add_input(node.result.name, node.result.type)
                self.weights.append(node["value"])
            else:
                Graph.copy_node(node, self.prepare, self.in_prepare)


def _reads_memory(v: Value) -> bool:
    """Whether `v` is a view, through views, of a `materialize`."""
    node = v.producer
    if node is None or "view" not in node.op.traits:
        return False
    source = node.operands[0].producer
    return source is not None and (source.op.name == "materialize" or _reads_memory(node.operands[0]))
