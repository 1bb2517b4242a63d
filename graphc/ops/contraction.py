"""`dot`, the contraction of two tensors over any axes, and `matmul` over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.types import TensorType
from graphc.ops.by_decomposition import vjp_by_decomposition, wide
from graphc.ops.common import NUMBERS, check_axes, check_dtype, check_same_dtype, widened
from graphc.ops.sampling import uniform


def free_axes(rank: int, batch: Sequence[int], contract: Sequence[int]) -> tuple[int, ...]:
    """The axes of an operand of `dot` that are neither batch nor contracted, in increasing order."""
    return tuple(i for i in range(rank) if i not in batch and i not in contract)


def _dot_infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    lhs, rhs = types
    check_same_dtype(types, "operands of dot")
    check_dtype(lhs, NUMBERS, "operands of dot")
    for side, t in (("lhs", lhs), ("rhs", rhs)):
        check_axes((*a[f"{side}_batch"], *a[f"{side}_contract"]), t.rank, f"{side} batch and contracted axes")
    for kind in ("batch", "contract"):
        if len(a[f"lhs_{kind}"]) != len(a[f"rhs_{kind}"]):
            raise ShapeError(f"dot needs as many lhs_{kind} as rhs_{kind} axes", seen=f"{lhs} and {rhs}")
    batch = [
        inference.equal(lhs.shape[i], rhs.shape[j], f"batch dims of {lhs} and {rhs}")
        for i, j in zip(a["lhs_batch"], a["rhs_batch"], strict=True)
    ]
    for i, j in zip(a["lhs_contract"], a["rhs_contract"], strict=True):
        inference.equal(lhs.shape[i], rhs.shape[j], f"contracted dims of {lhs} and {rhs}")
    free = [lhs.shape[i] for i in free_axes(lhs.rank, a["lhs_batch"], a["lhs_contract"])]
    free += [rhs.shape[i] for i in free_axes(rhs.rank, a["rhs_batch"], a["rhs_contract"])]
    return (TensorType(wide(lhs.dtype) if a["wide"] else lhs.dtype, (*batch, *free)),)


def _dot_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    lhs, rhs = operands
    lhs_free = free_axes(lhs.ndim, a["lhs_batch"], a["lhs_contract"])
    rhs_free = free_axes(rhs.ndim, a["rhs_batch"], a["rhs_contract"])
    left = lhs.transpose(*a["lhs_batch"], *lhs_free, *a["lhs_contract"])
    right = rhs.transpose(*a["rhs_batch"], *a["rhs_contract"], *rhs_free)
    n, k = len(a["lhs_batch"]), len(a["lhs_contract"])
    batch, m, inner = left.shape[:n], left.shape[n : left.ndim - k], left.shape[left.ndim - k :]
    columns = right.shape[n + k :]
    sizes = [int(np.prod(s)) for s in (m, inner, columns)]
    product = left.reshape(*batch, sizes[0], sizes[1]) @ right.reshape(*batch, sizes[1], sizes[2])
    return (product.reshape((*batch, *m, *columns)),)


def _dot_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value]:
    """Each operand's cotangent is the dot of the other with the result's, its axes put back in place."""
    (g,) = cotangents
    lhs, rhs = (b.cast(v, g.type.dtype) for v in node.operands)
    lhs_batch, rhs_batch, lhs_contract, rhs_contract = (
        node[k] for k in ("lhs_batch", "rhs_batch", "lhs_contract", "rhs_contract")
    )
    lhs_free = free_axes(lhs.type.rank, lhs_batch, lhs_contract)
    rhs_free = free_axes(rhs.type.rank, rhs_batch, rhs_contract)
    n = len(lhs_batch)
    batch = tuple(range(n))
    g_lhs = tuple(range(n, n + len(lhs_free)))
    g_rhs = tuple(range(n + len(lhs_free), g.type.rank))
    # dot(g, rhs) has the axes: batch, lhs free, rhs contracted in increasing order.
    d_lhs = b.op("dot", g, rhs, lhs_batch=batch, rhs_batch=rhs_batch, lhs_contract=g_rhs, rhs_contract=rhs_free)
    at = dict(zip(lhs_batch, batch, strict=True)) | dict(zip(lhs_free, g_lhs, strict=True))
    order = sorted(rhs_contract)
    at |= {i: n + len(lhs_free) + order.index(j) for i, j in zip(lhs_contract, rhs_contract, strict=True)}
    # dot(lhs, g) has the axes: batch, lhs contracted in increasing order, rhs free.
    d_rhs = b.op("dot", lhs, g, lhs_batch=lhs_batch, rhs_batch=batch, lhs_contract=lhs_free, rhs_contract=g_lhs)
    at_r = dict(zip(rhs_batch, batch, strict=True))
    at_r |= {j: n + len(lhs_contract) + i for i, j in enumerate(rhs_free)}
    order = sorted(lhs_contract)
    at_r |= {j: n + order.index(i) for i, j in zip(lhs_contract, rhs_contract, strict=True)}
    return (
        b.cast(b.transpose(d_lhs, [at[i] for i in range(lhs.type.rank)]), node.operands[0].type.dtype),
        b.cast(b.transpose(d_rhs, [at_r[i] for i in range(rhs.type.rank)]), node.operands[1].type.dtype),
    )


def _axes(lhs_batch: Any = (), rhs_batch: Any = (), lhs_contract: Any = (), rhs_contract: Any = ()) -> dict[str, Any]:
    return {
        "lhs_batch": lhs_batch, "rhs_batch": rhs_batch, "lhs_contract": lhs_contract, "rhs_contract": rhs_contract,
    }  # fmt: skip


def _dot_samples() -> Iterable[Sample]:
    yield Sample((uniform(3, 4), uniform(4, 5)), _axes(lhs_contract=(1,), rhs_contract=(0,)))
    yield Sample((uniform(17, 9), uniform(33, 9, seed=1)), _axes(lhs_contract=(1,), rhs_contract=(1,)))
    yield Sample((uniform(5, 8), uniform(8, 20)), {**_axes(lhs_contract=(1,), rhs_contract=(0,)), "wide": True})
    yield Sample((uniform(2, 3, 4), uniform(2, 4, 5)), _axes((0,), (0,), (2,), (1,)))
    yield Sample((uniform(3, 2, 4), uniform(4, 5, 2)), _axes((1,), (2,), (2,), (0,)))
    yield Sample((uniform(2, 3, 4, 5), uniform(5, 6, 3)), _axes((), (), (3, 1), (0, 2)))
    yield Sample((uniform(3), uniform(4)), _axes())
    yield Sample((uniform(), uniform(2)), _axes())
    yield Sample((uniform(5), uniform(5, seed=1)), _axes(lhs_contract=(0,), rhs_contract=(0,)))
    yield Sample((uniform(3, 0), uniform(0, 2)), _axes(lhs_contract=(1,), rhs_contract=(0,)))
    yield Sample((uniform(0, 3), uniform(3, 2)), _axes(lhs_contract=(1,), rhs_contract=(0,)))


def _matmul_infer(inference: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    x, w = types
    if x.rank < 2 or w.rank not in (2, x.rank):
        raise ShapeError("matmul takes [*batch,m,k] and [*batch,k,n] or [k,n]", seen=f"{x} and {w}")
    return _dot_infer(inference, types, {**_matmul_axes(x.rank, w.rank), "wide": False})


def _matmul_axes(x_rank: int, w_rank: int) -> dict[str, Any]:
    batch = tuple(range(w_rank - 2))
    return _axes(batch, batch, (x_rank - 1,), (w_rank - 2,))


def _matmul_reference(operands: Sequence[np.ndarray], a: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    x, w = operands
    return (np.asarray(np.matmul(x, w)),)


def _matmul_decompose(b: Builder, node: Node) -> Sequence[Value]:
    x, w = node.operands
    return (b.op("dot", x, w, **_matmul_axes(x.type.rank, w.type.rank)),)


def _matmul_samples() -> Iterable[Sample]:
    yield Sample((uniform(3, 4), uniform(4, 5)))
    yield Sample((uniform(2, 3, 4), uniform(4, 5)))
    yield Sample((uniform(2, 3, 4), uniform(2, 4, 5)))
    yield Sample((uniform(2, 1, 3, 4), uniform(2, 1, 4, 2)))
    yield Sample((uniform(0, 4), uniform(4, 5)))


DOT = OpDef(
    name="dot",
    operands=("lhs", "rhs"),
    attributes={
        **{k: Attribute("ints", ()) for k in ("lhs_batch", "rhs_batch", "lhs_contract", "rhs_contract")},
        "wide": Attribute("bool", False),
    },
    infer=_dot_infer,
    reference=widened(_dot_reference),
    vjp=_dot_vjp,
    samples=_dot_samples,
    dtypes=NUMBERS,
    doc="""Sums products over the contracted axes: result[b, i, j] = sum over k of lhs[b, i, k] * rhs[b, j, k].

    Axis lhs_batch[n] runs with rhs_batch[n], and lhs_contract[n] with rhs_contract[n]. The result's axes are the batch
    axes as listed, then the lhs's free axes, then the rhs's, each in increasing order. Operands and result have one
    element type: a float (f16 and bf16 accumulate in f32 and round once; with `wide` the result is that f32 sum) or an
    integer (wraps).""",
)

MATMUL = OpDef(
    name="matmul",
    operands=("lhs", "rhs"),
    infer=_matmul_infer,
    reference=widened(_matmul_reference),
    vjp=vjp_by_decomposition,
    decompose=_matmul_decompose,
    samples=_matmul_samples,
    dtypes=NUMBERS,
    doc="""Matrix product: [*batch, m, k] x [*batch, k, n] or [k, n] -> [*batch, m, n]. Element types as `dot`.""",
)

OPERATORS = (DOT, MATMUL)
