"""Memory plans: buffers in use at once are disjoint, and the arena isn't much larger than it must be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graphc.lowering.memory import ALIGNMENT, Lifetime, plan

LIFETIMES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 8), st.integers(0, 5000)).map(lambda t: Lifetime(t[0], t[0] + t[1], t[2])),
    max_size=25,
)


@given(LIFETIMES)
def test_buffers_in_use_at_once_are_disjoint(lifetimes):
    offsets, total = plan(lifetimes)
    for i, a in enumerate(lifetimes):
        assert offsets[i] % ALIGNMENT == 0 and offsets[i] + a.bytes <= total
        for j, b in enumerate(lifetimes[:i]):
            if a.meets(b) and a.bytes and b.bytes:
                assert offsets[i] + a.bytes <= offsets[j] or offsets[j] + b.bytes <= offsets[i]


def test_a_chain_needs_two_buffers():
    offsets, total = plan([Lifetime(i, i + 1, 64) for i in range(10)])
    assert total == 128 and set(offsets) == {0, 64}


def test_nothing_needs_nothing():
    assert plan([]) == ([], 0)
