"""Fusion: nodes become kernels, in graphs that still print, verify and interpret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node
from graphc.ir.opdef import Inference
from graphc.pipeline import EXACT, Claim, PassContext, PassResult
from graphc_optimize.dce import erase_unused
from graphc_optimize.fuse_groups import grow
from graphc_optimize.fuse_legality import Group, is_literal, is_source, is_view, is_widening, kind_of
from graphc_optimize.sink_broadcasts import sink_broadcasts


@dataclass(frozen=True)
class Fuse:
    """Puts every node that has loops into a `fusion`, with those neighbours whose results then need no memory.

    Kind "loop" is one nest: elementwise work and views, at most one level of reductions; a product (dot, convolution)
    reads plain operands and takes elementwise work on its result. Kind "tile" is row work: reductions over the same
    trailing axes, and what is computed from them. Reshapes at the border stay outside: they cost nothing. Regions of
    scans, branches and loops are fused too.
    """

    name: ClassVar[str] = "fuse"
    claim: ClassVar[Claim] = EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        counts = {"loop": 0, "tile": 0}
        self._run(graph, context, counts)
        return PassResult(any(counts.values()), counts)

    def _run(self, graph: Graph, context: PassContext, counts: dict[str, int]) -> None:
        erase_unused(graph)
        for node in graph.nodes:
            if node.op.name in ("scan", "if", "while"):
                self._fuse_regions(graph, node, context, counts)
        sink_broadcasts(graph, context)
        _one_reader_each(graph)
        for group in grow(graph).groups():
            inner = _without_border(Group.of(group.nodes))  # by now, it may read fusions
            if inner is not None:
                kind = kind_of(inner)
                assert kind is not None, "groups are kernels"
                _replace(graph, inner, kind, context)
                counts[kind] += 1
        erase_unused(graph)
        graph.sort()

    def _fuse_regions(self, graph: Graph, node: Node, context: PassContext, counts: dict[str, int]) -> None:
        regions = {k: v.clone()[0] for k, v in node.attributes.items() if isinstance(v, Graph)}
        for region in regions.values():
            self._run(region, PassContext(context.numerics, backend=context.backend), counts)
        builder = Builder(graph, before=node, origin=node.origin)
        names = node.results[0].name.split(".")[0]
        new = builder.emit(node.op, node.operands, name=names, **{**node.attributes, **regions})
        for old, value in zip(node.results, new.results, strict=True):
            context.replace(graph, old, value)
        graph.erase(node)


def _one_reader_each(graph: Graph) -> None:
    """Copies views, counters and what widens floats so that each has one reader, which can take it in."""
    for node in reversed(graph.nodes):
        if not (is_view(node) or is_source(node) or is_widening(node)) or len(node.results) != 1:
            continue
        uses = sorted(node.result.uses, key=lambda u: isinstance(u.user, Node))
        for use in uses[1:]:
            copy = Graph.copy_node(node, graph, {v: v for v in node.operands}, before=node)
            graph.replace_uses(node.result, copy.result, where=lambda u, use=use: u == use)  # type: ignore[misc]


def _without_border(group: Group) -> Group | None:
    """The group without reshapes of its inputs and into its outputs, which only rename memory; None if nothing is left.

    A reshape stays where it alone holds the rest together.
    """
    for node in group.nodes:
        if node.op.name == "reshape" and _is_border(node, set(group.nodes)):
            rest = Group.of(n for n in group.nodes if n is not node)
            if not rest.nodes:
                return None
            if kind_of(rest) is not None:
                return _without_border(rest)
    return group


def _is_border(node: Node, inside: set[Node]) -> bool:
    """Whether a reshape reads memory, or nothing in the group reads its result."""
    (x,) = node.operands
    if x.producer is None or x.producer not in inside:
        return x.producer is None or not is_literal(x.producer)
    return not any(u in inside for u in node.result.users)


def _replace(graph: Graph, group: Group, kind: str, context: PassContext) -> None:
    """Puts a fusion in the place of a group's nodes."""
    body = _body(group)
    origin = _origin(group)
    last = group.nodes[-1]
    builder = Builder(graph, before=last, origin=origin)
    fusion = builder.emit("fusion", group.inputs, body=body, kind=kind)
    names = [v.name for v in group.outputs]
    for old, new in zip(group.outputs, fusion.results, strict=True):
        context.replace(graph, old, new)
    for node in reversed(group.nodes):
        graph.erase(node)
    for new, original in zip(fusion.results, names, strict=True):
        if new.name != original:
            graph.rename(new, original)


def _origin(group: Group) -> tuple[str, ...]:
    """The layers whose work the group does. Repeating a value is none: layers everywhere share literals and equal weights."""
    fixed: set[Node] = set()
    for n in group.nodes:
        producers = [v.producer for v in n.operands]
        if producers and all(p is not None and (p in fixed or is_literal(p)) for p in producers):
            fixed.add(n)
    working = [n for n in group.nodes if n not in fixed and n.op.name != "broadcast"] or group.nodes
    return tuple(dict.fromkeys(o for n in working for o in n.origin))


def _body(group: Group) -> Graph:
    """The group as a closed graph; literals are copied into it."""
    body = Graph("body")
    mapping = {v: body.add_input(v.name, v.type) for v in group.inputs}
    for node in group.nodes:
        for v in node.operands:
            if v not in mapping:
                assert v.producer is not None and is_literal(v.producer)
                Graph.copy_node(v.producer, body, mapping)
        copy = Graph.copy_node(node, body, mapping)
        _add_guards(body, copy)
    body.set_outputs(mapping[v] for v in group.outputs)
    return body


def _add_guards(body: Graph, node: Node) -> None:
    """Lists what inference assumes about a node in the body that it is in."""
    inference = Inference()
    node.op.infer(inference, [v.type for v in node.operands], node.attributes)
    body.guards += [g for g in inference.guards if g not in body.guards]
