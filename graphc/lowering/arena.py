"""What a fused graph will need for its intermediates, known without making its kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphc.ir.graph import Graph
from graphc.ir.symbolic import Dim, evaluate
from graphc.lowering.assemble import assemble
from graphc.lowering.memory import Lifetime, plan


@dataclass(frozen=True)
class _Unmade:
    """Stands for a kernel of which only the operands count."""

    key: str = ""
    symbol: str = ""
    name: str = ""
    dims: tuple[Dim, ...] = ()
    work: Dim = 0
    scratch: Dim = 0
    flops: Dim = 0
    bytes: Dim = 0
    nonempty: tuple[Dim, ...] = ()


def arena_bytes(fused: Graph, prepared: int, dims: Mapping[str, int]) -> int:
    """The bytes of the arena at given dims; the last `prepared` inputs are constants made beforehand."""
    program = assemble(fused, prepared, lambda node: _Unmade(), "a plan of memory").program
    return plan([Lifetime(b.first, b.last, evaluate(b.bytes, dims)) for b in program.buffers])[1]
