"""The interpreter: whole graphs, symbols bound from shapes, and errors in the user's words."""

import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import NumericError, ShapeError
from graphc.interpreter import bind_dims, interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Guard
from graphc.ir.parser import parse_graph
from graphc.ir.symbolic import symbol
from graphc.ir.text import constants_of, print_graph
from graphc.ir.types import bool_, f16, f32, f64, i32, i64
from graphc.ops import find_operator
from graphc.testing.random_graphs import graphs, random_inputs

n, m = symbol("n"), symbol("m", 2, 8)


def inputs_graph(*shapes, guards=()):
    b = Builder(Graph("g"))
    values = [b.input(f"x{i}", f32, shape) for i, shape in enumerate(shapes)]
    b.graph.guards += guards
    return b.returns(*values)


def test_runs_a_graph_with_symbols():
    b = Builder(Graph())
    x, w = b.input("x", f32, (n, 3)), b.input("w", f32, (3, 2))
    h = b.op("dot", x, w, lhs_batch=(), rhs_batch=(), lhs_contract=(1,), rhs_contract=(0,))
    graph = b.returns(b.reduce("reduce_max", h, [0], keep=True), b.op("dims", values=(2 * n + 1,)))
    rng = np.random.default_rng(0)
    for rows in (1, 5):
        x_, w_ = (rng.normal(size=s).astype(np.float32) for s in ((rows, 3), (3, 2)))
        y, d = interpret(graph, [x_, w_])
        np.testing.assert_allclose(y, np.broadcast_to((x_ @ w_).max(0), (rows, 2)), rtol=1e-6)
        assert d.tolist() == [2 * rows + 1]
        again = interpret(graph, {"w": w_, "x": x_})
        assert np.array_equal(again[0], y)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 5), st.integers(1, 5))
def test_the_text_of_a_graph_computes_the_same(graph, n, m):
    inputs = random_inputs(graph, {"n": n, "m": m})
    again = parse_graph(print_graph(graph), constants=constants_of(graph))
    for a, b in zip(interpret(graph, inputs), interpret(again, inputs), strict=True):
        assert a.tobytes() == b.tobytes()


def test_watch_sees_every_value_once():
    graph = parse_graph("graph @g(%x: f32[2]) {\n  %y: f32[2] = exp(%x)\n  %z: f32[2] = neg(%y)\n  return %z\n}\n")
    seen = {}
    interpret(graph, [np.zeros(2, np.float32)], watch=lambda v, a: seen.setdefault(v.name, a.tolist()))
    assert seen == {"x": [0, 0], "y": [1, 1], "z": [-1, -1]}


def test_outputs_are_fresh_memory():
    b = Builder(Graph())
    x = b.input("x", f32, (2, 3))
    constant = b.constant(np.ones(3, np.float32))
    t = b.transpose(x, (1, 0))
    outputs = interpret(b.returns(x, x, t, constant), [array := np.ones((2, 3), np.float32)])
    for i, y in enumerate(outputs):
        assert y.flags.writeable
        assert y.flags.c_contiguous
        assert not np.shares_memory(y, array)
        assert not any(np.shares_memory(y, z) for z in outputs[:i])


def test_intermediates_are_dropped_after_their_last_use():
    b = Builder(Graph())
    x = b.input("x", f32, (1 << 20,))
    y = x
    for _ in range(30):
        y = b.op("neg", y)
    graph, array = b.returns(y), np.zeros(1 << 20, np.float32)
    tracemalloc.start()
    interpret(graph, [array])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * array.nbytes


# Symbols


def test_symbols_are_solved_from_expressions():
    assert bind_dims(inputs_graph((2 * n + 1,)), [(7,)]) == {"n": 3}
    assert bind_dims(inputs_graph((n + m,), (m,)), [(7,), (4,)]) == {"n": 3, "m": 4}
    assert bind_dims(inputs_graph((n * m,), (m,)), [(12,), (4,)]) == {"n": 3, "m": 4}
    assert bind_dims(inputs_graph(()), [()]) == {}


@pytest.mark.parametrize(
    ("shapes", "given", "match", "seen", "expected"),
    [
        ([(2, 3)], [(2, 4)], "dim 1 of input x0", "4", "3"),
        ([(2, 3)], [(2,)], "rank of input x0", "[2]", "f32[2,3]"),
        ([(n,), (n,)], [(2,), (3,)], "dim 0 of input x1", "3", "2 (n with n = 2)"),
        ([(2 * n,)], [(7,)], "dim 0 of input x0", "7", "6 (2*n with n = 3)"),
        ([(n,)], [(0,)], "dim 0 of input x0", "0", "1 <= n"),
        ([(m,)], [(9,)], "dim 0 of input x0", "9", "2 <= m <= 8"),
        ([(m,)], [(1,)], "dim 0 of input x0", "1", "2 <= m <= 8"),
        ([(n + m,)], [(5,)], "doesn't determine its symbols", "5", "m + n"),
        ([(n % 3,)], [(2,)], "doesn't determine its symbols", "2", "((n)%3)"),
        ([(n,), (n * n,)], [(3,), (8,)], "dim 0 of input x1", "8", "9 (n*n with n = 3)"),
    ],
)
def test_shapes_that_dont_fit(shapes, given, match, seen, expected):
    with pytest.raises(ShapeError, match=match) as e:
        bind_dims(inputs_graph(*shapes), given)
    assert e.value.seen == seen
    assert e.value.expected == expected


def test_guards_are_checked():
    graph = inputs_graph((n, m), guards=[Guard(n, m + 1)])
    assert bind_dims(graph, [(4, 3)]) == {"n": 4, "m": 3}
    with pytest.raises(ShapeError, match="assumes n == m \\+ 1") as e:
        bind_dims(graph, [(4, 4)])
    assert e.value.seen == "4 and 5, with m = 4, n = 4"


def test_slices_of_symbolic_length_are_guarded():
    b = Builder(Graph())
    x = b.input("x", f32, (n,))
    graph = b.returns(b.op("slice", x, starts=(0,), limits=(3,), strides=(1,)))
    assert interpret(graph, [np.ones(5, np.float32)])[0].shape == (3,)
    with pytest.raises(ShapeError, match="assumes"):
        interpret(graph, [np.ones(2, np.float32)])


# Errors


def test_wrong_inputs():
    graph = inputs_graph((2,), (3,))
    x, y = np.zeros(2, np.float32), np.zeros(3, np.float32)
    with pytest.raises(ShapeError, match="number of inputs"):
        interpret(graph, [x])
    with pytest.raises(ShapeError, match="inputs by name"):
        interpret(graph, {"x0": x, "y": y})
    with pytest.raises(ShapeError, match="element type of input x1"):
        interpret(graph, [x, y.astype(np.float64)])


def test_numeric_errors_name_layer_and_operator():
    b = Builder(Graph(), origin=("decoder/ratio",))
    x, y = b.input("x", i32, (2,)), b.input("y", i32, (2,))
    graph = b.returns(b.op("div", x, y))
    with pytest.raises(NumericError, match="div: integer division by zero") as e:
        interpret(graph, [np.ones(2, np.int32), np.array([1, 0], np.int32)])
    assert e.value.layer == "decoder/ratio"
    with pytest.raises(NumericError, match="overflows"):
        interpret(graph, [np.array([-(2**31), 1], np.int32), np.array([-1, 1], np.int32)])


@pytest.mark.parametrize("op", ["reduce_max", "reduce_min"])
def test_extremes_of_nothing_raise(op):
    b = Builder(Graph())
    graph = b.returns(b.op(op, b.input("x", f32, (symbol("z", 0), 2)), axes=(0,)))
    assert interpret(graph, [np.ones((1, 2), np.float32)])[0].tolist() == [1, 1]
    with pytest.raises(NumericError, match=op):
        interpret(graph, [np.ones((0, 2), np.float32)])


@pytest.mark.parametrize("index", [-1, 3])
def test_bad_indices_raise(index):
    b = Builder(Graph())
    graph = b.returns(b.op("gather", b.input("x", f32, (3,)), b.input("i", i64, ()), axis=0))
    with pytest.raises(NumericError, match="gather: index into axis 0 out of range") as e:
        interpret(graph, [np.ones(3, np.float32), np.array(index)])
    assert e.value.seen == str(index)


def test_no_warnings_even_under_numpys_strictest_settings():
    b = Builder(Graph())
    x = b.input("x", f32, (4,))
    i = b.input("i", i32, ())
    outputs = [b.op(f, x) for f in ("log", "sqrt", "exp", "rsqrt", "acosh", "tan")]
    outputs += [b.op("div", x, b.full_like(0, x)), b.op("pow", x, x), b.cast(x, f16), b.cast(x, i32), b.cast(x, bool_)]
    outputs += [b.op("mul", i, i), b.op("neg", i), b.op("reduce_sum", x, axes=(0,)), b.cast(x, f64)]
    graph = b.returns(*outputs)
    inputs = [np.array([np.nan, np.inf, -1e38, 3e38], np.float32), np.array(-(2**31), np.int32)]
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        interpret(graph, inputs)


def test_a_reference_that_breaks_its_type_is_found():
    liar = replace(find_operator("exp"), reference=lambda x, a: (x[0].astype(np.float64),))
    b = Builder(Graph())
    graph = b.returns(b.op(liar, b.input("x", f32, (2,))))
    with pytest.raises(ShapeError, match="isn't what inference says"):
        interpret(graph, [np.zeros(2, np.float32)])


def test_regions_use_the_symbols_around_them():
    inner = Builder(Graph("body"))
    a = inner.input("a", f32, ())
    body = inner.returns(inner.broadcast(a, (n, 2), ()))
    b = Builder(Graph())
    x, s = b.input("x", f32, (n,)), b.input("s", f32, ())
    graph = b.returns(b.op("fusion", s, body=body), x)
    y, _ = interpret(graph, [np.zeros(3, np.float32), np.array(7, np.float32)])
    assert y.tolist() == [[7, 7]] * 3


def test_bits_depend_on_values_and_not_on_the_order_of_memory():
    """A transposed view and its copy give the same sum, though NumPy adds them up in another order."""
    b = Builder(Graph("g"))
    x = b.input("x", f32, (64, 96))
    y = b.input("y", f32, (96, 64))
    view = b.transpose(y, (1, 0))
    results = [b.op("reduce_sum", view, axes=(0, 1)), b.op("matmul", view, y), b.op("exp", view)]
    graph = b.returns(*results, *(b.op(*p) for p in [("matmul", x, y), ("exp", x)]), b.op("reduce_sum", x, axes=(0, 1)))
    y_data = np.random.default_rng(0).standard_normal((96, 64)).astype(np.float32)
    s1, p1, e1, p2, e2, s2 = interpret(graph, [y_data.T.copy(), y_data])
    for seen, expected in [(s1, s2), (p1, p2), (e1, e2)]:
        np.testing.assert_array_equal(seen, expected)
