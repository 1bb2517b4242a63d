"""Index maps of reshapes: they are NumPy's, and divide no more than they must."""

from __future__ import annotations

import itertools
from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graphc.ir.symbolic import Dim, evaluate, symbol
from graphc.lowering.index_maps import inserted, linear_index, reshape_index

B, S = symbol("b"), symbol("s")


def axes(shape: tuple[Dim, ...]) -> list[Dim]:
    return [symbol(f"i{n}", 0, d - 1) if d != 1 else 0 for n, d in enumerate(shape)]


def text(shape: tuple[Dim, ...], to: tuple[Dim, ...]) -> str:
    return ", ".join(map(str, reshape_index(axes(shape), shape, to)))


@st.composite
def reshapes(draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two factorizations of one size."""
    factors = draw(st.lists(st.sampled_from((1, 2, 3, 4, 5)), max_size=5))

    def grouped() -> tuple[int, ...]:
        shape, cuts = [1], draw(st.lists(st.booleans(), min_size=len(factors), max_size=len(factors)))
        for f, cut in zip(factors, cuts, strict=True):
            if cut:
                shape.append(f)
            else:
                shape[-1] *= f
        return tuple(shape)

    first = grouped()
    factors = draw(st.permutations(factors))
    return first, grouped()


@given(reshapes())
def test_every_element_is_where_numpy_puts_it(case):
    shape, to = case
    at = reshape_index(axes(shape), shape, to)
    positions = np.arange(prod(shape)).reshape(to)
    for n, point in enumerate(itertools.product(*map(range, shape))):
        values = {f"i{k}": i for k, i in enumerate(point)}
        assert positions[tuple(evaluate(e, values) for e in at)] == n


def test_splitting_and_joining_heads_needs_no_division_by_symbols():
    assert text((B, S, 12, 64), (B, S, 768)) == "i0, i1, 64*i2 + i3"
    assert text((B, S, 768), (B, S, 12, 64)) == "i0, i1, ((i2)//64), ((i2)%64)"
    assert text((B, S, 12, 64), (B * S, 768)) == "i0*s + i1, 64*i2 + i3"


def test_a_symbolic_dim_divides_what_it_must():
    assert text((B * S, 8), (B, S, 8)) == "((i0)//(s)), ((i0)%(s)), i1"


def test_ones_come_and_go():
    assert text((B, 1, S), (B, S)) == "i0, i2"
    assert text((B, S), (1, B, 1, S, 1)) == "0, i0, 0, i1, 0"


def test_groups_of_channels_divide_the_channel_alone():
    assert text((B, 6, 4, 5), (B, 2, 60)) == "i0, ((i1)//3), 20*((i1)%3) + 5*i2 + i3"


def test_a_dim_that_may_be_zero_divides_safely():
    z = symbol("z", 0)
    at = reshape_index([symbol("i0", 0)], (B * z,), (B, z))
    assert [evaluate(e, {"i0": 7, "z": 3, "b": 4}) for e in at] == [2, 1]


def test_no_element_has_any_index():
    assert reshape_index(axes((0, 3)), (0, 3), (5, 0)) == (0, 0)


def test_linear_and_inserted():
    assert linear_index((2, 1, 3), (4, 5, 6)) == np.ravel_multi_index((2, 1, 3), (4, 5, 6))
    assert inserted((7, 8), (0, 2), (1, 2)) == (1, 7, 2, 8)
