"""What lowering starts from and hands on: a body's buffers, empty nests, and nests as drafts of loop bodies."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.graph import Graph, Value
from graphc.lowering.loop_body import Buffer, LoopBody
from graphc.lowering.nest import Kept, Nest, Rule
from graphc.lowering.rules import RULES, TRANSPARENT


def buffers_of(graph: Graph) -> list[Buffer]:
    """The inputs and outputs of a body as buffers "0", "1", ..."""
    inputs = [Buffer(str(i), v.type, "in") for i, v in enumerate(graph.inputs)]
    return inputs + [Buffer(str(len(inputs) + i), v.type, "out") for i, v in enumerate(graph.outputs)]


def new_nest(graph: Graph, kept: Mapping[Value, Kept] | None = None, rules: Mapping[str, Rule] | None = None) -> Nest:
    """An empty nest over the body's inputs, and over what earlier nests kept."""
    buffers = {v: str(i) for i, v in enumerate(graph.inputs)}
    return Nest({**RULES, **(rules or {})}, buffers, dict(kept or {}), transparent=TRANSPARENT)


def draft(nest: Nest, sequential: bool = False) -> LoopBody:
    """The nest as it stands, before its axes and names are canonical."""
    return LoopBody("", (), tuple(nest.axes), tuple(nest.statements), sequential)
