"""An operator of one's own: declared once, then compiled, differentiated and tested like the built-in ones.

    python examples/write_an_operator.py
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import graphc
from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import Attribute, Inference, OpDef, Sample
from graphc.ir.types import TensorType, f32
from graphc.ops.by_decomposition import vjp_by_decomposition
from graphc.testing.conformance import cases, check_backend, check_decomposition, check_inference
from graphc.testing.gradients import check_vjp, gradient_samples


def infer(_: Inference, types: Sequence[TensorType], attributes: Mapping[str, Any]) -> tuple[TensorType, ...]:
    return (types[0],)


def reference(operands: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    (x,) = operands
    b, two = x.dtype.type(attributes["b"]), x.dtype.type(2)
    return ((x + np.sqrt(x * x + b)) / two,)


def decompose(b: Builder, node: Node) -> Sequence[Value]:
    (x,) = node.operands
    root = b.op("sqrt", b.op("add", b.op("mul", x, x), b.full_like(node["b"], x)))
    return (b.op("div", b.op("add", x, root), b.full_like(2, x)),)


def samples() -> Iterable[Sample]:
    rng = np.random.default_rng(0)
    yield Sample((rng.standard_normal((3, 5)),))
    yield Sample((rng.standard_normal(17),), {"b": 1.0})
    yield Sample((np.array(0.5),))
    yield Sample((np.zeros((0, 4)),))
    yield Sample((np.array([np.nan, np.inf, 0.0]),), differentiable=False)


SQUAREPLUS = OpDef(
    name="squareplus",
    operands=("x",),
    attributes={"b": Attribute("float", 4.0)},
    infer=infer,
    reference=reference,
    decompose=decompose,
    vjp=vjp_by_decomposition,
    samples=samples,
    doc="(x + sqrt(x^2 + b)) / 2 on every element: a smooth relu (Barron, 2021).",
)

b = Builder()
x = b.input("x", f32, (graphc.Dim("n"), 8))
exe = graphc.compile(b.returns(b.op(SQUAREPLUS, x, b=1.0)))
print(exe(np.linspace(-2, 2, 8, dtype=np.float32).reshape(1, 8)))

for case in cases([SQUAREPLUS]):
    check_inference(case)
    check_decomposition(case)
    check_backend(case, "llvm")
    print(f"{case}: inference, decomposition and native code agree with the reference")
for sample in gradient_samples(SQUAREPLUS):
    check_vjp(SQUAREPLUS, sample)
print("gradients agree with finite differences")
