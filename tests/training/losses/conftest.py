"""What tests of losses share: value and gradients of a loss graph in the interpreter, against torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.types import dtype_of
from graphc.ir.verifier import verify
from graphc.ops.by_decomposition import backpropagate
from graphc.training.losses import Loss

Arrays = Sequence[np.ndarray]
RunLoss = Callable[[Loss, Arrays, Arrays], list[np.ndarray]]


def _run(loss: Loss, outputs: Arrays, targets: Arrays) -> list[np.ndarray]:
    b = Builder(Graph("loss"))
    inputs = [b.input(f"x{i}", dtype_of(a), a.shape) for i, a in enumerate((*outputs, *targets))]
    wrt = inputs[: len(outputs)]
    value = loss(b, wrt, inputs[len(outputs) :])
    assert value.type.rank == 0
    found = backpropagate(b, b.graph.nodes, {value: b.full_like(1, value)}, wrt)
    graph = b.returns(value, *(found[v] if v in found else b.full_like(0, v) for v in wrt))
    verify(graph)
    return interpret(graph, [*outputs, *targets])


@pytest.fixture
def run_loss() -> RunLoss:
    """The loss, then its gradient with respect to each output, of arrays of outputs and targets."""
    return _run


@pytest.fixture
def check_loss() -> Callable[..., None]:
    """(loss, torch's function, outputs, targets): value and gradients agree in f64, NaN for NaN."""

    def check(loss: Loss, function: Callable[..., torch.Tensor], outputs: Arrays, targets: Arrays) -> None:
        assert loss.targets == len(targets)
        xs = [torch.from_numpy(a).requires_grad_() for a in outputs]
        value = function(*xs, *(torch.from_numpy(a) for a in targets))
        expected = [value.detach(), *torch.autograd.grad(value, xs)]
        for s, e in zip(_run(loss, outputs, targets), expected, strict=True):
            np.testing.assert_allclose(s, e.numpy(), rtol=1e-12, atol=1e-13)

    return check
