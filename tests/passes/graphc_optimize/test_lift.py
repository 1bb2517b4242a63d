"""Lifting, from the pieces that decompositions and exporters write, and what it refuses."""

from __future__ import annotations

import io
import math
import warnings
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import symbol
from graphc.ir.types import bf16, bool_, f32
from graphc_optimize.canonicalize import Canonicalize
from graphc_optimize.dce import DeadCode
from graphc_optimize.decompose import Decompose
from graphc_optimize.fold_constants import FoldConstants
from graphc_optimize.lift import Lift
from graphc_optimize.simplify_algebra import SimplifyAlgebra

torch = pytest.importorskip("torch")

N = symbol("n")


def _ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


def _c(b: Builder, x: Value, number: float) -> Value:
    return b.full_like(number, x)


# What was decomposed comes back

COMPOSITES = {
    "gelu": ("gelu", {}, [(N, 5)]),
    "gelu tanh": ("gelu", {"approximate": "tanh"}, [(N, 5)]),
    "silu": ("silu", {}, [(N, 5)]),
    "softmax": ("softmax", {"axis": 1}, [(N, 5, 3)]),
    "layer_norm": ("layer_norm", {"axis": 2, "epsilon": 1e-5}, [(2, N, 5), (5,), (5,)]),
    "layer_norm of two axes": ("layer_norm", {"axis": 1, "epsilon": 1e-3}, [(N, 4, 5), (4, 5), (4, 5)]),
    "rms_norm": ("rms_norm", {"axis": 2, "epsilon": 1e-5}, [(2, N, 5), (5,)]),
    "attention": ("attention", {"scale": 0.5}, [(2, 3, N, 4), (2, 3, 7, 4), (2, 3, 7, 6)]),
    "attention with mask": ("attention", {"scale": 0.5}, [(2, 3, N, 4), (2, 3, 7, 4), (2, 3, 7, 6), (2, 3, N, 7)]),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_decomposition_is_undone(name: str, run_passes) -> None:
    op, attributes, shapes = COMPOSITES[name]
    b = Builder(Graph(), origin=("layer",))
    y = b.op(op, *(b.input(f"x{i}", f32, s) for i, s in enumerate(shapes)), **attributes)
    graph, context = run_passes(b.returns(y), Decompose(), Lift(), DeadCode())
    assert _ops(graph) == [op]
    node = graph.nodes[0]
    assert node.origin == ("layer",)
    assert {k: v for k, v in node.attributes.items() if not isinstance(v, float)} == {
        k: v for k, v in y.producer.attributes.items() if not isinstance(v, float)
    }
    assert node.attributes.get("epsilon") == pytest.approx(attributes.get("epsilon"), rel=1e-6)
    assert context.refusals == []


# What torch's exporters write


def _modules() -> dict[str, tuple[torch.nn.Module, tuple[torch.Tensor, ...], str]]:
    nn = torch.nn

    class NewGelu(nn.Module):
        def forward(self, x):
            return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))

    class FastGelu(nn.Module):
        def forward(self, x):
            return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))

    class BertGelu(nn.Module):
        def forward(self, x):
            return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))

    class LlamaNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(8))

        def forward(self, x):
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    class Attention(nn.Module):
        def forward(self, q, k, v):
            return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(8), -1) @ v

    class MaskedAttention(nn.Module):
        def forward(self, q, k, v, mask):
            return torch.softmax(torch.matmul(q, k.transpose(2, 3)) * 0.25 + mask, -1) @ v

    class BatchedAttention(nn.Module):
        def forward(self, q, k, v):
            return torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1), v)

    x, q, t = torch.randn(2, 5, 8), torch.randn(2, 3, 5, 8), torch.randn(6, 5, 8)
    mask = torch.where(torch.rand(2, 1, 1, 5) > 0.3, 0.0, -1e30)
    return {
        "GELU": (nn.GELU(), (x,), "gelu"),
        "GELU(tanh)": (nn.GELU(approximate="tanh"), (x,), "gelu"),
        "NewGELU": (NewGelu(), (x,), "gelu"),
        "FastGELU": (FastGelu(), (x,), "gelu"),
        "BertGELU": (BertGelu(), (x,), "gelu"),
        "SiLU": (nn.SiLU(), (x,), "silu"),
        "LayerNorm": (nn.LayerNorm(8), (x,), "layer_norm"),
        "LayerNorm(bare)": (nn.LayerNorm(8, elementwise_affine=False), (x,), "layer_norm"),
        "LayerNorm(two axes)": (nn.LayerNorm((5, 8)), (x,), "layer_norm"),
        "LlamaRMSNorm": (LlamaNorm(), (x,), "rms_norm"),
        "attention": (Attention(), (q, q, q), "attention"),
        "masked attention": (MaskedAttention(), (q, q, q, mask), "attention"),
        "batched attention": (BatchedAttention(), (t, t, t), "attention"),
    }


MODULES = _modules()


@pytest.mark.parametrize("opset", [9, 14, 17])
@pytest.mark.parametrize("name", MODULES)
def test_exported_pieces_are_recognized(name: str, opset: int, run_passes) -> None:
    from graphc_onnx import import_model

    module, inputs, wanted = MODULES[name]
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, inputs, file, dynamo=False, opset_version=opset)
    graph = import_model(file.getvalue())
    passes = (Canonicalize(), FoldConstants(), SimplifyAlgebra(), Canonicalize(), Lift(), DeadCode())
    graph, _ = run_passes(graph, *passes)
    left = Counter(n for n in _ops(graph) if n not in ("constant", "reshape", "broadcast", "transpose"))
    assert left == {wanted: 1}
    from graphc.interpreter import interpret

    (seen,) = interpret(graph, [x.numpy() for x in inputs])
    np.testing.assert_allclose(seen, module(*inputs).detach().numpy(), rtol=0, atol=2e-5)


# Other forms


def test_sigmoid(run_passes) -> None:
    b = Builder(Graph())
    x = b.input("x", f32, (N,))
    y = b.op("div", _c(b, x, 1), b.op("add", _c(b, x, 1), b.op("exp", b.op("neg", x))))
    graph, _ = run_passes(b.returns(y), Lift(), DeadCode())
    assert _ops(graph) == ["sigmoid"]


def test_silu_by_division(run_passes) -> None:
    b = Builder(Graph())
    x = b.input("x", f32, (N,))
    y = b.op("div", x, b.op("add", b.op("exp", b.op("neg", x)), _c(b, x, 1)))
    graph, _ = run_passes(b.returns(y), Lift(), DeadCode())
    assert _ops(graph) == ["silu"]


def test_boolean_mask(run_passes) -> None:
    b = Builder(Graph())
    q, k = b.input("q", f32, (1, 2, N, 4)), b.input("k", f32, (1, 2, 6, 4))
    scores = b.op("matmul", q, b.transpose(k, (0, 1, 3, 2)))
    hidden = b.op("select", b.input("mask", bool_, (1, 2, N, 6)), scores, _c(b, scores, -math.inf))
    y = b.op("matmul", b.op("softmax", hidden, axis=3), k)
    graph, _ = run_passes(b.returns(y), Lift(), DeadCode(), Canonicalize())
    assert _ops(graph)[-1] == "attention"
    assert len(graph.nodes[-1].operands) == 4


# Refused


def _layer_norm(b: Builder, x: Value, *, count: float = 5, axes: tuple[int, ...] = (2,)) -> Value:
    kept = [i for i in range(3) if i not in axes]

    def mean(v: Value) -> Value:
        s = b.op("reduce_sum", v, axes=axes)
        return b.broadcast(b.op("div", s, b.full_like(count, s)), v.type.shape, kept)

    low = b.op("sub", x, mean(x))
    root = b.op("sqrt", b.op("add", mean(b.op("mul", low, low)), _c(b, x, 1e-5)))
    return b.op("div", low, root)


REFUSED: dict[str, tuple[Callable[[Builder, Value], tuple[Value, ...]], str, str]] = {
    "count that isn't the number of elements": (
        lambda b, x: (_layer_norm(b, x, count=4),), "layer_norm", "sum of 5 elements is divided by 4",
    ),
    "mean over other axes": (lambda b, x: (_layer_norm(b, x, axes=(1,)),), "layer_norm", "not over trailing ones"),
    "softmax over two axes": (
        lambda b, x: _two_axis_softmax(b, x), "softmax", "not one and the same",
    ),
    "weights of attention that are an output": (
        lambda b, x: _attention_with_weights(b, x), "attention", "is used elsewhere",
    ),
    "scores of operands narrower than they are": (lambda b, x: _narrow_scores(b, x), "attention", "of another type"),
    "softmax along the queries": (
        lambda b, x: (b.op("matmul", b.op("softmax", b.op("matmul", x, b.transpose(x, (0, 2, 1))), axis=1), x),),
        "attention", "isn't along the keys",
    ),
}  # fmt: skip


def _two_axis_softmax(b: Builder, x: Value) -> tuple[Value, ...]:
    e = b.op("exp", b.op("sub", x, b.reduce("reduce_max", x, (1, 2), keep=True)))
    return (b.op("div", e, b.reduce("reduce_sum", e, (1, 2), keep=True)),)


def _attention_with_weights(b: Builder, x: Value) -> tuple[Value, ...]:
    weights = b.op("softmax", b.op("matmul", x, b.transpose(x, (0, 2, 1))), axis=2)
    return b.op("matmul", weights, x), weights


def _narrow_scores(b: Builder, x: Value) -> tuple[Value, ...]:
    q, batch = b.cast(x, bf16), {"lhs_batch": (0,), "rhs_batch": (0,)}
    scores = b.op("dot", q, q, lhs_contract=(2,), rhs_contract=(2,), wide=True, **batch)
    return (b.op("dot", b.op("softmax", scores, axis=2), x, lhs_contract=(2,), rhs_contract=(1,), **batch),)


@pytest.mark.parametrize("name", REFUSED)
def test_near_misses_are_refused_with_a_reason(name: str, run_passes) -> None:
    make, op, reason = REFUSED[name]
    b = Builder(Graph())
    x = b.input("x", f32, (2, 5, 5))
    graph, context = run_passes(b.returns(*make(b, x)), Lift())
    assert op not in _ops(graph)
    assert any(reason in r.reason for r in context.refusals), context.refusals


def test_wrong_numbers_are_no_match(run_passes) -> None:
    """Another coefficient is another function."""
    for slope, half in ((0.7071, 0.5), (math.sqrt(0.5), 0.51)):
        b = Builder(Graph())
        x = b.input("x", f32, (N,))
        bend = b.op("erf", b.op("mul", x, _c(b, x, slope)))
        y = b.op("mul", b.op("mul", x, _c(b, x, half)), b.op("add", bend, _c(b, x, 1)))
        graph, _ = run_passes(b.returns(y), Lift())
        assert "gelu" not in _ops(graph)


def test_unstable_softmax_is_left_alone(run_passes) -> None:
    """exp(x) / sum(exp(x)) overflows where softmax doesn't."""
    b = Builder(Graph())
    e = b.op("exp", b.input("x", f32, (N, 5)))
    graph, _ = run_passes(b.returns(b.op("div", e, b.reduce("reduce_sum", e, (1,), keep=True))), Lift())
    assert "softmax" not in _ops(graph)


def test_inner_value_used_elsewhere_is_refused(run_passes) -> None:
    b = Builder(Graph())
    x = b.input("x", f32, (N,))
    bend = b.op("erf", b.op("mul", x, _c(b, x, math.sqrt(0.5))))
    y = b.op("mul", b.op("mul", x, _c(b, x, 0.5)), b.op("add", bend, _c(b, x, 1)))
    graph, context = run_passes(b.returns(y, bend), Lift())
    assert "gelu" not in _ops(graph)
    assert [r.rule for r in context.refusals] == ["lift-gelu"]
