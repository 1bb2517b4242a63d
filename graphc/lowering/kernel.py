"""The kernel of a fusion, for backends that make a function of each lowered body."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.graph import Node
from graphc.ir.symbolic import Dim, substitute
from graphc.lowering.facts import dimensions, scratch_sizes
from graphc.lowering.loop_body import Body
from graphc.lowering.lower import lower
from graphc.lowering.own_names import with_own_names
from graphc.lowering.reports import flops, kernel_name, nonempty

Emit = Callable[[Body, str], str]
"""(body, name of the function) -> its source. Raises UnsupportedOpError for what the language has no form for."""


@dataclass(frozen=True)
class SourceKernel:
    """Source of a function `symbol`, and what a call of it takes; see `program.KernelStep`. Equal keys: equal functions.

    loops: the text of the lowered body.
    """

    key: str
    symbol: str
    name: str
    source: str
    loops: str
    dims: tuple[Dim, ...]
    work: Dim = 1
    scratch: Dim = 0
    flops: Dim = 0
    bytes: Dim = 0
    nonempty: tuple[Dim, ...] = ()


def fusion_kernel(node: Node, emit: Emit, who: str) -> SourceKernel:
    """The kernel of a fusion. Raises UnsupportedOpError, in the name of `who`, for any other node."""
    if node.op.name != "fusion":
        layer = ", ".join(node.origin) or f"%{node.results[0].name}"
        raise UnsupportedOpError(who, [Unsupported(node.op.name, layer, "it can be part of no fused loop")])
    graph, _, given = with_own_names(node)
    body = lower(graph, node["kind"], kernel_name(graph))

    def at(e: Dim) -> Dim:
        return substitute(e, given)

    symbol = function_name(body.key())
    moved = sum((v.type.bytes for v in (*node.operands, *node.results)), 0)
    return SourceKernel(
        key=body.key(),
        symbol=symbol,
        name=body.name,
        source=emit(body, symbol),
        loops=str(body),
        dims=tuple(given[s.name] for s in dimensions(body)),
        scratch=at(sum(scratch_sizes(body), 0)),
        flops=at(flops(body)),
        bytes=moved,
        nonempty=tuple(map(at, nonempty(body))),
    )


def function_name(text: str) -> str:
    """The name of the function that `text` stands for: an identifier, equal for equal text."""
    return "kernel_" + hashlib.sha256(text.encode()).hexdigest()[:32]
