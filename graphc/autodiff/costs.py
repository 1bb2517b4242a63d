"""What computing a node once more costs, roughly: enough to rank nodes of one graph against each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from graphc.ir.graph import Node, Value

FLOPS = 6e10
"""Of products, a second, on one core."""
BANDWIDTH = 1e10
"""Bytes a second through memory."""
STEP = 5e-11
"""Seconds for each element of a sum or a simple function in vectors."""
FUNCTIONS = frozenset(
    ("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh",
     "acosh", "atanh", "erf", "sigmoid", "pow", "rem", "mod")
)  # fmt: skip
"""Elementwise operators that cost several simple ones."""
IN_ORDER = 2e-9
"""Seconds for each element of what runs element after element: sorting, gathering, running sums."""


def seconds(node: Node) -> float | None:
    """The cost of a node of static shapes; None for what isn't computed twice: regions, and operators unknown here."""
    name, size = node.op.name, sum(map(elements, node.results))
    if "view" in node.op.traits or not node.operands:
        return 0.0
    if "elementwise" in node.op.traits:
        return size * STEP * (6 if name in FUNCTIONS else 1)
    if name in _PRODUCTS:
        return 2 * _PRODUCTS[name](node) / FLOPS + size * 4 / BANDWIDTH
    if name in _MOVES:
        return 2 * sum(v.type.dtype.bytes * elements(v) for v in node.results) / BANDWIDTH
    if name.startswith("reduce_"):
        return elements(node.operands[0]) * STEP
    return size * IN_ORDER if name in _IN_ORDER else None


def elements(value: Value) -> int:
    """The number of elements of a value of static shape."""
    return math.prod(int(str(d)) for d in value.type.shape)


def _dot(node: Node) -> int:
    """Multiplications of a contraction: each element of the result sums over the contracted axes."""
    shape = node.operands[0].type.shape
    return elements(node.result) * math.prod(int(str(shape[i])) for i in node["lhs_contract"])


def _conv(node: Node) -> int:
    """Each element of the result sums over the kernel, but for its axis of outputs."""
    w = node.operands[1]
    out = w.type.shape[0 if node["kernel_layout"] == "oi" else -1]
    return elements(node.result) * elements(w) // max(1, int(str(out)))


def _winograd(node: Node) -> int:
    """36 products for a tile of 4 x 4 outputs, in place of 144."""
    inputs = int(str(node.operands[1].type.shape[2]))
    return elements(node.result) * inputs * 36 // 16


def _attention(node: Node) -> int:
    """Scores, and the values that they weigh."""
    q, k, v, *_ = node.operands
    pairs = elements(q) // int(str(q.type.shape[-1])) * int(str(k.type.shape[-2]))
    return pairs * (int(str(q.type.shape[-1])) + int(str(v.type.shape[-1])))


_PRODUCTS: Mapping[str, Callable[[Node], int]] = {
    "dot": _dot, "conv": _conv, "winograd_conv": _winograd, "attention": _attention,
}  # fmt: skip
_MOVES = frozenset(("materialize", "pad", "concat"))
_IN_ORDER = frozenset(("gather", "take_along", "gather_nd", "cumsum", "cumprod", "window_sum", "window_max"))
