"""The kernel of a fusion, for backends that make a function of each lowered body."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.graph import Node
from graphc.ir.symbolic import Dim, symbol
from graphc.lowering.facts import dimensions, scratch_sizes
from graphc.lowering.loop_body import Body
from graphc.lowering.lower import lower
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
    body = lower(node["body"], node["kind"], kernel_name(node["body"]))
    name = function_name(body.key())
    dims = tuple(symbol(s.name, s.low, s.high) for s in dimensions(body))
    moved = sum((v.type.bytes for v in (*node.operands, *node.results)), 0)
    sizes = sum(scratch_sizes(body), 0), flops(body), moved
    return SourceKernel(body.key(), name, body.name, emit(body, name), str(body), dims, 1, *sizes, nonempty(body))


def function_name(text: str) -> str:
    """The name of the function that `text` stands for: an identifier, equal for equal text."""
    return "kernel_" + hashlib.sha256(text.encode()).hexdigest()[:32]
