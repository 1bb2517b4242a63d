"""Fused bodies of every family, for all backends: the same loops, held to the interpreter and to each other.

    @pytest.mark.parametrize("name", BODY_CASES)
    def test_body(name):
        expected, outputs = run_case(name, "llvm")

A case is a graph that becomes one kernel or a few, and the sizes to run it at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.driver import compile as compile_model
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import Dim, symbol
from graphc.ir.types import DTYPES, DType, f16, f32, i64
from graphc.testing.random_graphs import random_inputs

N, S = symbol("n"), symbol("s")
Build = Callable[[Builder], Sequence[Value]]


@dataclass(frozen=True)
class BodyCase:
    """What builds a graph's outputs, and values of its symbols."""

    build: Build
    sizes: tuple[Mapping[str, int], ...] = ({},)

    def graph(self) -> Graph:
        b = Builder()
        return b.returns(*self.build(b))


def run_case(name: str, backend: str, **options: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """(output, what the interpreter says) of a case, at each of its sizes; options go to `graphc.compile`."""
    case = BODY_CASES[name]
    graph = case.graph()
    executable = compile_model(graph, backend, **{"cache": False, **options})
    pairs = []
    for dims in case.sizes:
        inputs = case_inputs(graph, dims)
        outputs = executable(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs += list(zip(outputs, interpret(graph, inputs), strict=True))
    return pairs


def case_bodies(name: str, backend: str, **options: Any) -> list[str]:
    """The loops of a case, as the backend takes them, without their names."""
    text = compile_model(BODY_CASES[name].graph(), backend, **{"cache": False, **options}).text("loops")
    found = [part.partition("\n")[2] for part in text.split("// ")[1:]]
    return sorted(body.strip().partition("(")[2] for body in found)


def case_inputs(graph: Graph, dims: Mapping[str, int]) -> list[np.ndarray]:
    """Normally distributed floats; indices from 0 to 2."""
    arrays = random_inputs(graph, dims, 0)
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 3, x.shape) if v.type.dtype == i64 else x for v, x in zip(graph.inputs, arrays, strict=True)
    ]


def tensor(b: Builder, *shape: Dim, dtype: DType = f32) -> Value:
    """A new input."""
    return b.input(f"x{len(b.graph.inputs)}", dtype, shape)


def transposed_sum(b: Builder) -> Sequence[Value]:
    x, y = tensor(b, N, 6, 8), tensor(b, 8, N, 6)
    return [b.op("tanh", b.op("add", b.transpose(x, (2, 0, 1)), y))]


def padded_slices(b: Builder) -> Sequence[Value]:
    x = tensor(b, 9, 10)
    part = b.op("slice", x, starts=(1, 0), limits=(9, 10), strides=(2, 3))
    return [b.op("mul", b.op("pad", part, b.scalar(2.0, f32), low=(1, 0), high=(0, 2)), tensor(b, 5, 6))]


def broadcast_bias(b: Builder) -> Sequence[Value]:
    x = tensor(b, N, 24)
    return [b.op("relu", b.op("add", x, b.broadcast(tensor(b, 24), x.type.shape, (1,))))]


def half_precision(b: Builder) -> Sequence[Value]:
    x, y = tensor(b, N, 16, dtype=f16), tensor(b, N, 16, dtype=f16)
    return [b.op("mul", b.op("add", x, y), x)]


def joined(b: Builder) -> Sequence[Value]:
    return [b.op("concat", tensor(b, N, 5), tensor(b, N, 3), axis=1)]


def softmax(axis: int, *shape: Dim, dtype: DType = f32) -> Build:
    return lambda b: [b.op("softmax", tensor(b, *shape, dtype=dtype), axis=axis)]


def layer_norm(*shape: Dim) -> Build:
    size = shape[-1]
    return lambda b: [b.op("layer_norm", tensor(b, *shape), tensor(b, size), tensor(b, size), axis=len(shape) - 1)]


def reduced(name: str, *axes: int) -> Build:
    return lambda b: [b.reduce(name, tensor(b, N, 12, 10), list(axes))]


def extremes(b: Builder) -> Sequence[Value]:
    x = tensor(b, N, 7)
    return [b.op("argmax", x, axis=1), b.op("argmin", x, axis=1)]


def pooled(b: Builder) -> Sequence[Value]:
    x = tensor(b, N, 9, 9, 4)
    window: dict[str, Any] = {
        "axes": (1, 2),
        "window": (3, 3),
        "strides": (2, 2),
        "padding": (1, 1, 1, 1),
        "dilation": (1, 1),
    }
    return [b.ops("window_max", x, **window)[0]]


def dense(b: Builder) -> Sequence[Value]:
    x = tensor(b, N, 40)
    y = b.op("matmul", x, tensor(b, 40, 24))
    y = b.op("add", y, b.broadcast(tensor(b, 24), y.type.shape, (1,)))
    return [b.op("relu", b.op("add", y, tensor(b, N, 24)))]


def vector_product(b: Builder) -> Sequence[Value]:
    return [b.op("matmul", tensor(b, 1, 40), tensor(b, 40, 24))]


def product_of(dtype: str) -> Build:
    def build(b: Builder) -> Sequence[Value]:
        kind = DTYPES[dtype]
        return [b.op("exp", b.op("matmul", tensor(b, 17, 40, dtype=kind), tensor(b, 40, 20, dtype=kind)))]

    return build


def batched_scores(b: Builder) -> Sequence[Value]:
    """q k^T of heads that lie between rows and features."""
    q, k = tensor(b, N, S, 2, 8), tensor(b, N, S, 2, 8)
    axes: dict[str, Any] = {"lhs_batch": (0, 2), "rhs_batch": (0, 2), "lhs_contract": (3,), "rhs_contract": (3,)}
    y = b.op("dot", q, k, **axes)
    return [b.op("mul", y, b.full(0.125, y.type))]


def convolution(groups: int, stride: int, channels: int = 8, filters: int = 16) -> Build:
    def build(b: Builder) -> Sequence[Value]:
        x, w = tensor(b, N, 9, 9, channels), tensor(b, 3, 3, channels // groups, filters)
        spec: dict[str, Any] = {
            "strides": (stride, stride),
            "padding": (1, 1, 1, 1),
            "dilation": (1, 1),
            "groups": groups,
        }
        y = b.op("conv", x, w, layout="channels_last", kernel_layout="io", **spec)
        return [b.op("relu", b.op("add", y, b.broadcast(tensor(b, filters), y.type.shape, (3,))))]

    return build


def looked_up(b: Builder) -> Sequence[Value]:
    return [b.op("gather", tensor(b, 20, 12), tensor(b, N, dtype=i64), axis=0)]


def taken(b: Builder) -> Sequence[Value]:
    return [b.op("take_along", tensor(b, 5, 12), tensor(b, 3, 12, dtype=i64), axis=0)]


FEW = ({"n": 1}, {"n": 5})

BODY_CASES: Mapping[str, BodyCase] = {
    "transposed sum": BodyCase(transposed_sum, FEW),
    "padded slices": BodyCase(padded_slices),
    "broadcast bias": BodyCase(broadcast_bias, FEW),
    "half precision": BodyCase(half_precision, FEW),
    "joined": BodyCase(joined, FEW),
    "softmax": BodyCase(softmax(1, N, 40), FEW),
    "softmax over a dynamic axis": BodyCase(softmax(1, 3, N), ({"n": 1}, {"n": 2500})),
    "softmax over columns": BodyCase(softmax(0, 6, 40)),
    "softmax over all": BodyCase(softmax(0, 50)),
    "layer norm": BodyCase(layer_norm(N, 40), FEW),
    "layer norm over long rows": BodyCase(layer_norm(2, 9000)),
    "sum of rows": BodyCase(reduced("reduce_sum", 2), FEW),
    "sum of columns": BodyCase(reduced("reduce_sum", 1), FEW),
    "largest of the batch": BodyCase(reduced("reduce_max", 0), FEW),
    "product of all": BodyCase(reduced("reduce_prod", 0, 1, 2), FEW),
    "extremes": BodyCase(extremes, FEW),
    "pooled": BodyCase(pooled, FEW),
    "dense": BodyCase(dense, FEW),
    "vector product": BodyCase(vector_product),
    "product of f16": BodyCase(product_of("f16")),
    "product of bf16": BodyCase(product_of("bf16")),
    "product of f64": BodyCase(lambda b: [b.op("matmul", *(tensor(b, 17, 17, dtype=DTYPES["f64"]) for _ in "ab"))]),
    "product of i32": BodyCase(lambda b: [b.op("matmul", *(tensor(b, 9, 9, dtype=DTYPES["i32"]) for _ in "ab"))]),
    "batched scores": BodyCase(batched_scores, ({"n": 1, "s": 3}, {"n": 2, "s": 17})),
    "convolution": BodyCase(convolution(1, 1), FEW),
    "strided convolution": BodyCase(convolution(1, 2, 5), FEW),
    "grouped convolution": BodyCase(convolution(2, 1), FEW),
    "depthwise convolution": BodyCase(convolution(8, 1, 8, 8), FEW),
    "looked up": BodyCase(looked_up, FEW),
    "taken": BodyCase(taken),
}
