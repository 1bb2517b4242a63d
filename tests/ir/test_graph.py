"""Editing graphs: use lists stay exact, names unique, orders topological."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Use
from graphc.ir.symbolic import symbol
from graphc.ir.text import print_graph
from graphc.ir.types import f32
from graphc.ir.verifier import verify
from graphc.testing.random_graphs import graphs


def chain():
    b = Builder(Graph("g"))
    x = b.input("x", f32, (2, 3))
    y = b.op("exp", x)
    z = b.op("add", y, y)
    return b.returns(z, y), x, y, z


def test_uses_list_every_reading():
    graph, x, y, z = chain()
    add = z.producer
    assert y.uses == (Use(add, 0), Use(add, 1), Use(graph, 1))
    assert y.users == (add,)
    assert y.is_output
    assert z.is_output
    assert not x.is_output
    assert x.producer is None
    assert z.producer.result is z


def test_replacing_uses():
    graph, x, y, z = chain()
    b = Builder(graph, before=z.producer)
    t = b.op("tanh", x)
    graph.replace_uses(y, t)
    verify(graph)
    assert y.uses == ()
    assert z.producer.operands == (t, t)
    assert graph.outputs == (z, t)
    graph.erase(y.producer)
    verify(graph)
    assert [n.op.name for n in graph.nodes] == ["tanh", "add"]


def test_replacing_some_uses():
    graph, _, y, z = chain()
    t = Builder(graph, before=z.producer).op("neg", y)
    graph.replace_uses(y, t, where=lambda use: use.user is z.producer and use.index == 1)
    verify(graph)
    assert z.producer.operands == (y, t)
    assert graph.outputs == (z, y)


def test_what_is_used_stays():
    graph, x, y, _ = chain()
    with pytest.raises(ValueError, match="still used"):
        graph.erase(y.producer)
    with pytest.raises(ValueError, match="still used"):
        graph.remove_input(x)


def test_removed_names_can_be_taken_again():
    graph, x, y, z = chain()
    graph.set_outputs([y])
    graph.erase(z.producer)
    assert graph.fresh_name("add") == "add"
    assert graph.fresh_name("add") == "add_1"
    graph.set_outputs([])
    graph.erase(y.producer)
    graph.remove_input(x)
    assert graph.inputs == []
    assert graph.add_input("x", x.type).name == "x"


def test_renaming():
    graph, _, _, z = chain()
    graph.rename(z, "exp")
    assert z.name == "exp_1"
    graph.rename(z, "layer 1/out")
    assert z.name == "layer_1_out"
    verify(graph)


def test_a_result_is_only_one():
    b = Builder(Graph())
    values, indices = b.ops("sort", b.input("x", f32, (3,)), axis=0)
    assert (values.name, indices.name) == ("sort.values", "sort.indices")
    with pytest.raises(ValueError, match="unpack"):
        _ = values.producer.result


def test_sort_restores_order():
    graph, x, y, _ = chain()
    late = Builder(graph).op("neg", x)
    graph.set_operand(y.producer, 0, late)
    with pytest.raises(Exception, match="isn't defined above"):
        verify(graph)
    graph.sort()
    verify(graph)
    assert [n.op.name for n in graph.nodes] == ["neg", "exp", "add"]


def test_sort_finds_cycles():
    graph, _, y, z = chain()
    graph.set_operand(y.producer, 0, z)
    with pytest.raises(ValueError, match="cycle"):
        graph.sort()


@settings(max_examples=100, deadline=None)
@given(graphs(), st.randoms(use_true_random=False))
def test_sorting_a_shuffled_graph_makes_it_valid(graph, random):
    random.shuffle(graph._nodes)
    graph.sort()
    verify(graph)


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_a_clone_shares_nothing_that_is_edited(graph):
    before = print_graph(graph)
    copy, mapping = graph.clone("copy")
    for node in copy.nodes:
        for value in node.results:
            copy.rename(value, "other")
    copy.set_outputs([])
    for node in reversed(copy.nodes):
        copy.erase(node)
    assert print_graph(graph) == before
    verify(graph)
    assert len(copy) == 0
    assert all(not mapping[v].uses for v in graph.inputs)


def test_symbols_are_sorted_by_name():
    b = Builder(Graph())
    b.input("x", f32, (symbol("n"), symbol("m")))
    b.input("y", f32, (symbol("a") + symbol("n"),))
    assert list(b.graph.symbols()) == ["a", "m", "n"]


def test_symbols_of_a_node_are_those_a_run_must_know():
    n, m = symbol("n"), symbol("m")
    b = Builder(Graph())
    x = b.input("x", f32, (n, 3))
    head = b.op("slice", b.input("y", f32, (9,)), starts=(0,), limits=(m - m + 2,), strides=(1,))
    assert head.producer.symbols() == frozenset()
    assert {s.name for s in b.op("exp", x).producer.symbols()} == {"n"}
    assert {s.name for s in b.op("dims", values=(n * m,)).producer.symbols()} == {"n", "m"}
    inner = Builder(Graph("body"))
    body = inner.returns(inner.op("reduce_sum", inner.broadcast(inner.scalar(1, f32), (m,), ()), axes=(0,)))
    assert {s.name for s in b.op("fusion", body=body).producer.symbols()} == {"m"}
