"""Measured choices: the fastest is taken, remembered by the node's structure, and results stay what they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc.errors import GraphcError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import Dim, free_symbols, symbol
from graphc.ir.types import f32
from graphc.pipeline import PassContext
from graphc_llvm import tuning
from graphc_llvm.cache import Cache
from graphc_llvm.choices import PREDICTED, Fixed
from graphc_llvm.contraction import tile_heights
from graphc_llvm.target import host_target
from graphc_llvm.tuning import Measured, alone, assumed_sizes, best, form_of, fusion_alone


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuning, "SECONDS", 0.0)
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    monkeypatch.setattr(tuning, "TRIES", 1)
    return tmp_path


def network(batch: Dim = 1, seed: int = 0) -> Graph:
    """A 3x3 convolution by weights and a dense layer on its channels."""
    rng = np.random.default_rng(seed)
    b = Builder()
    x = b.input("x", f32, (batch, 12, 12, 32))
    k = b.constant(rng.standard_normal((3, 3, 32, 40)).astype(np.float32))
    y = b.op(
        "conv", x, k, strides=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1), layout="channels_last", kernel_layout="io"
    )
    w = b.constant(rng.standard_normal((40, 70)).astype(np.float32))
    return b.returns(b.op("relu", b.op("dot", y, w, lhs_contract=(3,), rhs_contract=(0,))))


def dense(rows: Dim, terms: int, columns: int) -> Graph:
    b = Builder()
    w = np.random.default_rng(0).standard_normal((terms, columns)).astype(np.float32)
    return b.returns(b.op("dot", b.input("x", f32, (rows, terms)), b.constant(w), lhs_contract=(1,), rhs_contract=(0,)))


def first(graph: Graph, op: str) -> Node:
    return next(n for n in graph.nodes if n.op.name == op)


def choices(seconds: dict[tuple[str, int], float], asked: list[Fixed], cache: Cache | None, budget: float = 9.0) -> Measured:
    def measure(node: Node, what: str, ways: Sequence[Fixed]) -> list[list[float]]:
        asked.extend(ways)
        return [[seconds.get(way.made[-1], 1.0) for way in ways]] * 4

    return Measured("this machine", cache, measure, budget)


def test_the_fastest_is_taken_and_remembered(folder: Path) -> None:
    node, asked = first(network(), "conv"), []
    cache = Cache(folder)
    made = choices({("winograd", 1): 0.5, ("panel width", 32): 0.5}, asked, cache)
    assert made.choose(node, "winograd", (0, 1)) == 1
    assert made.choose(node, "panel width", (64, 48, 32)) == 32
    assert len(asked) == 5
    assert asked[-1] == Fixed((("winograd", 1), ("panel width", 32)))  # measured with what was chosen before
    # Another compilation, even of other weights, takes what was remembered, and tells it in the same words.
    other = choices({}, asked, cache)
    again = first(network(seed=1), "conv")
    assert other.choose(again, "winograd", (0, 1)) == 1
    assert other.choose(again, "panel width", (64, 48, 32)) == 32
    assert len(asked) == 5
    contexts = PassContext(), PassContext()
    made.tell(contexts[0])
    other.tell(contexts[1])
    assert contexts[0].notes == contexts[1].notes
    assert contexts[0].notes[0] == "conv: winograd 1 in place of 0 (0: 1000000.0 us, 1: 500000.0 us)"
    # Another structure, or other options, are another question.
    assert other.choose(first(network(batch=2), "conv"), "panel width", (64, 48, 32)) == 64
    assert len(asked) == 8
    assert choices({}, asked, cache).choose(again, "winograd", (1, 0)) == 1
    assert len(asked) == 10


def test_noise_doesnt_decide() -> None:
    assert best([[1.0, 0.99]] * 8) == 0
    assert best([[1.0, 0.9]] * 8) == 1
    assert best([[1.0, 0.9, 0.8]] * 8) == 2
    assert best([[1.0, 0.9]] * 5 + [[1.0, 1.1]] * 3) == 0  # faster more often than not, but not in three of four turns
    assert best([[1.0, 0.5], [4.0, 2.0], [1.0, 0.5], [9.0, 4.0]]) == 1  # whatever else the machine did meanwhile
    assert best([[9.0, 1.0]] * 7 + [[1.0, 1.0]]) == 0  # the first was always disturbed, but once
    assert best([[1.0]]) == 0


def test_where_time_is_up_predictions_hold_and_nothing_is_remembered(folder: Path) -> None:
    asked: list[Fixed] = []
    made = choices({("panel width", 32): 0.5}, asked, Cache(folder), budget=0.0)
    assert made.choose(first(network(), "conv"), "panel width", (64, 32)) == 64
    assert asked == []
    context = PassContext()
    made.tell(context)
    assert context.unfinished
    later = choices({("panel width", 32): 0.5}, asked, Cache(folder))
    assert later.choose(first(network(), "conv"), "panel width", (64, 32)) == 32


def test_a_program_that_isnt_finished_isnt_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_TUNE_SECONDS", "0")
    assert "choices" not in graphc.compile(network(), threads=1, tune=True).stages
    monkeypatch.delenv("GRAPHC_TUNE_SECONDS")
    assert "choices" in graphc.compile(network(), threads=1, tune=True).stages


def test_one_option_and_unknown_weights_arent_measured() -> None:
    asked: list[Fixed] = []
    made = choices({}, asked, None)
    assert made.choose(first(network(), "dot"), "panel width", [64]) == 64
    b = Builder()
    x, w = b.input("x", f32, (4, 8)), b.input("w", f32, (8, symbol("n", 1)))
    graph = b.returns(b.op("dot", x, w, lhs_contract=(1,), rhs_contract=(0,)))
    assert made.choose(first(graph, "dot"), "panel width", [64, 32]) == 64
    assert asked == []


@pytest.mark.parametrize(("low", "high", "size"), [(1, None, 32), (1, 8, 8), (100, None, 100)])
def test_dynamic_dims_are_measured_at_assumed_sizes(low: int, high: int | None, size: int) -> None:
    n = symbol("n", low, high)
    assert assumed_sizes(free_symbols(n), n, 1e9) == {"n": size}
    graph, x = alone(first(network(n), "conv"))
    assert x.shape == (size, 12, 12, 32)
    assert graph.outputs[0].type.shape == (size, 12, 12, 40)


def test_much_work_is_measured_at_fewer() -> None:
    n = symbol("n", 1)
    assert assumed_sizes(free_symbols(n), n * 1000, 8000) == {"n": 8}
    assert assumed_sizes(free_symbols(n), n * 1000, 1) == {"n": 1}


def fused(rows: Dim, name: str) -> Node:
    """A fusion of a product with an addition, whose values are called after `name`."""
    body = graphc.parse_graph(f"""
graph @body(%x{name}: f32[{rows},64], %w{name}: f32[64,64], %b{name}: f32[{rows},64]) {{
  %y{name}: f32[{rows},64] = dot(%x{name}, %w{name}) {{lhs_contract=[1], rhs_contract=[0]}}
  %z{name}: f32[{rows},64] = add(%y{name}, %b{name})
  return %z{name}
}}""")
    b = Builder()
    inputs = [b.input(f"i{i}", v.type.dtype, v.type.shape) for i, v in enumerate(body.inputs)]
    graph = b.returns(*b.ops("fusion", *inputs, kind="loop", body=body))
    return graph.nodes[0]


def test_equal_fusions_are_one_question_whatever_they_are_called() -> None:
    assert form_of(fused("n", "")) == form_of(fused("batch", "7"))
    assert form_of(fused("n", "")) != form_of(fused(5, ""))


def test_a_fusion_alone_computes_what_it_does_in_its_graph() -> None:
    graph, sizes, inputs = fusion_alone(fused("batch", ""))
    assert list(sizes.values()) == [32]
    (found,) = interpret(graph, inputs)
    np.testing.assert_allclose(found, inputs[0] @ inputs[1] + inputs[2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batch", [1, symbol("n", 1, 4)], ids=["static", "dynamic"])
def test_results_stay_and_nothing_is_measured_twice(batch: Dim, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network(batch)
    x = np.random.default_rng(1).standard_normal((1, 12, 12, 32)).astype(np.float32)
    tuned = graphc.compile(graph, threads=1, tune=True)
    (expected,) = interpret(graph, [x])
    np.testing.assert_allclose(tuned(x), expected, atol=1e-4 * np.abs(expected).max())
    assert all(line in tuned.explain() for line in tuned.text("choices").splitlines())
    kept = len(list((folder / "native").iterdir()))
    monkeypatch.setattr(tuning, "taking_turns", lambda runs: pytest.fail("measured again"))
    retrained = graphc.compile(network(batch, seed=5), threads=1, tune=True, cache=True)
    assert [k.key for k in retrained.kernels] == [k.key for k in tuned.kernels]
    assert retrained.text("choices") == tuned.text("choices")
    # Not by the program's own entry either: with another verification the passes run again.
    again = graphc.compile(graph, threads=1, tune=True, verify="sample")
    assert [k.key for k in again.kernels] == [k.key for k in tuned.kernels]
    assert len(list((folder / "native").iterdir())) == kept


def test_threads_are_chosen_for_the_threads_that_a_program_has(folder: Path) -> None:
    graph = dense(256, 64, 64)
    one, two = (graphc.compile(graph, threads=n, tune=True) for n in (1, 2))
    assert "threads" not in one.text("choices")
    assert "threads" in two.text("choices")
    x = np.random.default_rng(1).standard_normal((256, 64)).astype(np.float32)
    np.testing.assert_array_equal(one(x), two(x))


LANES = host_target().lanes(4)
WAYS = {
    "not by Winograd's algorithm": (network(), (("winograd", 0),)),
    **{f"panels of {v} vectors": (dense(9, 40, 4 * LANES), (("panel width", v * LANES),)) for v in (1, 2, 3)},
    **{f"{h} rows": (dense(49, 64, 4 * LANES), (("tile rows", h),)) for h in (4, 6)},
    "rows of no static number": (dense(symbol("n", 1, 64), 64, 4 * LANES), (("tile rows", 5),)),
    **{f"blocks of {d}": (dense(9, 1100, 2 * LANES), (("block depth", d),)) for d in (256, 1024)},
    "not by Strassen's algorithm": (dense(128, 768, 768), (("strassen", 0),)),
    "by Strassen's algorithm": (dense(30, 4 * LANES, 8 * LANES), (("strassen", 1),)),
    "one thread": (dense(256, 64, 64), (("threads", 1),)),
    "two threads": (dense(256, 64, 64), (("threads", 2),)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_option_computes_the_same(way: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, made = WAYS[way]
    asked: dict[str, Sequence[int]] = {}

    class Asked(Fixed):
        def choose(self, node: Node, what: str, options: Sequence[int]) -> int:
            asked[what] = options
            return super().choose(node, what, options)

    monkeypatch.setattr("graphc_llvm.compilation.PREDICTED", Asked(made))
    executable = graphc.compile(graph, threads=2, cache=False)
    ((what, option),) = made
    if host_target().vector_bits == 512:
        assert option in asked[what]
        assert option != asked[what][0]
    shape = graph.inputs[0].type.concrete({"n": 49})
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    (expected,) = interpret(graph, [x])
    np.testing.assert_allclose(executable(x), expected, atol=1e-4 * np.abs(expected).max())


def test_another_vector_axis_computes_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both axes of a square are contiguous in one of the operands."""
    b = Builder()
    x, y = b.input("x", f32, (40, 40)), b.input("y", f32, (40, 40))
    graph = b.returns(b.op("add", x, b.transpose(y, (1, 0))), b.transpose(b.op("mul", x, x), (1, 0)))
    monkeypatch.setattr("graphc_llvm.schedule.NEAR_COST", 100.0)
    executables = [graphc.compile(graph, cache=False)]
    monkeypatch.setattr("graphc_llvm.compilation.PREDICTED", Fixed((("vector axis", 1),)))
    executables.append(graphc.compile(graph, cache=False))
    assert [k.key for k in executables[0].kernels] != [k.key for k in executables[1].kernels]
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((40, 40)).astype(np.float32) for _ in range(2)]
    for got, same in zip(*(e(*inputs) for e in executables), strict=True):
        np.testing.assert_array_equal(got, same)


def test_heights_fit_in_registers_and_divide_the_rows() -> None:
    target = host_target()
    for vectors, predicted in ((4, 6), (3, 8), (2, 12), (1, 14)):
        for rows in (1, 49, 196, symbol("n", 1)):
            high = min(rows, predicted) if isinstance(rows, int) else predicted
            heights = tile_heights(rows, high, vectors, target)
            assert heights[0] == high
            assert len(set(heights)) == len(heights)
            assert all(h >= 1 and (h == high or h * vectors + vectors < target.vector_registers) for h in heights)
    if target.vector_registers == 32:
        assert 7 in tile_heights(49, 8, 3, target)


def test_a_backend_without_choices_refuses() -> None:
    with pytest.raises(GraphcError, match="nothing to tune") as raised:
        graphc.compile(network(), backend="reference", tune=True)
    assert raised.value.hint == 'compile with backend="llvm"'


def test_predictions_are_the_first_options() -> None:
    assert PREDICTED.choose(first(network(), "conv"), "panel width", [48, 64]) == 48
