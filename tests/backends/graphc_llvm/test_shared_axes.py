"""Nests that run one after another get work items, which several threads do, and compute what they did."""

from __future__ import annotations

import numpy as np
import pytest

import graphc
from graphc.interpreter import interpret
from graphc.ir.symbolic import symbol
from graphc.lowering.loop_body import TileBody
from graphc.lowering.lower import lower
from graphc_llvm import instance, shared_axes
from graphc_llvm.shared_axes import shared

CONCATS = {
    "channels": ("f32[1,14,14,96]", "f32[1,14,14,32]", "f32[1,14,14,128]", 3),
    "channels of any batch": ("f32[n,14,14,96]", "f32[n,14,14,32]", "f32[n,14,14,128]", 3),
    "a cache's next entry": ("f32[2,8,m,64]", "f32[2,8,1,64]", "f32[2,8,m+1,64]", 2),
    "bytes": ("u8[64,700]", "u8[64,324]", "u8[64,1024]", 1),
    "many rows of two parts": ("f32[4096,1,8]", "f32[4096,2,8]", "f32[4096,3,8]", 1),
}
LONELY = {
    "the outermost dim": ("f32[96,64]", "f32[32,64]", "f32[128,64]", 0),
    "few bytes": ("f32[6,10]", "f32[6,11]", "f32[6,21]", 1),
    "rows that nothing divides": ("f32[7,100]", "f32[7,1]", "f32[7,101]", 1),
    "short rows of any number": ("f32[n,10]", "f32[n,11]", "f32[n,21]", 1),
}


def concat(name: str) -> graphc.Graph:
    x, y, z, axis = (CONCATS | LONELY)[name]
    return graphc.parse_graph(f"""
graph @g(%x: {x}, %y: {y}) {{
  %z: {z} = concat(%x, %y) {{axis={axis}}}
  return %z
}}""")


def scatter(rows: int, columns: int) -> graphc.Graph:
    return graphc.parse_graph(f"""
graph @g(%x: f32[{rows},{columns}], %i: i64[{rows},12], %u: f32[{rows},12]) {{
  %z: f32[{rows},{columns}] = scatter_along(%x, %i, %u) {{axis=1, combine="sum"}}
  return %z
}}""")


def inputs(graph: graphc.Graph, **dims: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = []
    for v in graph.inputs:
        shape = v.type.concrete(dims)
        real = v.type.dtype.is_float
        made.append((rng.standard_normal(shape) if real else rng.integers(0, 9, shape)).astype(v.type.dtype.numpy))
    return made


@pytest.mark.parametrize("name", CONCATS)
def test_parts_are_work_items(name: str) -> None:
    body = shared(lower(concat(name)))
    assert isinstance(body, TileBody)
    (axis,) = body.axes
    assert axis.extent == symbol("n", 1) * 196 if "any batch" in name else axis.extent > 1
    assert len(body.loops) == 2


@pytest.mark.parametrize("name", LONELY)
def test_where_parts_would_be_too_small_there_is_one(name: str) -> None:
    body = lower(concat(name))
    assert shared(body) is body


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", [*CONCATS, *LONELY])
def test_concatenations(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "_WORTH_WAKING", 1e-9)
    monkeypatch.setattr(instance, "_WORTH_SHARING", 1e-9)
    graph = concat(name)
    for size in (1, 5):
        given = inputs(graph, n=size, m=size)
        (expected,) = interpret(graph, given)
        np.testing.assert_array_equal(graphc.compile(graph, threads=threads)(*given), expected)


def test_large_scatters_are_shared_along_rows_whose_elements_stay_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared(lower(scatter(16, 300))) == lower(scatter(16, 300))
    monkeypatch.setattr(shared_axes, "SCATTERED_BYTES", 0)
    graph = scatter(16, 300)
    body = shared(lower(graph))
    assert isinstance(body, TileBody)
    assert [a.extent for a in body.axes] == [4]
    given = inputs(graph)
    (expected,) = interpret(graph, given)
    for threads in (1, 2):
        np.testing.assert_allclose(graphc.compile(graph, threads=threads, cache=False)(*given), expected, rtol=1e-6)


def test_rows_that_updates_choose_arent_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_axes, "SCATTERED_BYTES", 0)
    body = lower(
        graphc.parse_graph("""
graph @g(%x: f32[3000,768], %i: i64[128,1], %u: f32[128,768]) {
  %z: f32[3000,768] = scatter_nd(%x, %i, %u) {combine="sum"}
  return %z
}""")
    )
    assert shared(body) is body
