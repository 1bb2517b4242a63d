"""Philox against the answers that Random123 publishes; the numbers drawn of it against their distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import graphc
from graphc.errors import ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import symbol
from graphc.ir.types import DTYPES, f32, f64, i64
from graphc.ops.random import dropout, normal, philox, uniform

KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]  # fmt: skip
"""Counter, key and result of philox4x32_R 10 in Random123's kat_vectors."""


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, expected):
    assert [int(w) for w in philox(counter, key)] == list(expected)


def bits(shape: tuple[int, ...], stream: int = 0) -> Graph:
    b = Builder()
    return b.returns(b.op("random_bits", b.input("key", i64, (2,)), shape=shape, stream=stream))


def drawn(graph: Graph, seed: int = 1, step: int = 2) -> np.ndarray:
    return interpret(graph, [np.array([seed, step], np.int64)])[0]


def test_an_element_is_the_first_word_at_its_index_stream_and_step():
    seen = drawn(bits((3, 4), stream=9), seed=0x299F31D0A4093822, step=0x0370734413198A2E)
    counter = (np.arange(12), 9, 0x13198A2E, 0x03707344)
    expected = philox(counter, (0xA4093822, 0x299F31D0))[0]
    np.testing.assert_array_equal(seen.reshape(-1), expected.astype(np.int64))
    assert drawn(bits(()), 0, 0) == 0x6627E8D5


def test_another_seed_step_or_stream_gives_other_numbers():
    draws = [
        drawn(bits((100,), stream), seed, step) for stream, seed, step in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    for i, x in enumerate(draws):
        for y in draws[:i]:
            assert np.count_nonzero(x == y) < 3


def test_sizes_may_be_symbolic_and_shape_leaves_the_numbers_as_they_are():
    b = Builder()
    x, key = b.input("x", f32, (symbol("n"), 3)), b.input("key", i64, (2,))
    graph = b.returns(b.op("random_bits", key, shape=x.type.shape, stream=5))
    key_array = np.array([3, 4], np.int64)
    expected = drawn(bits((12,), 5), 3, 4)
    (seen,) = interpret(graph, [np.zeros((4, 3), np.float32), key_array])
    np.testing.assert_array_equal(seen.reshape(-1), expected)
    np.testing.assert_array_equal(graphc.compile(graph, cache=False)(np.zeros((4, 3), np.float32), key_array), seen)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
def test_uniform_numbers_fill_the_unit_interval(dtype):
    b = Builder()
    x = drawn(b.returns(uniform(b, b.input("key", i64, (2,)), (20000,), DTYPES[dtype], 0))).astype(np.float64)
    assert x.min() >= 0
    assert x.max() < 1
    counts, _ = np.histogram(x, 16, (0, 1))
    assert ((counts - 1250) ** 2 / 1250).sum() < 37.7  # chi squared, 15 degrees of freedom: 0.1% lie above


def test_normal_numbers_have_the_normal_distribution():
    b = Builder()
    x = drawn(b.returns(normal(b, b.input("key", i64, (2,)), (100, 200), f64, 0))).reshape(-1)
    edges = np.array([-np.inf, -1.2815515655, -0.6744897502, -0.2533471031, 0.0, 0.5244005127, 0.8416212336, np.inf])
    expected = np.array([0.10, 0.15, 0.15, 0.10, 0.20, 0.10, 0.20]) * x.size
    counts = np.array([np.count_nonzero((x >= a) & (x < c)) for a, c in itertools.pairwise(edges)])
    assert ((counts - expected) ** 2 / expected).sum() < 22.5  # 6 degrees of freedom: 0.1% lie above
    assert abs(np.mean(x[::2] * x[1::2])) < 0.04


def test_dropout_keeps_the_mean_and_its_gradient_the_mask():
    b = Builder()
    x, key = b.input("x", f64, (100, 50)), b.input("key", i64, (2,))
    graph = b.returns(dropout(b, x, key, 0.3, stream=1))
    ones, at = np.ones((100, 50)), np.array([5, 6], np.int64)
    y, by_x = interpret(graphc.value_and_grad(graph, "x"), [ones, at])
    assert set(np.unique(y)) == {0.0, 1 / 0.7}
    assert abs(np.count_nonzero(y) / y.size - 0.7) < 0.03
    np.testing.assert_array_equal(by_x, y)


def test_dropout_at_the_ends():
    b = Builder()
    x, key = b.input("x", f32, (3,)), b.input("key", i64, (2,))
    assert dropout(b, x, key, 0.0, 0) is x
    (y,) = interpret(b.returns(dropout(b, x, key, 1.0, 0)), [np.full(3, np.nan, np.float32), np.zeros(2, np.int64)])
    np.testing.assert_array_equal(y, np.zeros(3))
    with pytest.raises(ShapeError, match="probability"):
        dropout(b, x, key, 1.5, 0)


def test_what_is_no_key_is_refused():
    b = Builder()
    with pytest.raises(ShapeError, match="key"):
        b.op("random_bits", b.input("x", f32, (2,)), shape=(3,))
    with pytest.raises(ShapeError, match="stream"):
        b.op("random_bits", b.input("key", i64, (2,)), shape=(3,), stream=-1)
