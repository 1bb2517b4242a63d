from __future__ import annotations

import numpy as np
import pytest

from graphc.errors import UnsupportedOpError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.types import f64
from graphc.ops import find_operator
from graphc.ops.by_decomposition import backpropagate


def test_an_operand_that_stands_twice_gets_its_cotangent_once() -> None:
    b = Builder()
    x, g = b.input("x", f64, (3, 3)), b.input("g", f64, (3, 3))
    node = b.emit("matmul", [x, x])
    first, second = find_operator("matmul").vjp(b, node, [g])
    assert second is None
    array, cotangent = (np.random.default_rng(i).normal(size=(3, 3)) for i in (0, 1))
    (seen,) = interpret(b.returns(first), [array, cotangent])
    np.testing.assert_allclose(seen, cotangent @ array.T + array.T @ cotangent, rtol=1e-13)


def test_no_cotangent_is_asked_of_what_does_not_depend_on_the_operands() -> None:
    b = Builder()
    x, table = b.input("x", f64, (3,)), b.input("table", f64, (3,))
    flat = b.op("floor", table)
    y = b.op("mul", x, flat)
    found = backpropagate(b, b.graph.nodes, {y: b.full_like(1, y)}, [x])
    assert found[x].type == x.type and table not in found and flat not in found


def test_a_node_without_a_gradient_is_named() -> None:
    b = Builder(origin=("encoder/pick",))
    x = b.input("x", f64, (3,))
    body = Builder()
    v = body.input("v", f64, (3,))
    fused = b.emit("fusion", [x], body=body.returns(body.op("sin", v)))
    with pytest.raises(UnsupportedOpError, match=r"fusion") as raised:
        backpropagate(b, [fused], {fused.result: b.full_like(1, x)}, [x])
    assert "encoder/pick" in str(raised.value)
