"""The functions that kernels call, against NumPy's in double precision."""

from collections.abc import Callable

import numpy as np
import pytest

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.text import print_graph
from graphc.ir.types import f32, i8, i32
from graphc.testing.worker import Call, run_graph

TINY = float(np.finfo(np.float32).tiny)
POINTS = np.concatenate([np.linspace(-104, 88, 4001), np.linspace(-1, 1, 4001), np.logspace(-30, 0, 301)])


def unary(name: str, **attributes: object) -> Graph:
    b = Builder()
    return b.returns(b.op(name, b.input("x", f32, (len(POINTS),)), **attributes))


@pytest.mark.parametrize(
    ("name", "exact"),
    [("exp", np.exp), ("tanh", np.tanh), ("sigmoid", lambda x: 1 / (1 + np.exp(-x)))],
    ids=["exp", "tanh", "sigmoid"],
)
def test_functions_err_by_less_than_4_units(interpreted: Call, name: str, exact: Callable) -> None:
    x = POINTS.astype(np.float32)
    (seen,) = interpreted(run_graph, print_graph(unary(name)), {}, (x,), "triton")
    wanted = exact(x.astype(np.float64))
    units = np.abs(seen - wanted) / np.spacing(np.maximum(np.abs(wanted), TINY).astype(np.float32))
    assert units.max() < 4


@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid"])
def test_functions_at_the_edges(interpreted: Call, name: str) -> None:
    b = Builder()
    graph = b.returns(b.op(name, b.input("x", f32, (7,))))
    x = np.array([np.nan, np.inf, -np.inf, 0, 1e30, -1e30, 1e-40], np.float32)
    (seen,) = interpreted(run_graph, print_graph(graph), {}, (x,), "triton")
    with np.errstate(all="ignore"):
        (wanted,) = interpret(graph, [x])
    np.testing.assert_allclose(seen, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["round", "sign", "floor"])
def test_steps_are_exact(interpreted: Call, name: str) -> None:
    b = Builder()
    graph = b.returns(b.op(name, b.input("x", f32, (9,))))
    x = np.array([-2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5, 16777215.0, np.nan], np.float32)
    (seen,) = interpreted(run_graph, print_graph(graph), {}, (x,), "triton")
    np.testing.assert_array_equal(seen, interpret(graph, [x])[0])


@pytest.mark.parametrize("dtype", [i8, i32], ids=str)
def test_conversions_to_integers_saturate(interpreted: Call, dtype: object) -> None:
    b = Builder()
    graph = b.returns(b.op("cast", b.input("x", f32, (8,)), dtype=dtype))
    x = np.array([np.nan, np.inf, -np.inf, 3e9, -3e9, 1.9, -1.9, 127.5], np.float32)
    (seen,) = interpreted(run_graph, print_graph(graph), {}, (x,), "triton")
    np.testing.assert_array_equal(seen, interpret(graph, [x])[0])
