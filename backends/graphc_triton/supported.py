"""Which primitives have kernels, and why the others have none."""

from __future__ import annotations

from graphc.ir.graph import Node
from graphc_triton.operations import F32_ONLY, NO_FORM, TABLE

IN_ORDER = "a nest that runs in order has a kernel of its own, and this is one of several that share their rows"


def refusal(node: Node) -> str | None:
    """Why a primitive has no kernel; None: it has one."""
    if "elementwise" in node.op.traits:
        if node.op.name not in TABLE:
            return NO_FORM
        if node.op.name in F32_ONLY and node.operands[0].type.dtype.name == "f64":
            return f"on f64 {NO_FORM}"
    return None
