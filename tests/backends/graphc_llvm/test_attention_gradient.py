"""Attention's gradient as one kernel, against PyTorch's in double precision: layouts, masks, sizes, targets; and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import graphc
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import Dim, symbol
from graphc.ir.text import print_graph
from graphc.ir.types import DType, bool_, f32, f64, i64
from graphc.ops.attention import attention_weights
from graphc.ops.random import dropout
from graphc.pipeline import PassContext, PassManager, resolve_passes
from graphc.testing.attention_inputs import attention_inputs as arrays
from graphc.testing.gradients import check_gradient
from graphc_llvm.attention_gradient import FuseAttentionGradient
from graphc_llvm.attention_gradient_blocks import KEYS, QUERIES
from graphc_llvm.jit import compile_object
from graphc_llvm.kernels import KernelMaker
from graphc_llvm.target import Target, host_target, parse_target

B, S, T = symbol("b"), symbol("s", 1), symbol("t", 1)


def loss(
    batch: Dim, heads: int, queries: Dim, keys: Dim, depth: int, columns: int, *,
    dtype: DType = f32, mask: str = "none", layout: str = "heads first",
) -> Graph:  # fmt: skip
    """The products of attention's results with weights dy; inputs q, k, v, dy, and a mask where there is one.

    With "heads last", all are [batch, length, heads, depth], as projections give them.
    """
    b = Builder()
    sizes = {"q": (queries, depth), "k": (keys, depth), "v": (keys, columns), "dy": (queries, columns)}
    last = layout == "heads last"
    given = {
        n: b.input(n, dtype, (batch, x, heads, d) if last else (batch, heads, x, d)) for n, (x, d) in sizes.items()
    }
    values = [b.transpose(given[n], (0, 2, 1, 3)) if last else given[n] for n in "qkv"]
    shape = (batch, heads, queries, keys)
    if mask in ("padding", "causal padding"):
        values.append(b.broadcast(b.input("mask", bool_, (batch, keys)), shape, (0, 3)))
    elif mask == "bias":
        values.append(b.broadcast(b.input("mask", dtype, (queries, keys)), shape, (2, 3)))
    elif mask == "each":
        values.append(b.input("mask", bool_, shape))
    y = b.op("attention", *values, scale=depth**-0.5, causal=mask.startswith("causal"))
    return b.returns(b.op("mul", b.transpose(y, (0, 2, 1, 3)) if last else y, given["dy"]))


def gradients(graph: Graph, wrt: str = "qkv") -> Graph:
    """With the value: a graph of gradients alone may have no use for the attention itself, of which they are made."""
    return graphc.value_and_grad(graph, wrt=list(wrt))


def torch_values(graph: Graph, inputs: list[np.ndarray], mask: str, layout: str) -> list[np.ndarray]:
    named = {v.name: torch.from_numpy(x) for v, x in zip(graph.inputs, inputs, strict=True)}
    leaves = [named[n].double().requires_grad_() for n in "qkv"]
    q, k, v = (x.transpose(1, 2) if layout == "heads last" else x for x in leaves)
    given = named.get("mask")
    if mask.endswith("padding"):
        given = named["mask"][:, None, None].expand(-1, 1, q.shape[2], -1)
    if mask.startswith("causal"):
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
        given = seen if given is None else seen & given
    given = given if given is None or given.dtype == torch.bool else given.double()
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, given)
    y = (y.transpose(1, 2) if layout == "heads last" else y) * named["dy"].double()
    y.sum().backward()
    return [y.detach().numpy(), *(x.grad.numpy() for x in leaves)]


def close(seen: np.ndarray, wanted: np.ndarray) -> None:
    bound = 1e-13 if seen.dtype == np.float64 else 3e-6
    np.testing.assert_allclose(seen, wanted, rtol=0, atol=bound * max(1.0, np.abs(wanted).max()))


def names(executable: graphc.Executable) -> list[str]:
    return [k.name for k in executable.kernels]


def check(graph: Graph, inputs: list[np.ndarray], mask: str = "none", layout: str = "heads first", **options) -> None:
    executable = graphc.compile(gradients(graph), cache=False, **options)
    assert names(executable).count("attention") == names(executable).count("attention_gradient") == 1
    for seen, wanted in zip(executable(*inputs), torch_values(graph, inputs, mask, layout), strict=True):
        close(seen, wanted)


@pytest.mark.parametrize("mask", ["none", "padding", "bias", "each", "causal", "causal padding"])
def test_masks(mask: str) -> None:
    graph = loss(2, 3, 19, 37, 20, 24, mask=mask, layout="heads last")
    check(graph, arrays(graph), mask, "heads last")


def test_heads_first() -> None:
    graph = loss(2, 3, 19, 37, 20, 24)
    check(graph, arrays(graph))


SIZES = [
    (1, 2, 64, 64, 64, 64),  # results and scores of one shape
    (2, 1, 2, 130, 7, 100),
    (1, 1, 301, 3, 33, 2),
    (1, 1, QUERIES + 5, 2 * KEYS + 70, 16, 80),
]


@pytest.mark.parametrize("dtype", [f32, f64])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(size: tuple[int, ...], dtype: DType) -> None:
    graph = loss(*size, dtype=dtype, layout="heads last")
    check(graph, arrays(graph), layout="heads last")


def test_on_each_target(target: Target) -> None:
    graph = loss(1, 2, 45, KEYS + 21, 20, 24, mask="bias", layout="heads last")
    check(graph, arrays(graph), "bias", "heads last", target=target)


@pytest.mark.parametrize("name", ["x86-64-v3", "aarch64+neon"])
def test_other_targets_emit(name: str) -> None:
    graph, target = gradients(loss(1, 2, S, 70, 16, 24, mask="causal")), parse_target(name)
    PassManager([*resolve_passes(["decompose", "cse"]), FuseAttentionGradient(target)]).run(graph, PassContext())
    (node,) = [n for n in graph.nodes if n.op.name == "fusion"]
    kernel = KernelMaker(target, "fast")(node)
    assert kernel.template == "attention_gradient"
    assert compile_object(kernel.text, target)


@pytest.mark.parametrize("mask", ["none", "causal"])
def test_any_lengths_in_one_kernel(mask: str) -> None:
    graph = loss(B, 2, S, T, 16, 20, mask=mask)
    executable = graphc.compile(gradients(graph), threads=2)
    assert names(executable).count("attention_gradient") == 1
    for b, s, t in [(1, 1, 1), (2, 5, 16), (1, QUERIES, KEYS), (1, QUERIES + 7, 33), (2, 40, 2 * KEYS + 1)]:
        inputs = arrays(graph, b=b, s=s, t=t)
        for seen, wanted in zip(executable(*inputs), torch_values(graph, inputs, mask, "heads first"), strict=True):
            close(seen, wanted)


def test_two_threads_give_the_bits_of_one() -> None:
    graph = loss(2, 3, 70, 50, 16, 16, mask="causal")
    inputs = arrays(graph)
    one, two = (graphc.compile(gradients(graph), threads=n)(*inputs) for n in (1, 2))
    for x, y in zip(one, two, strict=True):
        np.testing.assert_array_equal(x, y)


def test_finite_differences() -> None:
    """The gradient's own gradient, too, which is of other primitives and has no such kernel."""
    graph = loss(1, 2, 5, 7, 4, 3, dtype=f64, mask="padding")
    check_gradient(graph, arrays(graph))
    second = graphc.grad(gradients(graph), wrt=["q", "k", "v"])
    inputs = arrays(graph)
    seen = graphc.compile(second, cache=False)(*inputs)
    for x, y in zip(seen, interpret(second, inputs), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-12)
    check_gradient(gradients(graph), inputs)


def test_neither_scores_nor_weights_are_in_memory() -> None:
    graph = loss(1, 2, 512, 512, 16, 16)
    matrix = 2 * 512 * 512 * 4
    assert graphc.compile(gradients(graph)).memory.arena < matrix / 4
    assert graphc.compile(gradients(graph), numerics="strict").memory.arena > 2 * matrix


def test_work_on_scores_and_grouped_heads() -> None:
    """Scores squashed by tanh, whose slope is computed again, and three query heads that share a key head."""
    b = Builder()
    q, dy = (b.input(n, f32, (2, 6, 29, 8)) for n in ("q", "dy"))
    k, v = (b.transpose(b.input(n, f32, (2, 21, 2, 8)), (0, 2, 1, 3)) for n in "kv")
    shared = [b.reshape(b.broadcast(x, (2, 2, 3, 21, 8), (0, 1, 3, 4)), (2, 6, 21, 8)) for x in (k, v)]
    scores = b.op("dot", q, shared[0], lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(3,))
    weights = b.op("softmax", b.op("tanh", scores), axis=3)
    y = b.op("dot", weights, shared[1], lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(2,))
    graph = b.returns(b.op("mul", y, dy))
    inputs = arrays(graph)
    executable = graphc.compile(gradients(graph))
    assert names(executable).count("attention_gradient") == 1
    leaves = [torch.from_numpy(x).double().requires_grad_() for x in (inputs[0], inputs[2], inputs[3])]
    kt, vt = (x.transpose(1, 2).repeat_interleave(3, 1) for x in leaves[1:])
    yt = torch.softmax(torch.tanh(leaves[0] @ kt.mT), -1) @ vt
    (yt * torch.from_numpy(inputs[1])).sum().backward()
    for seen, x in zip(executable(*inputs)[1:], leaves, strict=True):
        close(seen, x.grad.numpy())


def test_grouped_heads_without_copies_of_keys() -> None:
    b = Builder()
    q, dy = (b.input(n, f32, (2, 2, 3, 29, 8)) for n in ("q", "dy"))
    k, v = (b.input(n, f32, (2, 2, 21, 8)) for n in "kv")
    shared = [b.broadcast(x, (2, 2, 3, 21, 8), (0, 1, 3, 4)) for x in (k, v)]
    axes = {"lhs_batch": (0, 1, 2), "rhs_batch": (0, 1, 2), "lhs_contract": (4,)}
    weights = b.op("softmax", b.op("dot", q, shared[0], **axes, rhs_contract=(4,)), axis=4)
    graph = b.returns(b.op("mul", b.op("dot", weights, shared[1], **axes, rhs_contract=(3,)), dy))
    inputs = arrays(graph)
    executable = graphc.compile(gradients(graph))
    assert names(executable).count("attention_gradient") == 1
    for seen, wanted in zip(executable(*inputs), interpret(gradients(graph), inputs), strict=True):
        close(seen, wanted)


@pytest.mark.parametrize("place", ["q", "k", "v", "dy"])
def test_hidden_keys_and_what_is_not_finite(place: str) -> None:
    """Blocks that a causal mask hides are left out only where that makes no difference: 0 times NaN is NaN."""
    graph = loss(1, 2, 300, 300, 8, 8, mask="causal", dtype=f64)
    inputs = arrays(graph)
    executable, wanted = graphc.compile(gradients(graph)), interpret(gradients(graph), inputs)
    for seen, x in zip(executable(*inputs), wanted, strict=True):
        close(seen, x)
    inputs[["q", "k", "v", "dy"].index(place)][0, 1, 150, 3] = np.nan
    for seen, x in zip(executable(*inputs), interpret(gradients(graph), inputs), strict=True):
        np.testing.assert_array_equal(np.isnan(seen), np.isnan(x))
        np.testing.assert_allclose(seen, x, rtol=1e-9, atol=1e-11)


def test_rows_without_a_key_are_nan() -> None:
    graph = loss(1, 1, 6, 9, 4, 4, mask="bias")
    inputs = arrays(graph)
    inputs[4][2] = -np.inf
    inputs[4][3, 1:] = -np.inf
    for seen, wanted in zip(
        graphc.compile(gradients(graph))(*inputs), interpret(gradients(graph), inputs), strict=True
    ):
        np.testing.assert_array_equal(np.isnan(seen), np.isnan(wanted))
        np.testing.assert_allclose(seen, wanted, rtol=1e-4, atol=1e-5)


def test_the_pass_keeps_its_claim() -> None:
    graph = gradients(loss(2, 3, 9, 7, 4, 5, mask="padding", layout="heads last"))
    context = PassContext()
    PassManager([*resolve_passes(["decompose", "cse"]), FuseAttentionGradient(host_target())], verify="full").run(
        graph, context
    )
    (node,) = [n for n in graph.nodes if n.op.name == "fusion"]
    assert {v.type.shape[-1] for v in node.results} == {4, 5}
    assert not context.refusals
    text = print_graph(graph)
    assert print_graph(graphc.parse_graph(text)) == text


def refusals(graph: Graph) -> list[str]:
    context = PassContext()
    passes = [*resolve_passes(["decompose", "cse", "dce"]), FuseAttentionGradient(host_target())]
    PassManager(passes).run(graph, context)
    assert not any(n.op.name == "fusion" for n in graph.nodes)
    return [r.reason for r in context.refusals]


def small(finish) -> Graph:
    """What `finish` makes of a builder and the weights and values of an attention."""
    b = Builder()
    q, k, v = (b.input(n, f32, (2, 5, 4)) for n in "qkv")
    scores = b.op("dot", q, k, lhs_batch=(0,), rhs_batch=(0,), lhs_contract=(2,), rhs_contract=(2,))
    return finish(b, b.op("softmax", scores, axis=2), v)


def weigh(b: Builder, weights: Value, v: Value) -> Value:
    return b.op("dot", weights, v, lhs_batch=(0,), rhs_batch=(0,), lhs_contract=(2,), rhs_contract=(1,))


def test_weights_that_are_an_output_stay() -> None:
    graph = small(lambda b, w, v: b.returns(weigh(b, w, v), w))
    assert refusals(graphc.value_and_grad(graph, ["q", "k", "v"])) == ["scores or weights are read by something else"]


def test_the_gradient_of_a_bias_keeps_the_matrix() -> None:
    graph = loss(2, 3, 5, 7, 4, 4, mask="bias")
    (reason,) = refusals(graphc.value_and_grad(graph, wrt=["q", "k", "v", "mask"]))
    assert reason.endswith("reads what is of the scores' size")


@pytest.mark.parametrize(("queries", "keys", "causal"), [(19, 37, False), (300, 300, True), (7, 600, False)])
def test_dropout_of_weights(queries: int, keys: int, causal: bool) -> None:
    """What is dropped is a mask of bytes, drawn once; numbers are the interpreter's and, for this mask, PyTorch's."""
    b = Builder()
    q, k, v, dy = (
        b.input(n, f32, (1, 2, s, 8)) for n, s in (("q", queries), ("k", keys), ("v", keys), ("dy", queries))
    )
    weights = attention_weights(b, q, k, scale=0.3, causal=causal)
    keep = b.input("keep", bool_, weights.type.shape)
    left = b.op("select", keep, b.op("mul", weights, b.full_like(1.25, weights)), b.full_like(0, weights))
    y = b.op("dot", left, v, lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(3,), rhs_contract=(2,))
    graph = b.returns(b.op("mul", y, dy))
    inputs = arrays(graph)
    executable = graphc.compile(gradients(graph))
    assert names(executable).count("attention") == names(executable).count("attention_gradient") == 1
    leaves = [torch.from_numpy(x).double().requires_grad_() for x in inputs[:3]]
    scores = leaves[0] @ leaves[1].mT * 0.3
    if causal:
        scores = scores.masked_fill(~torch.ones(queries, keys, dtype=torch.bool).tril(), -torch.inf)
    yt = (torch.softmax(scores, -1) * 1.25 * torch.from_numpy(inputs[4]) @ leaves[2]) * torch.from_numpy(inputs[3])
    yt.sum().backward()
    for seen, x in zip(executable(*inputs), [yt.detach(), *(x.grad for x in leaves)], strict=True):
        close(seen, x.numpy())


def test_dropout_as_models_have_it() -> None:
    def finish(b: Builder, w: Value, v: Value) -> Graph:
        return b.returns(weigh(b, dropout(b, w, b.input("key", i64, (2,)), 0.5, 0), v))

    graph = gradients(small(finish))
    rng = np.random.default_rng(0)
    inputs = [*(rng.normal(size=(2, 5, 4)).astype(np.float32) for _ in "qkv"), np.array([3, 5])]
    executable = graphc.compile(graph)
    assert names(executable).count("attention_gradient") == 1
    for seen, wanted in zip(executable(*inputs), interpret(graph, inputs), strict=True):
        close(seen, wanted)


def test_gradients_of_some_alone() -> None:
    graph = loss(1, 2, 9, 7, 4, 4)
    inputs = arrays(graph)
    wanted = dict(zip("yqkv", torch_values(graph, inputs, "none", "heads first"), strict=True))
    for some in ("q", "k", "qk", "kv"):
        executable = graphc.compile(gradients(graph, some))
        assert names(executable).count("attention_gradient") == 1
        for n, x in zip("y" + some, executable(*inputs), strict=True):
            close(x, wanted[n])
    assert refusals(gradients(graph, "v")) == ["one of the products of its gradient is missing"]
