"""Gradients of what holds gradients: a penalty on them, an inner step of learning; and gradients of inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import graphc
from graphc.autodiff import gradients
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import f64
from graphc.ir.verifier import verify

RATE = 0.3
SHAPES = {"x": (2, 3, 6, 6), "w": (4, 3, 3, 3), "scale": (64,), "bias": (64,), "v": (64, 5)}


def emit(b: Builder, x: Value, w: Value, scale: Value, bias: Value, v: Value) -> Value:
    """Convolution, activation, norm, projection, and the log-probability of the first class, summed."""
    y = b.op("conv", x, w, strides=(1, 1), padding=(0,) * 4, dilation=(1, 1))
    y = b.op("layer_norm", b.op("gelu", b.reshape(y, (2, 64))), scale, bias, axis=1)
    y = b.op("log_softmax", b.op("matmul", y, v), axis=1)
    return b.reduce("reduce_sum", b.op("slice", y, starts=(0, 0), limits=(2, 1), strides=(1, 1)), (0, 1))


def in_torch(x: Tensor, w: Tensor, scale: Tensor, bias: Tensor, v: Tensor) -> Tensor:
    y = F.layer_norm(F.gelu(F.conv2d(x, w).flatten(1)), (64,), scale, bias)
    return torch.log_softmax(y @ v, 1)[:, 0].sum()


def operands() -> list[np.ndarray]:
    rng = np.random.default_rng(8)
    return [rng.normal(size=s) / (3 if name in "wv" else 1) for name, s in SHAPES.items()]


def inputs(b: Builder) -> list[Value]:
    return [b.input(name, f64, shape) for name, shape in SHAPES.items()]


def one(b: Builder, value: Value) -> dict[Value, Value]:
    return {value: b.full_like(1, value)}


def penalty() -> Graph:
    """The gradients of (|df/dx| - 1)**2 by all but x."""
    b = Builder(Graph("penalty"))
    x, *learned = inputs(b)
    (dx,) = gradients(b, one(b, f := emit(b, x, *learned)), [x])
    norm = b.op("sqrt", b.reduce("reduce_sum", b.op("mul", dx, dx), range(4)))
    off = b.op("sub", norm, b.scalar(1, f64))
    loss = b.op("add", f, b.op("mul", off, off))
    return b.returns(loss, *gradients(b, one(b, loss), learned))


def penalty_in_torch(x: Tensor, *learned: Tensor) -> list[Tensor]:
    f = in_torch(x, *learned)
    (dx,) = torch.autograd.grad(f, x, create_graph=True)
    loss = f + (dx.norm() - 1) ** 2
    return [loss, *torch.autograd.grad(loss, learned)]


def inner_step() -> Graph:
    """The gradients, by what is learned, of the loss at half the data after one step of descent on all of it."""
    b = Builder(Graph("inner_step"))
    x, *learned = inputs(b)
    found = gradients(b, one(b, emit(b, x, *learned)), learned)
    moved = [b.op("sub", p, b.op("mul", g, b.full_like(RATE, g))) for p, g in zip(learned, found, strict=True)]
    loss = emit(b, b.op("mul", x, b.full_like(0.5, x)), *moved)
    return b.returns(loss, *gradients(b, one(b, loss), learned))


def inner_step_in_torch(x: Tensor, *learned: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(in_torch(x, *learned), learned, create_graph=True)
    loss = in_torch(x * 0.5, *(p - RATE * g for p, g in zip(learned, found, strict=True)))
    return [loss, *torch.autograd.grad(loss, learned)]


def attack() -> Graph:
    """The input moved along the sign of its gradient (Goodfellow et al., 2015)."""
    b = Builder(Graph("attack"))
    x, *learned = inputs(b)
    (dx,) = gradients(b, one(b, emit(b, x, *learned)), [x])
    return b.returns(b.op("add", x, b.op("mul", b.op("sign", dx), b.full_like(0.01, x))))


def attack_in_torch(x: Tensor, *learned: Tensor) -> list[Tensor]:
    (dx,) = torch.autograd.grad(in_torch(x, *learned), x)
    return [x + 0.01 * dx.sign()]


@pytest.mark.parametrize(
    ("build", "expected"),
    [(penalty, penalty_in_torch), (inner_step, inner_step_in_torch), (attack, attack_in_torch)],
    ids=["penalty", "inner step", "attack"],
)
def test_equals_torch(build: Callable[[], Graph], expected: Callable[..., list[Tensor]]) -> None:
    graph = build()
    verify(graph)
    wanted = expected(*(torch.from_numpy(x).requires_grad_() for x in operands()))
    compiled = graphc.compile(graph, cache=False, threads=1)
    for results in (interpret(graph, operands()), compiled.run(None, dict(zip(SHAPES, operands(), strict=True)))):
        for seen, e in zip(results, wanted, strict=True):
            np.testing.assert_allclose(
                seen, e.detach().numpy(), rtol=0, atol=1e-10 * (1 + float(e.detach().abs().max()))
            )
