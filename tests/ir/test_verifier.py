"""Each rule of the verifier, broken once."""

import numpy as np
import pytest

from graphc.errors import ShapeError, VerifyError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Guard, Node, Value
from graphc.ir.symbolic import symbol
from graphc.ir.types import TensorType, f32, f64, i64
from graphc.ir.verifier import verify
from graphc.ops import find_operator

n, m = symbol("n"), symbol("m")


def small():
    b = Builder(Graph("g"), origin=("encoder/fc1",))
    x = b.input("x", f32, (n, 3))
    y = b.op("exp", x)
    return b.returns(b.op("add", x, y)), x, y


def refuse(graph, match):
    with pytest.raises(VerifyError, match=match) as e:
        verify(graph)
    return e.value


def test_a_valid_graph_passes():
    verify(small()[0])


def test_stored_types_must_be_the_inferred_ones():
    graph, _, y = small()
    y.type = TensorType(f32, (n, 4))
    error = refuse(graph, "inference says")
    assert error.layer == "encoder/fc1"
    assert "exp" in error.seen


def test_dtypes_count():
    graph, _, y = small()
    y.type = TensorType(f64, (n, 3))
    refuse(graph, "inference says")


def test_definitions_stand_above_uses():
    graph, _, _ = small()
    graph._nodes.reverse()
    refuse(graph, "isn't defined above")


def test_operands_come_from_the_same_graph():
    graph, x, y = small()
    other = Value("x2", x.type)
    graph.set_operand(y.producer, 0, other)
    refuse(graph, "isn't defined above")


def test_outputs_are_defined():
    graph, x, _ = small()
    graph.set_outputs([Value("elsewhere", x.type)])
    refuse(graph, "doesn't define")


def test_names_are_unique():
    graph, x, y = small()
    y.name = x.name
    refuse(graph, "stands twice")


def test_use_lists_are_exact():
    graph, x, _ = small()
    x._uses.popitem()
    refuse(graph, "use list of %x")


def test_attributes_are_complete_and_known():
    graph, _, y = small()
    y.producer.attributes["axis"] = 1
    refuse(graph, "no attribute axis")
    b = Builder(Graph())
    out = b.op("cumsum", b.input("x", f32, (3,)), axis=0)
    del out.producer.attributes["reverse"]
    refuse(b.returns(out), "attributes aren't complete")


def test_operand_counts():
    graph, x, _ = small()
    node = Node(find_operator("add"), [x], {}, [x.type], [graph.fresh_name("a")])
    graph.insert(node)
    refuse(graph, r"takes \(x, y\), not 1")


def test_assumptions_are_listed():
    b = Builder(Graph())
    out = b.op("add", b.input("x", f32, (n,)), b.input("y", f32, (m,)))
    graph = b.returns(out)
    assert graph.guards == [Guard(n, m)]
    verify(graph)
    graph.guards[:] = [Guard(m, n)]
    verify(graph)
    graph.guards.clear()
    refuse(graph, "assumes n == m")


def test_symbols_come_from_inputs():
    b = Builder(Graph())
    b.input("x", f32, (n,))
    refuse(b.returns(b.op("iota", dtype=f32, shape=(m,), axis=0)), "uses symbol m")
    b = Builder(Graph())
    b.input("x", f32, (n,))
    refuse(b.returns(b.op("dims", values=(m + n,))), "attribute values uses symbol m")
    b = Builder(Graph())
    b.graph.guards.append(Guard(n, m))
    b.input("x", f32, (n,))
    refuse(b.returns(), "uses m, which no input defines")


def test_a_symbol_has_one_range():
    b = Builder(Graph())
    x = b.input("x", f32, (n,))
    b.input("y", f32, (symbol("n", 0),))
    refuse(b.returns(x), "two ranges")


@pytest.mark.parametrize("name", ["a b", "if", "min", "2n", "", "größe", "n.m"])
def test_symbol_names_are_identifiers(name):
    b = Builder(Graph())
    refuse(b.returns(b.input("x", f32, (symbol(name),))), "isn't an identifier")


def test_symbols_have_constant_bounds():
    b = Builder(Graph())
    x = b.input("x", f32, (n, symbol("k", 1, n)))
    refuse(b.returns(x), "symbolic bound")


def test_dims_are_not_negative():
    b = Builder(Graph())
    refuse(b.returns(b.input("x", f32, (-1,))), "negative dim")


def test_regions_are_verified_and_may_use_symbols_from_around():
    inner = Builder(Graph("body"))
    a = inner.input("a", f32, ())
    body = inner.returns(inner.broadcast(a, (n,), ()))
    with pytest.raises(VerifyError, match="uses symbol n"):
        verify(body)
    b = Builder(Graph())
    x, s = b.input("x", f32, (n,)), b.input("s", f32, ())
    graph = b.returns(b.op("fusion", s, body=body), x)
    verify(graph)
    body.outputs[0].type = TensorType(f32, (7,))
    refuse(graph, "inference says")


def test_building_refuses_what_inference_refuses():
    b = Builder(Graph(), origin=("head",))
    x, y = b.input("x", f32, (2, 3)), b.input("y", f32, (3, 2))
    with pytest.raises(ShapeError, match="add: dim 0 of operands must be equal") as e:
        b.op("add", x, y)
    assert e.value.layer == "head"
    with pytest.raises(ShapeError, match="same shape"):
        b.op("add", x, b.input("z", f32, (3,)))
    with pytest.raises(ShapeError, match="one element type"):
        b.op("add", x, b.input("w", f64, (2, 3)))
    with pytest.raises(ShapeError, match="element type"):
        b.op("exp", b.input("i", i64, (2, 3)))
    with pytest.raises(TypeError, match="has no attribute"):
        b.op("exp", x, axis=1)
    with pytest.raises(TypeError, match="needs attribute axis"):
        b.op("cumsum", x)
    with pytest.raises(TypeError, match="of kind int"):
        b.op("cumsum", x, axis="0")
    with pytest.raises(TypeError, match="takes"):
        b.op("exp", x, y)
    with pytest.raises(KeyError):
        b.op("no_such_operator", x)
    assert len(b.graph) == 0
    verify(b.returns(x))


def test_builder_helpers_leave_out_what_changes_nothing():
    b = Builder(Graph())
    x = b.input("x", f32, (2, 3))
    assert b.broadcast(x, (2, 3), (0, 1)) is x
    assert b.reshape(x, (2, 3)) is x
    assert b.transpose(x, (0, 1)) is x
    assert b.cast(x, f32) is x
    kept = b.reduce("reduce_sum", x, [1], keep=True)
    assert kept.type == x.type
    assert b.full_like(0, x).type == x.type
    assert b.scalar(1, f32).producer["value"].array == np.float32(1)
    verify(b.returns(kept))
