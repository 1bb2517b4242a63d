"""Which primitives have kernels, and why the others have none."""

from __future__ import annotations

from graphc.ir.graph import Node
from graphc_triton.operations import F32_ONLY, NO_FORM, TABLE

IN_ORDER = "blocks of a kernel run at once, and this runs in order"

REFUSED = {
    "cumsum": IN_ORDER,
    "cumprod": IN_ORDER,
    "scatter_along": IN_ORDER,
    "scatter_nd": IN_ORDER,
    "sort": "sorting has no kernel",
    "scan": "a loop over kernels has no form in a CUDA graph of plain launches",
    "if": "a branch between kernels has no form in a CUDA graph of plain launches",
    "while": "a loop over kernels has no form in a CUDA graph of plain launches",
}


def refusal(node: Node) -> str | None:
    """Why a primitive has no kernel; None: it has one."""
    if node.op.name in REFUSED:
        return REFUSED[node.op.name]
    if "elementwise" in node.op.traits:
        if node.op.name not in TABLE:
            return NO_FORM
        if node.op.name in F32_ONLY and node.operands[0].type.dtype.name == "f64":
            return f"on f64 {NO_FORM}"
    return None
