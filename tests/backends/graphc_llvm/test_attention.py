"""Attention as one kernel, against PyTorch's scaled_dot_product_attention: layouts, masks, lengths, numerics, targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import graphc
from graphc.interpreter import bind_dims, interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.symbolic import Dim, symbol
from graphc.ir.text import print_graph
from graphc.ir.types import DType, bf16, bool_, f16, f32, f64
from graphc.pipeline import PassContext, PassManager, resolve_passes
from graphc.testing.attention_inputs import attention_inputs as arrays
from graphc_llvm.attention import FuseAttention
from graphc_llvm.attention_blocks import BLOCK_ROWS, MOST_KEYS, STRICT_KEYS
from graphc_llvm.jit import compile_object
from graphc_llvm.kernels import KernelMaker
from graphc_llvm.target import Target, host_target, parse_target

B, S, T = symbol("b"), symbol("s", 1), symbol("t", 1)


def attention(
    batch: Dim,
    heads: int,
    queries: Dim,
    keys: Dim,
    depth: int,
    columns: int,
    *,
    dtype: DType = f32,
    mask: str = "none",
    layout: str = "heads first",
) -> Graph:
    """Inputs q, k, v, and a mask where there is one; with "heads last" [batch, length, heads, depth] as projections give."""
    b = Builder()
    sizes = ((queries, depth), (keys, depth), (keys, columns))
    if layout == "heads last":
        values = [b.input(n, dtype, (batch, x, heads, d)) for n, (x, d) in zip("qkv", sizes, strict=True)]
        values = [b.transpose(v, (0, 2, 1, 3)) for v in values]
    else:
        values = [b.input(n, dtype, (batch, heads, x, d)) for n, (x, d) in zip("qkv", sizes, strict=True)]
    if layout == "keys transposed":
        values[1] = b.transpose(b.input("kt", dtype, (batch, heads, depth, keys)), (0, 1, 3, 2))
        b.graph.remove_input(next(v for v in b.graph.inputs if v.name == "k"))
    shape = (batch, heads, queries, keys)
    if mask == "padding":
        values.append(b.broadcast(b.input("mask", bool_, (batch, keys)), shape, (0, 3)))
    elif mask == "bias":
        values.append(b.broadcast(b.input("mask", dtype, (queries, keys)), shape, (2, 3)))
    elif mask == "each":
        values.append(b.input("mask", bool_, shape))
    y = b.op("attention", *values, scale=depth**-0.5, causal=mask == "causal")
    return b.returns(b.transpose(y, (0, 2, 1, 3)) if layout == "heads last" else y)


def torch_attention(graph: Graph, inputs: list[np.ndarray], mask: str, layout: str) -> np.ndarray:
    """What PyTorch computes in double precision."""
    named = {v.name: torch.from_numpy(x) for v, x in zip(graph.inputs, inputs, strict=True)}
    wide = {n: x if x.dtype == torch.bool else x.double() for n, x in named.items()}
    if layout == "keys transposed":
        wide["k"] = wide["kt"].transpose(2, 3)
    q, k, v = (wide[n].transpose(1, 2) if layout == "heads last" else wide[n] for n in "qkv")
    given = wide["mask"][:, None, None] if mask == "padding" else wide.get("mask")
    if mask == "causal":
        given = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, given)
    return (y.transpose(1, 2) if layout == "heads last" else y).numpy()


def check(graph: Graph, inputs: list[np.ndarray], mask: str = "none", layout: str = "heads first", **options) -> None:
    executable = graphc.compile(graph, cache=False, **options)
    assert [k.name for k in executable.kernels] == ["attention"]
    wanted = torch_attention(graph, inputs, mask, layout)
    seen = executable(*inputs)
    bound = 1e-13 if seen.dtype == np.float64 else 3e-6
    np.testing.assert_allclose(seen, wanted, rtol=0, atol=bound * np.abs(wanted).max())


@pytest.mark.parametrize("layout", ["heads first", "heads last", "keys transposed"])
@pytest.mark.parametrize("mask", ["none", "padding", "bias", "each", "causal"])
def test_masks_and_layouts(mask: str, layout: str) -> None:
    graph = attention(2, 3, 19, 37, 20, 24, mask=mask, layout=layout)
    check(graph, arrays(graph), mask, layout)


SIZES = [
    (1, 2, 64, 64, 64, 64),
    (1, 3, 197, 197, 64, 64),
    (2, 1, 2, 130, 7, 100),
    (1, 1, 301, 3, 33, 2),
    (2, 3, 1, 50, 16, 20),
]


def test_on_each_target(target: Target) -> None:
    graph = attention(1, 2, 45, MOST_KEYS + 70, 20, 24, mask="bias", layout="heads last")
    check(graph, arrays(graph), "bias", "heads last", target=target)


@pytest.mark.parametrize("numerics", ["fast", "strict"])
@pytest.mark.parametrize("dtype", [f32, f64])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes_and_numerics(size: tuple[int, ...], dtype: DType, numerics: str) -> None:
    graph = attention(*size, dtype=dtype, layout="heads last")
    check(graph, arrays(graph), layout="heads last", numerics=numerics)


@pytest.mark.parametrize("mask", ["none", "padding", "causal"])
def test_any_lengths_in_one_kernel(mask: str) -> None:
    graph = attention(B, 2, S, T, 16, 16, mask=mask)
    executable = graphc.compile(graph, threads=2)
    assert [k.name for k in executable.kernels] == ["attention"]
    lengths = [
        (1, 1, 1),
        (2, 5, 16),
        (1, 12, 49),
        (1, BLOCK_ROWS + 1, 65),
        (1, 7, MOST_KEYS),
        (2, 9, 2 * MOST_KEYS + 3),
    ]
    for b, s, t in lengths:
        inputs = arrays(graph, b=b, s=s, t=t)
        wanted = torch_attention(graph, inputs, mask, "heads first")
        np.testing.assert_allclose(executable(*inputs), wanted, rtol=0, atol=3e-6)


def test_more_keys_than_a_block() -> None:
    graph = attention(1, 2, 20, MOST_KEYS + 100, 16, 80, mask="bias", dtype=f64)
    check(graph, arrays(graph), "bias")


def test_strict_numerics_never_rescale_sums() -> None:
    graph = attention(1, 1, 4, STRICT_KEYS + 1, 4, 4)
    assert len(graphc.compile(graph, numerics="strict").kernels) > 1


@pytest.mark.parametrize("keys", [40, MOST_KEYS + 40])
def test_hidden_rows_and_what_is_not_finite(keys: int) -> None:
    graph = attention(1, 1, 8, keys, 4, 4, mask="bias")
    q, k, v, bias = arrays(graph)
    bias[1] = -np.inf  # hidden: NaN
    bias[2, :-1] = -np.inf  # but for the last key
    bias[3, 5] = np.nan
    bias[4, 5] = np.inf
    bias[5, 7] = -np.inf
    v[0, 0, 9, 2] = np.inf
    inputs = [q, k, v, bias]
    (wanted,) = interpret(graph, inputs)
    seen = graphc.compile(graph)(*inputs)
    np.testing.assert_array_equal(np.isnan(seen), np.isnan(wanted))
    np.testing.assert_allclose(seen, wanted, rtol=1e-5, atol=1e-6)
    assert np.isnan(seen[0, 0, 1]).all() and np.isfinite(seen[0, 0, 5, :2]).all()


@pytest.mark.parametrize(("queries", "keys"), [(150, 150), (40, 100), (100, 40), (600, MOST_KEYS + 300)])
def test_causal_masks_hide_what_is_left_out(queries: int, keys: int) -> None:
    graph = attention(1, 2, queries, keys, 16, 20, mask="causal")
    inputs = arrays(graph)
    executable = graphc.compile(graph, threads=2)
    wanted = torch_attention(graph, inputs, "causal", "heads first")
    np.testing.assert_allclose(executable(*inputs), wanted, rtol=0, atol=3e-6)
    inputs[2][0, 1, keys - 1, 3] = np.nan  # 0 times NaN is NaN, wherever it stands
    seen = executable(*inputs)
    assert np.isnan(seen[0, 1, :, 3]).all()
    np.testing.assert_allclose(np.delete(seen, 3, 3), np.delete(wanted, 3, 3), rtol=0, atol=3e-6)
    np.testing.assert_allclose(seen[0, 0], wanted[0, 0], rtol=0, atol=3e-6)


def test_any_work_on_scores_and_grouped_heads() -> None:
    """Scores squashed by tanh, a bias a head, and two query heads that share a key head."""
    b = Builder()
    q = b.input("q", f32, (2, 4, 9, 8))
    k, v = (b.input(n, f32, (2, 2, 21, 8)) for n in "kv")
    shared = [b.reshape(b.broadcast(x, (2, 2, 2, 21, 8), (0, 1, 3, 4)), (2, 4, 21, 8)) for x in (k, v)]
    scores = b.op("dot", q, shared[0], lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(3,))
    bias = b.broadcast(b.input("bias", f32, (4,)), scores.type.shape, (1,))
    scores = b.op("add", b.op("tanh", scores), bias)
    weights = b.op("softmax", scores, axis=3)
    y = b.op("dot", weights, shared[1], lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(2,))
    graph = b.returns(y)
    inputs = arrays(graph)
    executable = graphc.compile(graph)
    assert [k.name for k in executable.kernels] == ["attention"]
    tensors = [torch.from_numpy(x).double() for x in inputs]
    q, k, v, bias = tensors
    k, v = (x.repeat_interleave(2, 1) for x in (k, v))
    wanted = torch.softmax(torch.tanh(q @ k.mT) + bias[:, None, None], -1) @ v
    np.testing.assert_allclose(executable(*inputs), wanted.numpy(), rtol=0, atol=3e-6)


@pytest.mark.parametrize(("keys", "numerics"), [(37, "fast"), (MOST_KEYS + 70, "fast"), (37, "strict")])
def test_weights_that_are_dropped(keys: int, numerics: str) -> None:
    b = Builder()
    q, k, v = (b.input(n, f32, (2, s, 8)) for n, s in zip("qkv", (19, keys, keys), strict=True))
    scores = b.op("dot", q, k, lhs_batch=(0,), rhs_batch=(0,), lhs_contract=(2,), rhs_contract=(2,))
    weights = b.op("softmax", scores, axis=2)
    keep = b.input("keep", bool_, scores.type.shape)
    left = b.op("mul", b.op("select", keep, weights, b.full_like(0, weights)), b.full_like(2.0, weights))
    graph = b.returns(b.op("dot", left, v, lhs_batch=(0,), rhs_batch=(0,), lhs_contract=(2,), rhs_contract=(1,)))
    inputs = arrays(graph)
    executable = graphc.compile(graph, cache=False, numerics=numerics)
    assert ([k.name for k in executable.kernels] == ["attention"]) == (numerics == "fast")
    qt, kt, vt, keept = (torch.from_numpy(x) for x in inputs)
    wanted = (torch.softmax((qt @ kt.mT).double(), -1) * keept * 2) @ vt.double()
    np.testing.assert_allclose(executable(*inputs), wanted.numpy(), rtol=0, atol=3e-6 * wanted.abs().max().item())


NARROW = [
    (1, 3, 33, 45, 20, 36),
    (2, 1, 17, 31, 21, 35),
    (1, 1, 5, STRICT_KEYS + 101, 32, 100),
    (1, 2, 128, 128, 64, 64),
]


@pytest.mark.parametrize("numerics", ["fast", "strict"])
@pytest.mark.parametrize("dtype", [bf16, f16])
@pytest.mark.parametrize("size", NARROW, ids=str)
def test_products_of_narrow_floats(size: tuple[int, ...], dtype: DType, numerics: str) -> None:
    """Operands, weights and result of 16 bits, sums in f32, as `precision=` makes them."""
    batch, heads, queries, keys, depth, columns = size
    b = Builder()
    shapes = ((batch, queries, heads, depth), (batch, keys, heads, depth), (batch, keys, heads, columns))
    q, k, v = (b.transpose(b.input(n, dtype, shape), (0, 2, 1, 3)) for n, shape in zip("qkv", shapes, strict=True))
    scores = b.op("dot", q, k, lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(3,), wide=True)
    scores = b.op("mul", scores, b.full_like(depth**-0.5, scores))
    weights = b.cast(b.op("softmax", scores, axis=3), dtype)
    y = b.op("dot", weights, v, lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(2,), wide=True)
    graph = b.returns(b.transpose(b.cast(y, dtype), (0, 2, 1, 3)))
    inputs = arrays(graph)
    executable = graphc.compile(graph, numerics=numerics, cache=False)
    assert ([k.name for k in executable.kernels] == ["attention"]) == (numerics == "fast" or keys <= STRICT_KEYS)
    wanted = torch_attention(graph, [x.astype(np.float64) for x in inputs], "none", "heads last")
    bound = 2e-2 if dtype == bf16 else 2e-3
    np.testing.assert_allclose(executable(*inputs).astype(float), wanted, rtol=0, atol=bound * np.abs(wanted).max())


def test_precision_of_a_model() -> None:
    graph = attention(1, 2, 40, 40, 32, 32, mask="padding", layout="heads last")
    inputs = arrays(graph)
    executable = graphc.compile(graph, precision="bf16")
    assert "attention" in [k.name for k in executable.kernels]
    wanted = torch_attention(graph, inputs, "padding", "heads last")
    np.testing.assert_allclose(executable(*inputs), wanted, rtol=0, atol=2e-2 * np.abs(wanted).max())


def fused(graph: Graph) -> Graph:
    context = PassContext()
    PassManager([*resolve_passes(["decompose"]), FuseAttention(host_target())]).run(graph, context)
    return graph


def test_the_fused_graph_keeps_its_meaning() -> None:
    graph = attention(2, 3, 5, 7, 4, 4, mask="padding", layout="heads last")
    inputs = arrays(graph)
    (wanted,) = interpret(graph, inputs)
    after = fused(graph)
    (node,) = [n for n in after.nodes if n.op.name not in ("constant", "transpose", "broadcast")]
    assert (node.op.name, node["kind"]) == ("fusion", "tile")
    assert {v.name for v in node.operands} == {"q", "k", "v", "mask"}
    text = print_graph(after)
    again = graphc.parse_graph(text)
    assert print_graph(again) == text
    np.testing.assert_allclose(interpret(again, inputs)[0], wanted, rtol=0, atol=1e-6)


def test_weights_that_are_read_elsewhere_stay() -> None:
    b = Builder()
    q, k, v = (b.input(n, f32, (2, 8, 4)) for n in "qkv")
    scores = b.op("dot", q, k, lhs_batch=(0,), rhs_batch=(0,), lhs_contract=(2,), rhs_contract=(2,))
    weights = b.op("softmax", scores, axis=2)
    y = b.op("dot", weights, v, lhs_batch=(0,), rhs_batch=(0,), lhs_contract=(2,), rhs_contract=(1,))
    graph = b.returns(y, weights)
    inputs = arrays(graph)
    wanted = interpret(graph, inputs)
    assert not any(n.op.name == "fusion" for n in fused(graph.clone()[0]).nodes)
    for seen, expected in zip(graphc.compile(graph)(*inputs), wanted, strict=True):
        np.testing.assert_allclose(seen, expected, rtol=0, atol=3e-6)


def test_equal_layers_are_one_kernel_whatever_they_are_called() -> None:
    def two(names: str) -> Graph:
        b = Builder()
        x = b.input("x", f32, (1, 2, symbol(names[0]), 8))
        for name in names:
            b.origin = (name,)
            x = b.op("attention", x, x, x, scale=0.3, causal=True)
        return b.returns(x)

    first, second = (graphc.compile(two(names), cache=False) for names in ("ab", "pq"))
    keys = [k for exe in (first, second) for k, _ in exe._segment.compiled.main.program.kernels]
    assert len(set(keys)) == 1
    assert [k.origin for k in first.kernels] == [("a",), ("b",)]


@pytest.mark.parametrize("name", ["x86-64-v3", "aarch64+neon"])
def test_other_targets_emit(name: str) -> None:
    graph = attention(1, 2, S, 70, 16, 24, mask="causal")
    target = parse_target(name)
    after = fused(graph)
    (node,) = [n for n in after.nodes if n.op.name == "fusion"]
    assert compile_object(KernelMaker(target, "fast")(node).text, target)


def test_no_queries() -> None:
    graph = attention(1, 2, symbol("none", 0), 5, 4, 4)
    inputs = arrays(graph, none=0)
    assert bind_dims(graph, [x.shape for x in inputs]) == {"none": 0}
    assert graphc.compile(graph)(*inputs).shape == (1, 2, 0, 4)
