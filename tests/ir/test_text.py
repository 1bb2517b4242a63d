"""The text form: printing, parsing back, and refusing what isn't a graph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import VerifyError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Guard
from graphc.ir.parser import parse_graph
from graphc.ir.symbolic import ceildiv, maximum, minimum, symbol
from graphc.ir.tensor_data import TensorData
from graphc.ir.text import constants_of, float_text, operators_of, print_graph, same_graph
from graphc.ir.types import DTYPES, FLOATS, bf16, f16, f32, f64, i64
from graphc.ir.verifier import verify
from graphc.testing.random_graphs import graphs

MLP = """\
graph @mlp(%x: f32[batch,4], %w: f32[4,2]) where batch <= 64 {
  %h: f32[batch,2] = dot(%x, %w) {lhs_contract=[1], rhs_contract=[0]} from "fc1"
  %y: f32[batch,2] = tanh(%h) from "act", "fc1"
  return %y
}
"""


def round_trip(graph):
    text = print_graph(graph)
    again = parse_graph(text, constants=constants_of(graph))
    assert print_graph(again) == text
    verify(again)
    return again


def test_a_graph_reads_as_it_is_written():
    graph = parse_graph(MLP)
    verify(graph)
    assert print_graph(graph) == MLP
    (batch,) = graph.symbols().values()
    assert (batch.name, batch.low, batch.high) == ("batch", 1, 64)
    assert [n.op.name for n in graph.nodes] == ["dot", "tanh"]
    assert graph.nodes[1].origin == ("act", "fc1")
    assert operators_of(graph) == {"dot": 1, "tanh": 1}


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_random_graphs_round_trip(graph):
    verify(graph)
    again = round_trip(graph)
    assert same_graph(graph, again)
    copy, mapping = graph.clone()
    verify(copy)
    assert print_graph(copy) == print_graph(graph)
    assert set(mapping) == set(graph.values())


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_float_text_reads_back(value):
    assert np.array_equal(float(float_text(value)), value, equal_nan=True)
    assert np.signbit(float(float_text(value))) == np.signbit(value) or np.isnan(value)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 2), (5, 5)])
def test_constants_of_every_type_read_back_bit_for_bit(dtype, shape):
    rng = np.random.default_rng(3)
    raw = rng.integers(0, 256, (int(np.prod(shape)), dtype.bytes), dtype=np.uint8)
    array = (raw[:, 0] % 2 == 0) if dtype.is_bool else raw.reshape(-1).view(dtype.numpy)
    graph = Graph()
    b = Builder(graph)
    b.returns(b.constant(array.reshape(shape)))
    (node,) = round_trip(graph).nodes
    assert node["value"] == graph.nodes[0]["value"]
    assert node["value"].array.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_special_floats_in_constants(dtype):
    array = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-6], dtype.numpy)
    for part in (array, array[2:]):
        b = Builder(Graph())
        graph = b.returns(b.constant(part))
        assert round_trip(graph).nodes[0]["value"].array.tobytes() == part.tobytes()


def test_integer_extremes_in_constants():
    for dtype in ("i64", "u64"):
        info = np.iinfo(DTYPES[dtype].numpy)
        b = Builder(Graph())
        graph = b.returns(b.constant(np.array([info.min, info.max], info.dtype)))
        assert round_trip(graph).nodes[0]["value"].array.tolist() == [info.min, info.max]


def test_big_constants_print_as_digests_and_are_found_beside():
    b = Builder(Graph())
    weights = np.arange(17, dtype=np.float32)
    graph = b.returns(b.constant(weights))
    text = print_graph(graph)
    digest = TensorData(weights).digest
    assert f"sha256:{digest}" in text
    assert constants_of(graph) == {digest: TensorData(weights)}
    with pytest.raises(VerifyError, match="parsed") as e:
        parse_graph(text)
    assert "beside" in e.value.expected


def test_symbolic_dims_ranges_and_guards():
    n, m, k = symbol("n", 0), symbol("m", 2, 9), symbol("k")
    b = Builder(Graph("g"))
    x, y = b.input("x", f32, (n, m, k)), b.input("y", f32, (ceildiv(n + 1, 2), minimum(m, k), maximum(n, k), n * m + k))
    b.graph.guards.append(Guard(minimum(n, m), n))
    b.graph.guards.append(Guard(n * k, maximum(m, 3)))
    again = round_trip(b.returns(x, y))
    assert again.guards == b.graph.guards
    assert [v.type for v in again.inputs] == [x.type, y.type]
    assert again.symbols() == b.graph.symbols()


def test_attributes_with_symbolic_dims():
    n = symbol("n", 4)
    b = Builder(Graph())
    x = b.input("x", f32, (n, 3))
    y = b.op("slice", x, starts=(minimum(n, 2), 0), limits=(n, 3), strides=(2, 1))
    values, indices = b.ops("top_k", x, axis=0, k=minimum(n, 7))
    round_trip(b.returns(y, values, indices, b.op("dims", values=(n, n * 2 + 1, minimum(n, 5)))))


def test_regions_and_names():
    inner = Builder(Graph("body"))
    body = inner.returns(inner.op("exp", inner.input("a", f64, (symbol("n", 3),))))
    b = Builder(Graph("a graph (named) by someone's exporter"), origin=('quoted "layer"', "naïve\n"))
    x = b.input("weird/name:0", f64, (symbol("n", 3),))
    (y,) = b.ops("fusion", x, body=body, kind="loop")
    again = round_trip(b.returns(y, x))
    assert again.inputs[0].name == "weird_name_0"
    assert again.nodes[0].origin == ('quoted "layer"', "naïve\n")
    assert print_graph(again.nodes[0]["body"]) == print_graph(body)


def test_ranges_of_a_region_end_with_it():
    outer = """\
graph @main(%x: f32[n]) where n >= 5 {
  %y: f32[n] = fusion(%x) [
    body=graph @body(%a: f32[n]) where n >= 5, m >= 7 {
      return %a
    }
  ]
  %z: f32[m] = iota() {dtype=f32, shape=[m], axis=0}
  return %y
}
"""
    graph = parse_graph(outer)
    symbols = {s.name: s.low for s in graph.inputs[0].type.symbols()}
    assert symbols == {"n": 5}
    assert graph.symbols()["m"].low == 1


def test_texts_without_origins_compare_structure():
    a = parse_graph(MLP)
    b = parse_graph(MLP.replace('from "fc1"', 'from "fc2"'))
    assert not same_graph(a, b)
    assert print_graph(a, origins=False) == print_graph(b, origins=False)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("tanh", "no_such_operator", "a known operator"),
        ("%h)", "%q)", "a value defined above"),
        ("f32[batch,2] = tanh", "f33[batch,2] = tanh", "an element type"),
        ("%y: f32", "%x: f32", "a value name that isn't taken"),
        ("lhs_contract=[1]", "lhs=[1]", "an attribute of dot"),
        ("tanh(%h)", "cumsum(%h)", "needs attribute axis"),
        ("rhs_contract=[0]", "rhs_contract=[a]", "well-formed"),
        ("f32[batch,4]", "f32[batch+,4]", "an integer expression"),
        ("f32[batch,4]", "f32[batch,4", "an integer expression"),
        ("return %y\n}", "return %y\n", "}"),
        ("}\n", "}\nmore", "the end of the text"),
        ("graph @mlp", "grape @mlp", "graph"),
        ("batch <= 64", "batch ~ 64", "a range or an equality"),
    ],
)
def test_refusals_say_line_and_expectation(old, new, expected):
    assert old in MLP
    with pytest.raises(VerifyError, match="parsed") as e:
        parse_graph(MLP.replace(old, new, 1))
    assert expected in e.value.expected
    assert "line" in e.value.seen


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_text_is_refused_or_read_but_never_crashes(data):
    text = print_graph(parse_graph(MLP))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        drop = data.draw(st.integers(0, 12))
        text = (
            text[:at]
            + data.draw(st.text(alphabet='[](){},:=%@"\\ \n-+*/0123456789abefinstx.', max_size=6))
            + text[at + drop :]
        )
    try:
        parse_graph(text)
    except VerifyError as e:
        assert "parsed" in e.what


def test_deeply_nested_dims_are_refused():
    with pytest.raises(VerifyError):
        parse_graph(MLP.replace("batch,4", "(" * 5000 + "batch" + ")" * 5000 + ",4"))


def test_half_types_in_attributes_and_types():
    b = Builder(Graph())
    x = b.input("x", bf16, (2,))
    round_trip(b.returns(b.cast(x, f16), b.cast(x, i64)))
