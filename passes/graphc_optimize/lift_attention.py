"""The rule that lifts scaled dot-product attention out of its two products and the softmax between them."""

from __future__ import annotations

import math

from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.rewrite.matcher import Match
from graphc.rewrite.patterns import AnyPattern, Capture, Either, Splat, either, op
from graphc.rewrite.rules import Rule

PRODUCTS = ("matmul", "dot")

_SCORES = op(PRODUCTS, Capture("q"), Capture("k"), keep="scores")


def _scaled(x: AnyPattern) -> Either:
    return either(op("mul", x, Splat(name="factor")), op("div", x, Splat(name="divisor")), x)


def _masked(x: AnyPattern) -> Either:
    hidden = op("select", Capture("mask"), x, Splat(-math.inf))
    return either(op("add", x, Capture("mask")), hidden, x)


_WEIGHTS = op("softmax", _masked(_scaled(_SCORES)), keep="softmax")


def _check(match: Match) -> str | None:
    rank = match.root.result.type.rank
    if rank not in (3, 4):
        return f"the product has rank {rank}, not 3 or 4"
    if match.node("softmax")["axis"] != rank - 1:
        return "the softmax isn't along the keys"
    if any(v.type.rank != rank for v in (match["q"], match["k"], match["v"])):
        return "an operand of a product has no axis for the heads of its own"
    if any(v.type.dtype != match.root.result.type.dtype for v in (match["q"], match["k"], match["v"])):
        return "operands of a product are of another type than its sums"
    for node, contracted in ((match.node("scores"), None), (match.root, rank - 2)):
        if _key_axis(node) is None or (contracted is not None and _key_axis(node) != contracted):
            return f"%{node.result.name} isn't a product over the last axis, batched over all but two"
    return None


def _key_axis(product: Node) -> int | None:
    """The axis of the right operand that is contracted with the left's last one; None for any other product."""
    rank = product.result.type.rank
    if product.op.name == "matmul":
        return rank - 2
    batch = tuple(range(rank - 2))
    if product["lhs_batch"] != batch or product["rhs_batch"] != batch or product["lhs_contract"] != (rank - 1,):
        return None
    axis: int = product["rhs_contract"][0]
    return axis


def _attention(b: Builder, match: Match) -> Value:
    q, k, v = match["q"], match["k"], match["v"]
    rank = q.type.rank
    if _key_axis(match.node("scores")) == rank - 2:
        k = b.transpose(k, (*range(rank - 2), rank - 1, rank - 2))
    operands = [q, k, v, *([match["mask"]] if "mask" in match.values else [])]
    if rank == 3:
        operands = [b.reshape(x, (x.type.shape[0], 1, *x.type.shape[1:])) for x in operands]
    y = b.op("attention", *operands, scale=_scale(match))
    return b.reshape(y, match.root.result.type.shape)


def _scale(match: Match) -> float:
    if "factor" in match.numbers:
        return float(match.number("factor"))
    return 1.0 / float(match.number("divisor")) if "divisor" in match.numbers else 1.0


ATTENTION = Rule(
    "lift-attention",
    "softmax(q k^T * scale + mask) v = attention(q, k, v, mask)",
    op(PRODUCTS, _WEIGHTS, Capture("v")),
    _attention,
    _check,
)
