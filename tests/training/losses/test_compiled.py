"""Every loss by its name, compiled with its gradients for batches of any size, against the interpreter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import graphc
from graphc.autodiff import gradients
from graphc.interpreter import interpret
from graphc.ir.symbolic import Dim
from graphc.ir.types import dtype_of
from graphc.training.losses import LOSSES

RNG = np.random.default_rng(0)
N, C = 13, 5
SCORES = (RNG.normal(size=(N, C)) * 2).astype(np.float32)
OTHERS = RNG.normal(size=(N, C)).astype(np.float32)
SHARES = RNG.uniform(0.1, 0.9, (N, C)).astype(np.float32)
NUMBERS = RNG.integers(0, C, N)
FRAMES = np.log(RNG.dirichlet(np.ones(C), (9, N))).astype(np.float32)
LABELS = RNG.integers(1, C, (N, 3))

CASES: dict[str, tuple[Sequence[np.ndarray], Sequence[np.ndarray]]] = {
    "binary_cross_entropy": ([SHARES], [SHARES[::-1].copy()]),
    "binary_cross_entropy_with_logits": ([SCORES], [SHARES]),
    "cosine_embedding": ([SCORES, OTHERS], [RNG.choice([-1, 1], N)]),
    "cross_entropy": ([SCORES], [NUMBERS]),
    "ctc": ([FRAMES], [LABELS, np.full(N, 9), RNG.integers(0, 4, N)]),
    "focal": ([SCORES], [NUMBERS]),
    "hinge": ([SCORES], [NUMBERS]),
    "huber": ([SCORES], [OTHERS]),
    "kl": ([np.log(SHARES)], [SHARES[::-1].copy()]),
    "mae": ([SCORES], [OTHERS]),
    "mse": ([SCORES], [OTHERS]),
    "nll": ([np.log(SHARES)], [NUMBERS]),
    "rmse": ([SCORES], [OTHERS]),
    "triplet": ([SCORES, OTHERS, SHARES], []),
}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_compiled(name: str) -> None:
    outputs, targets = CASES[name]
    batch = graphc.Dim("batch")
    b = graphc.Builder()

    def shape(a: np.ndarray) -> tuple[Dim, ...]:
        return tuple(batch if d == N else d for d in a.shape)

    values = [b.input(f"x{i}", dtype_of(a), shape(a)) for i, a in enumerate((*outputs, *targets))]
    loss = LOSSES[name]()(b, values[: len(outputs)], values[len(outputs) :])
    found = gradients(b, {loss: b.full_like(1, loss)}, values[: len(outputs)])
    graph = b.returns(loss, *found)
    exe = graphc.compile(graph, threads=1)
    for seen, expected in zip(exe(*outputs, *targets), interpret(graph, [*outputs, *targets]), strict=True):
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)
