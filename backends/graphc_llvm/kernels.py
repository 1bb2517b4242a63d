"""From a node of the fused graph to a kernel: lowered, emitted by the template that fits, compiled once for equal bodies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import Dim, symbol
from graphc.lowering.lower import lower
from graphc.lowering.loop_body import Body, LoopBody
from graphc_llvm import contraction, nest
from graphc_llvm.target import Target

Emit = Callable[[Body, Target, str], "Kernel"]


@dataclass(frozen=True)
class Kernel:
    """LLVM IR of one kernel (symbol `kernel_<key>`), and what calling it takes; see `program.KernelStep`."""

    key: str
    name: str
    text: str
    dims: tuple[Dim, ...]
    work: Dim
    scratch: Dim
    flops: Dim
    bytes: Dim
