"""Gradients over symbolic dims: one verified graph serves several sizes, with the values that static ones give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.opdef import NotDifferentiable
from graphc.ir.symbolic import Dim, substitute, symbol
from graphc.ir.types import f64
from graphc.ir.verifier import verify

N, H = symbol("n"), symbol("h", 6)
WINDOWS = {"axes": (2, 3), "window": (3, 3), "strides": (2, 2), "padding": (1, 1, 1, 1), "dilation": (1, 1)}
SLIDE = {"strides": (2, 2), "padding": (1, 1, 1, 1), "dilation": (1, 1)}

CASES: list[tuple[str, list[tuple[Dim, ...]], dict[str, Any]]] = [
    ("matmul", [(N, H, 3), (3, 5)], {}),
    ("conv", [(N, 4, H, H), (6, 4, 3, 3)], SLIDE),
    ("window_sum", [(N, 4, H, H)], WINDOWS),
    ("max_pool", [(N, 4, H, H)], WINDOWS),
    ("average_pool", [(N, 4, H, H)], WINDOWS),
    ("layer_norm", [(N, H), (H,), (H,)], {"axis": 1}),
    ("group_norm", [(N, 4, H), (4,), (4,)], {"groups": 2}),
    ("softmax", [(N, H)], {"axis": 1}),
    ("attention", [(N, 2, H, 4)] * 3, {"scale": 0.5, "causal": True}),
    ("resize", [(N, 2, H, H)], {"axes": (2, 3), "sizes": (H * 2, H * 2), "mode": "linear"}),
    ("lrn", [(N, 5, H)], {"size": 3}),
    ("lstm", [(H, N, 3), (8, 3), (8, 2), (8,), (N, 2), (N, 2)], {}),
]


def gradients(op: str, shapes: list[tuple[Dim, ...]], attributes: dict[str, Any]) -> Graph:
    """Operands to their cotangents, for a cotangent of ones."""
    b = Builder()
    node = b.emit(op, [b.input(f"x{i}", f64, s) for i, s in enumerate(shapes)], **attributes)
    assert not isinstance(node.op.vjp, NotDifferentiable)
    found = node.op.vjp(b, node, [b.full_like(1, r) for r in node.results])
    graph = b.returns(*(c for c in found if c is not None))
    verify(graph)
    return graph


def at(dims: dict[str, int], shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    return tuple(substitute(d, dims) for d in shape)


@pytest.mark.parametrize(("op", "shapes", "attributes"), CASES, ids=[c[0] for c in CASES])
def test_equal_those_of_static_sizes(op: str, shapes: list[tuple[Dim, ...]], attributes: dict[str, Any]) -> None:
    symbolic = gradients(op, shapes, attributes)
    for dims in ({"n": 2, "h": 7}, {"n": 3, "h": 8}):
        given = {k: at(dims, v) if k == "sizes" else v for k, v in attributes.items()}
        static = gradients(op, [at(dims, s) for s in shapes], given)
        arrays = [np.random.default_rng(i).normal(size=v.type.shape) for i, v in enumerate(static.inputs)]
        for seen, expected in zip(interpret(symbolic, arrays), interpret(static, arrays), strict=True):
            np.testing.assert_allclose(seen, expected, rtol=1e-12, atol=1e-13)
