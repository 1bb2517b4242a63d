"""Movement operators against NumPy, with symbolic dims, and what they refuse."""

import numpy as np
import pytest

from graphc.errors import ShapeError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Guard
from graphc.ir.symbolic import ceildiv, minimum, symbol
from graphc.ir.types import f32, i64
from graphc.ir.verifier import verify

n, m = symbol("n"), symbol("m")


def build(*shapes, dtype=f32):
    b = Builder(Graph())
    return b, *(b.input(f"x{i}", dtype, s) for i, s in enumerate(shapes))


@pytest.mark.parametrize("size", [1, 4, 5])
def test_against_numpy_at_every_size(size):
    b, x, y = build((n, 3), (m, 3))
    outputs = [
        b.op("reshape", x, shape=(3, n)),
        b.op("transpose", x, permutation=(1, 0)),
        b.op("broadcast", x, shape=(2, n, 3), axes=(1, 2)),
        b.op("slice", x, starts=(0, 1), limits=(n, 3), strides=(2, 1)),
        b.op("pad", x, b.scalar(7, f32), low=(1, 0), high=(n, 2)),
        b.op("concat", x, y, x, axis=0),
        b.op("reverse", x, axes=(0,)),
    ]
    graph = b.returns(*outputs)
    verify(graph)
    assert graph.guards == []
    assert [str(v.type) for v in outputs] == [
        "f32[3,n]", "f32[3,n]", "f32[2,n,3]", f"f32[{str(ceildiv(n, 2)).replace(' ', '')},2]", "f32[2*n+1,5]",
        "f32[m+2*n,3]", "f32[n,3]",
    ]  # fmt: skip
    rng = np.random.default_rng(size)
    a, c = rng.normal(size=(size, 3)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)
    expected = [
        a.reshape(3, size), a.T, np.broadcast_to(a, (2, size, 3)), a[::2, 1:],
        np.pad(a, ((1, size), (0, 2)), constant_values=7), np.concatenate([a, c, a]), a[::-1],
    ]  # fmt: skip
    for seen, wanted in zip(interpret(graph, [a, c]), expected, strict=True):
        np.testing.assert_array_equal(seen, wanted)


def test_what_inference_assumes_becomes_a_guard():
    b, x, y = build((n,), (m,))
    b.op("reshape", x, shape=(m, 2))
    b.op("broadcast", x, shape=(3, m), axes=(1,))
    b.op("slice", y, starts=(0,), limits=(n,), strides=(1,))
    assert b.graph.guards == [Guard(n, 2 * m), Guard(n, m), Guard(minimum(n, m), n)]
    verify(b.returns(x))


def test_the_remainder_of_a_strided_slice():
    b, x = build((n,))
    y = b.op("slice", x, starts=(0,), limits=(n,), strides=(3,))
    for size in range(1, 9):
        assert y.type.concrete({"n": size}) == np.empty(size)[::3].shape


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "match"),
    [
        ("reshape", (2, 3), {"shape": (7,)}, "element count"),
        ("reshape", (0,), {"shape": (-1, 0)}, "shape out of range"),
        ("transpose", (2, 3), {"permutation": (0,)}, "one entry for each axis"),
        ("transpose", (2, 3), {"permutation": (0, 0)}, "twice"),
        ("transpose", (2, 3), {"permutation": (0, 2)}, "out of range"),
        ("broadcast", (2, 3), {"shape": (3, 2), "axes": (1, 0)}, "increase"),
        ("broadcast", (2,), {"shape": (3,), "axes": (0,)}, "must be equal"),
        ("broadcast", (2,), {"shape": (2,), "axes": ()}, "one entry"),
        ("slice", (4,), {"starts": (0,), "limits": (5,), "strides": (1,)}, "limit 0"),
        ("slice", (4,), {"starts": (3,), "limits": (2,), "strides": (1,)}, "start and limit"),
        ("slice", (4,), {"starts": (-1,), "limits": (2,), "strides": (1,)}, "start 0"),
        ("slice", (4,), {"starts": (0,), "limits": (2,), "strides": (0,)}, "stride must be positive"),
        ("slice", (4, 2), {"starts": (0,), "limits": (2,), "strides": (1,)}, "one entry"),
        ("concat", (), {"axis": 0}, "axis out of range"),
        ("reverse", (2,), {"axes": (-1,)}, "out of range"),
    ],
)
def test_refusals(op, shape, attributes, match):
    b, x = build(shape)
    with pytest.raises(ShapeError, match=match):
        b.op(op, x, **attributes)


def test_refusals_between_operands():
    b, x, y, s = build((2, 3), (2, 4), ())
    with pytest.raises(ShapeError, match="dim 1 of operands"):
        b.op("concat", x, y, axis=0)
    with pytest.raises(ShapeError, match="at least one"):
        b.op("concat", axis=0)
    with pytest.raises(ShapeError, match="rank 0"):
        b.op("pad", x, y, low=(0, 0), high=(0, 0))
    with pytest.raises(ShapeError, match="low out of range"):
        b.op("pad", x, s, low=(0, -1), high=(0, 0))
    with pytest.raises(ShapeError, match="one element type"):
        b.op("pad", x, b.scalar(0, i64), low=(0, 0), high=(0, 0))
