"""Measured choices: the fastest is taken, remembered by the node's structure, and results stay what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc.errors import GraphcError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import Dim, symbol
from graphc.ir.types import f32
from graphc_llvm import tuning
from graphc_llvm.cache import Cache
from graphc_llvm.choices import PREDICTED, Fixed
from graphc_llvm.target import host_target
from graphc_llvm.tuning import Measured, alone, assumed_sizes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuning, "SECONDS", 0.0)
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


def first(graph: Graph, op: str) -> Node:
    return next(n for n in graph.nodes if n.op.name == op)


def choices(seconds: dict[Fixed, float], asked: list[Fixed], cache: Cache | None) -> Measured:
    def measure(node: Node, fixed: Fixed) -> float:
        asked.append(fixed)
        return seconds.get(fixed, 1.0)

    return Measured(host_target(), 1, cache, measure)


def test_the_fastest_is_taken_and_remembered(folder: Path) -> None:
    node, asked = first(network(), "conv"), []
    cache = Cache(folder)
    assert choices({Fixed(by_winograd=True): 0.5}, asked, cache).winograd(node, False)
    assert choices({Fixed(panel=32): 0.5}, asked, cache).width(node, [64, 48, 32]) == 32
    assert len(asked) == 5
    # Another compilation, even of other weights, takes what was remembered.
    other = choices({}, asked, cache)
    again = first(network(seed=1), "conv")
    assert other.winograd(again, False)
    assert other.width(again, [64, 48, 32]) == 32
    assert len(asked) == 5
    # Another structure, or another number of candidates, is another question.
    assert other.width(first(network(batch=2), "conv"), [64, 48, 32]) == 64
    assert other.width(again, [64, 48]) == 64
    assert len(asked) == 10


def test_noise_doesnt_decide() -> None:
    node = first(network(), "dot")
    assert choices({Fixed(panel=64): 1.0, Fixed(panel=32): 0.99}, [], None).width(node, [64, 32]) == 64
    assert choices({Fixed(panel=64): 1.0, Fixed(panel=32): 0.9}, [], None).width(node, [64, 32]) == 32


def test_one_candidate_and_unknown_weights_arent_measured() -> None:
    asked: list[Fixed] = []
    made = choices({}, asked, None)
    assert made.width(first(network(), "dot"), [64]) == 64
    b = Builder()
    x, w = b.input("x", f32, (4, 8)), b.input("w", f32, (8, symbol("n", 1)))
    graph = b.returns(b.op("dot", x, w, lhs_contract=(1,), rhs_contract=(0,)))
    assert made.width(first(graph, "dot"), [64, 32]) == 64
    assert asked == []


@pytest.mark.parametrize(("low", "high", "size"), [(1, None, 32), (1, 8, 8), (100, None, 100)])
def test_dynamic_dims_are_measured_at_assumed_sizes(low: int, high: int | None, size: int) -> None:
    node = first(network(symbol("n", low, high)), "conv")
    assert assumed_sizes(node) == {"n": size}
    graph, x = alone(node)
    assert x.shape == (size, 12, 12, 32)
    assert graph.outputs[0].type.shape == (size, 12, 12, 40)


def test_much_work_is_measured_at_fewer() -> None:
    b = Builder()
    x, w = b.input("x", f32, (symbol("n", 1), 224, 224, 64)), b.constant(np.zeros((64, 1024), np.float32))
    node = first(b.returns(b.op("dot", x, w, lhs_contract=(3,), rhs_contract=(0,))), "dot")
    assert assumed_sizes(node) == {"n": 1}


@pytest.mark.parametrize("batch", [1, symbol("n", 1, 4)], ids=["static", "dynamic"])
def test_results_stay_and_nothing_is_measured_twice(batch: Dim, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network(batch)
    x = np.random.default_rng(1).standard_normal((1, 12, 12, 32)).astype(np.float32)
    tuned = graphc.compile(graph, threads=1, tune=True)
    (expected,) = interpret(graph, [x])
    np.testing.assert_allclose(tuned(x), expected, atol=1e-4 * np.abs(expected).max())
    kept = len(list((folder / "native").iterdir()))
    monkeypatch.setattr(tuning, "fastest_run", lambda run: pytest.fail("measured again"))
    retrained = graphc.compile(network(batch, seed=5), threads=1, tune=True, cache=True)
    assert [k.key for k in retrained.kernels] == [k.key for k in tuned.kernels]
    # Not by the program's own entry either: with another verification the passes run again.
    again = graphc.compile(graph, threads=1, tune=True, verify="sample")
    assert [k.key for k in again.kernels] == [k.key for k in tuned.kernels]
    assert len(list((folder / "native").iterdir())) == kept


@pytest.mark.parametrize("fixed", [Fixed(by_winograd=True), Fixed(panel=16), Fixed(panel=32), Fixed(panel=48)])
def test_every_candidate_computes_the_same(fixed: Fixed, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if fixed.panel is not None and fixed.panel % host_target().lanes(4):
        pytest.skip("no width of this machine's vectors")
    graph = network()
    monkeypatch.setattr("graphc_llvm.compilation.PREDICTED", fixed)
    executable = graphc.compile(graph, threads=1, cache=False)
    assert any("winograd" in k.name for k in executable.kernels) == fixed.by_winograd
    x = np.random.default_rng(1).standard_normal((1, 12, 12, 32)).astype(np.float32)
    (expected,) = interpret(graph, [x])
    np.testing.assert_allclose(executable(x), expected, atol=1e-4 * np.abs(expected).max())


def test_a_backend_without_choices_refuses() -> None:
    with pytest.raises(GraphcError, match="nothing to tune"):
        graphc.compile(network(), backend="reference", tune=True)


def test_predictions_are_the_first_candidates() -> None:
    node = first(network(), "conv")
    assert PREDICTED.winograd(node, True)
    assert not PREDICTED.winograd(node, False)
    assert PREDICTED.width(node, [48, 64]) == 48
