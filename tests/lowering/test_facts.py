"""What backends ask of bodies: the order of their work, their symbols, their scratch, in text of other languages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphc
from graphc.ir.graph import Graph
from graphc.ir.symbolic import Dim, evaluate, maximum, minimum, symbol
from graphc.ir.types import DTYPES
from graphc.lowering.facts import dimensions, identity, loops, phases, scratch_sizes
from graphc.lowering.loop_body import LoopBody, Reduce
from graphc.lowering.lower import lower
from graphc.lowering.spell import Spelling


def body(text: str, kind: str = "loop"):
    graph: Graph = graphc.parse_graph(f"graph @g({text}")
    return lower(graph, kind)


MEAN = """%x: f32[n,m], %k: f32[n]) {
  %e: f32[n,m] = exp(%x)
  %s: f32[n] = reduce_sum(%e) {axes=[1]}
  %r: f32[n] = sqrt(%s)
  %y: f32[n] = mul(%r, %k)
  return %y
}"""


def test_statements_run_before_during_and_after_the_reductions() -> None:
    found = body(MEAN)
    order = phases(found)
    named = [[type(s).__name__ + getattr(s, "op", "") for s in p] for p in (order.before, order.during, order.after)]
    assert named[1] == ["Load", "Applyexp", "Reduce"]
    assert "Applysqrt" in named[2] and "Applymul" in named[2] and named[2][-1] == "Store"
    assert sorted(map(id, (*order.before, *order.during, *order.after))) == sorted(map(id, found.statements))


def test_a_scan_runs_all_at_every_point_and_a_map_all_before() -> None:
    scan = body("%x: f32[n,4]) {\n  %y: f32[n,4] = cumsum(%x) {axis=1, exclusive=false, reverse=false}\n  return %y\n}")
    assert isinstance(scan, LoopBody) and phases(scan).during == scan.statements
    plain = body("%x: f32[n,4]) {\n  %y: f32[n,4] = neg(%x)\n  return %y\n}")
    assert isinstance(plain, LoopBody) and phases(plain).before == plain.statements


def test_dimensions_are_symbols_but_no_axes_or_values() -> None:
    assert [s.name for s in dimensions(body(MEAN))] == ["m", "n"]
    gathered = body("%x: f32[n,4], %i: i64[k]) {\n  %y: f32[k,4] = gather(%x, %i) {axis=0}\n  return %y\n}")
    assert [s.name for s in dimensions(gathered)] == ["k", "n"]


def test_scratch_lies_in_multiples_of_64_bytes() -> None:
    tile = body(
        """%x: f32[n,m]) {
  %t: f32[n] = reduce_max(%x) {axes=[1]}
  %b: f32[n,m] = broadcast(%t) {shape=[n,m], axes=[0]}
  %d: f32[n,m] = sub(%x, %b)
  %e: f32[n,m] = exp(%d)
  %s: f32[n] = reduce_sum(%e) {axes=[1]}
  %c: f32[n,m] = broadcast(%s) {shape=[n,m], axes=[0]}
  %y: f32[n,m] = div(%e, %c)
  return %y
}""",
        "tile",
    )
    assert len(loops(tile)) > 1
    sizes = scratch_sizes(tile)
    assert len(sizes) == sum(b.access == "scratch" for b in tile.buffers) > 0
    assert all(evaluate(s, {"n": 5, "m": m}) % 64 == 0 for s in sizes for m in (1, 16, 17))


NUMBERS = [(kind, name) for kind in ("sum", "prod", "max", "min") for name in ("f32", "i8", "u16", "i64")]


@pytest.mark.parametrize(("kind", "name"), [*NUMBERS, ("max", "bool"), ("min", "bool")])
def test_reductions_start_from_what_changes_nothing(kind: str, name: str) -> None:
    dtype = DTYPES[name]
    start = np.array(identity(Reduce("v0", dtype, kind, "v1")), dtype.numpy)  # type: ignore[arg-type]
    fold = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[kind]
    values = np.array([0, 1, 3, 100]).astype(dtype.numpy)
    np.testing.assert_array_equal(fold(start, values), values)


i, n = symbol("i", 0), symbol("n")
ATOMS: tuple[Dim, ...] = (i, n, 0, 1, -3, 7)


def combined(inner: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
    pairs = st.tuples(inner, inner)
    divisors = st.sampled_from((2, 5, n))
    return st.one_of(
        pairs.map(lambda p: p[0] + p[1]),
        pairs.map(lambda p: p[0] - 2 * p[1]),
        pairs.map(lambda p: minimum(*p)),
        pairs.map(lambda p: maximum(*p)),
        st.tuples(inner, divisors).map(lambda p: p[0] // p[1]),
        st.tuples(inner, divisors).map(lambda p: p[0] % p[1]),
        inner.map(lambda e: e * i),
    )


@given(st.recursive(st.sampled_from(ATOMS), combined, max_leaves=8), st.integers(0, 9), st.integers(1, 9))
def test_spelled_expressions_mean_the_same(e: Dim, at_i: int, at_n: int) -> None:
    names = {"floordiv": lambda a, b: a // b, "mod": lambda a, b: a % b, "min": min, "max": max, "i": at_i, "n": at_n}
    assert eval(Spelling()(e), {}, names) == evaluate(e, {"i": at_i, "n": at_n})
