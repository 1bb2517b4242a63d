"""Convolution by Winograd's F(4x4, 3x3): 16 results of a 3x3 window from 36 products instead of 144.

A tile of 4x4 results needs 6x6 inputs d. With the window g transformed beforehand, u = G g G^T,

    y = A^T [ u * (B^T d B) ] A

where * is elementwise, and becomes a matrix product over channels for each of the 36 positions. The matrices are Toom and
Cook's: a tile is multiplied as polynomials at the points 0, +-5/8, +-3/2 and infinity. Among sets of points these are those
that magnify what the products are rounded by least, within 1%, of all that float numbers hold exactly: the sums of 36
terms lose half as many of the digits as with Lavin's 0, +-1, +-2.
Sources: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015; Alam, Anderson, Barabasz and Gregg,
"Winograd Convolution for Deep Neural Networks: Efficient Point Selection", 2022.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.symbolic import Dim, ceildiv
from graphc.ir.types import TensorType
from graphc.ops.by_decomposition import decomposition, vjp_by_decomposition
from graphc.ops.common import check_dtype, check_same_dtype
from graphc.ops.convolution import ConvSpec
from graphc.ops.sampling import uniform
from graphc.ops.windows import concrete

TILE = 4
"""Results of a tile along each axis."""
REACH = TILE + 2
"""Inputs of a tile along each axis, and positions in the transformed domain."""

NEAR, FAR = 5 / 8, 3 / 2
"""The points of interpolation, each with both signs, beside 0 and infinity. Their products are exact in f32."""


def _matrices(near: float, far: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T (6, 6), G (6, 3) and A^T (4, 6); the leading coefficients of B^T are 1, the divisions are G's."""
    n, f = near**2, far**2
    b_t = np.array([
        [n * f, 0, -(n + f), 0, 1, 0],
        [0, -near * f, -f, near, 1, 0],
        [0, near * f, -f, -near, 1, 0],
        [0, -far * n, -n, far, 1, 0],
        [0, far * n, -n, -far, 1, 0],
        [0, n * f, 0, -(n + f), 0, 1],
    ])  # fmt: skip
    points = np.array([0, near, -near, far, -far])
    others = [np.prod([p - q for q in points if q != p]) for p in points]
    g = np.vstack([np.vander(points, 3, increasing=True) / np.array(others)[:, None], [[0, 0, 1]]])
    a_t = np.hstack([np.vander(points, TILE, increasing=True).T, [[0], [0], [0], [1]]])
    return b_t, g, a_t


B_T, G, A_T = _matrices(NEAR, FAR)


def output_size(size: Sequence[Dim], padding: Sequence[int]) -> list[Dim]:
    """The spatial dims of the result for those of the input."""
    return [d + padding[2 * i] + padding[2 * i + 1] - 2 for i, d in enumerate(size)]


def _infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    x, u = types
    check_same_dtype(types, "operands of a convolution")
    check_dtype(x, ("f32", "f64"))
    if x.rank != 4:
        raise ShapeError("winograd_conv takes (N, H, W, C)", seen=x)
    if u.rank != 4 or u.shape[:2] != (REACH, REACH):
        raise ShapeError("winograd_conv takes transformed weights", seen=u, expected=f"({REACH}, {REACH}, C, O)")
    inference.equal(x.shape[3], u.shape[2], f"input channels of {x} and {u}")
    spec = ConvSpec((1, 1), a["padding"], (1, 1), 1, "channels_last", "io")
    spec.check()
    return (TensorType(x.dtype, (x.shape[0], *spec.output_size(inference, x.shape[1:3], (3, 3)), u.shape[3])),)


def _reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, u = operands
    out = concrete(output_size(x.shape[1:3], a["padding"]))
    count = [-(-d // TILE) for d in out]
    sides = [(p, TILE * n + 2 - p - d) for p, n, d in zip(a["padding"][::2], count, x.shape[1:3], strict=True)]
    padded = np.pad(x, ((0, 0), *sides, (0, 0)))
    rows = np.stack([padded[:, TILE * t : TILE * t + REACH] for t in range(count[0])], 1)
    tiles = np.stack([rows[:, :, :, TILE * t : TILE * t + REACH] for t in range(count[1])], 3)
    b, a_t = B_T.astype(x.dtype), A_T.astype(x.dtype)
    v = np.einsum("ik,jl,nhkwlc->ijnhwc", b, b, tiles, optimize=True)
    n, c = x.shape[0], x.shape[3]
    m = (v.reshape(REACH, REACH, -1, c) @ u).reshape(REACH, REACH, n, *count, u.shape[3])
    y = np.einsum("ai,bj,ijnhwo->nhawbo", a_t, a_t, m, optimize=True)
    whole = y.reshape(n, TILE * count[0], TILE * count[1], u.shape[3])
    return (np.ascontiguousarray(whole[:, : out[0], : out[1]]).astype(x.dtype, copy=False),)


def _decompose(b: Builder, operands: Sequence[Value], a: Mapping[str, Any]) -> Sequence[Value]:
    x, u = operands
    n, *size, _ = x.type.shape
    out = output_size(size, a["padding"])
    count = [ceildiv(d, TILE) for d in out]
    low = a["padding"][::2]
    high = [TILE * (t + 1) - p - d for t, p, d in zip(count, low, size, strict=True)]
    padded = b.op("pad", x, b.scalar(0, x.type.dtype), low=(0, *low, 0), high=(0, *high, 0))
    tiles = _tiles(b, _tiles(b, padded, 1, count[0]), 3, count[1])  # N, tile row, i, tile column, j, C
    v = _along(b, B_T, _along(b, B_T, tiles, 2), 4)  # j, i, N, tile row, tile column, C
    # i, j, N, tile row, tile column, O
    m = b.op("dot", v, u, lhs_batch=(1, 0), rhs_batch=(0, 1), lhs_contract=(5,), rhs_contract=(2,))
    y = _along(b, A_T, _along(b, A_T, m, 0), 1)  # column, row, N, tile row, tile column, O
    whole = b.reshape(b.transpose(y, (2, 3, 1, 4, 0, 5)), (n, TILE * count[0], TILE * count[1], u.type.shape[3]))
    return (b.op("slice", whole, starts=(0,) * 4, limits=(n, *out, u.type.shape[3]), strides=(1,) * 4),)


def _tiles(b: Builder, x: Value, axis: int, count: Dim) -> Value:
    """An axis of 4 * (count + 1) as two: tiles, and the 6 places of each, of which the last two are the next one's first."""
    shape = x.type.shape
    blocks = b.reshape(x, (*shape[:axis], count + 1, TILE, *shape[axis + 1 :]))
    limits, none = blocks.type.shape, (0,) * blocks.type.rank
    one = (1,) * blocks.type.rank
    own = b.op("slice", blocks, starts=none, limits=(*limits[:axis], count, *limits[axis + 1 :]), strides=one)
    starts = (*none[:axis], 1, *none[axis + 1 :])
    following = (*limits[: axis + 1], REACH - TILE, *limits[axis + 2 :])
    return b.op("concat", own, b.op("slice", blocks, starts=starts, limits=following, strides=one), axis=axis + 1)


def _along(b: Builder, matrix: np.ndarray, x: Value, axis: int) -> Value:
    """matrix times x along an axis, which comes first in the result."""
    left = b.constant(matrix.astype(x.type.dtype.numpy))
    return b.op("dot", left, x, lhs_batch=(), rhs_batch=(), lhs_contract=(1,), rhs_contract=(axis,))


def transformed(b: Builder, w: Value) -> Value:
    """G g G^T for each window g of w, whose layout is (3, 3, C, O): one product with the Kronecker square of G."""
    _, _, channels, outputs = w.type.shape
    left = b.constant(np.kron(G, G).astype(w.type.dtype.numpy))
    u = b.op("dot", left, b.reshape(w, (9, channels, outputs)), lhs_batch=(), rhs_batch=(), lhs_contract=(1,),
             rhs_contract=(0,))  # fmt: skip
    return b.reshape(u, (REACH, REACH, channels, outputs))


def _samples() -> Iterable[Sample]:
    for size, padding in (((1, 4, 4, 2), (1, 1, 1, 1)), ((2, 6, 9, 3), (0, 0, 0, 0)), ((1, 3, 7, 1), (2, 0, 1, 3))):
        yield Sample((uniform(*size), uniform(REACH, REACH, size[3], 2, seed=1)), {"padding": padding})


OPERATORS = (
    OpDef(
        name="winograd_conv",
        operands=("x", "u"),
        attributes={"padding": Attribute("ints")},
        infer=_infer,
        reference=_reference,
        vjp=vjp_by_decomposition,
        decompose=decomposition(_decompose),
        samples=_samples,
        doc="""The 3x3 convolution of stride 1 of x (N, H, W, C) with the weights w (3, 3, C, O) whose transform u is.

        u (6, 6, C, O) = G w G^T along the window; padding is (low0, high0, low1, high1). In f32 the result differs from that
        of `conv` by about 1e-6 of its largest value. Source: Lavin and Gray, 2015.""",
    ),
)
