"""What tests of optimizers share: a small net trained for 20 steps in the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import f64
from graphc.ir.verifier import verify
from graphc.ops.by_decomposition import backpropagate
from graphc.training.losses import MSE
from graphc.training.optimizers import Optimizer
from graphc.training.schedules import rate_at

STEPS = 20
RNG = np.random.default_rng(5)
START = [RNG.normal(size=s) for s in ((3, 8), (8,), (8, 2), (2,))]
X, T = RNG.normal(size=(STEPS, 16, 3)), RNG.normal(size=(STEPS, 16, 2))

Trained = list[list[np.ndarray]]
"""The parameters after each step."""


def _step_graph(optimizer: Optimizer) -> tuple[Graph, list[np.ndarray]]:
    """(x, t, rate, step, parameters, slots) -> (new parameters, new slots), and the slots at first."""
    b = Builder(Graph("step"))
    x, t = b.input("x", f64, X.shape[1:]), b.input("t", f64, T.shape[1:])
    rate, step = b.input("rate", f64, ()), b.input("step", f64, ())
    parameters = [b.input(f"p{i}", f64, p.shape) for i, p in enumerate(START)]
    kept = [optimizer.slots(p.type) for p in parameters]
    slots = [{n: b.input(f"{n}{i}", s.dtype, s.shape) for n, s in of.items()} for i, of in enumerate(kept)]
    first = [np.full(s.shape, p if s.initial == "parameter" else s.initial)
             for p, of in zip(START, kept, strict=True) for s in of.values()]  # fmt: skip
    loss = MSE()(b, [_net(b, x, parameters)], [t])
    gradients = backpropagate(b, b.graph.nodes, {loss: b.full_like(1, loss)}, parameters)
    new: list[Value] = []
    new_slots: list[Value] = []
    for p, s, of in zip(parameters, slots, kept, strict=True):
        updated, changed = optimizer.update(b, p, gradients[p], s, rate, step)
        assert set(changed) == set(of)
        new.append(updated)
        new_slots += [changed[n] for n in of]
    graph = b.returns(*new, *new_slots)
    verify(graph)
    return graph, first


def _net(b: Builder, x: Value, parameters: Sequence[Value]) -> Value:
    w1, b1, w2, b2 = parameters
    h = b.op("matmul", x, w1)
    h = b.op("tanh", b.op("add", h, b.broadcast(b1, h.type.shape, (1,))))
    y = b.op("matmul", h, w2)
    return b.op("add", y, b.broadcast(b2, y.type.shape, (1,)))


@pytest.fixture
def train() -> Callable[[Optimizer], Trained]:
    """Trains the net in the interpreter."""

    def run(optimizer: Optimizer) -> Trained:
        graph, slots = _step_graph(optimizer)
        state, trained = [*START, *slots], []
        for i in range(STEPS):
            state = interpret(graph, [X[i], T[i], np.array(rate_at(optimizer.rate, i)), np.array(i + 1.0), *state])
            trained.append(state[: len(START)])
        return trained

    return run


@pytest.fixture
def train_in_torch() -> Callable[..., Trained]:
    """Trains it in torch, with an optimizer made of (parameters, **options)."""

    def run(make: Callable[..., torch.optim.Optimizer], **options: object) -> Trained:
        torch.set_default_dtype(torch.float64)  # in which torch keeps numbers like NAdam's product
        try:
            return train(make, **options)
        finally:
            torch.set_default_dtype(torch.float32)

    def train(make: Callable[..., torch.optim.Optimizer], **options: object) -> Trained:
        parameters = [torch.from_numpy(p.copy()).requires_grad_() for p in START]
        w1, b1, w2, b2 = parameters
        optimizer, trained = make(parameters, **options), []
        for i in range(STEPS):
            optimizer.zero_grad()
            y = torch.tanh(torch.from_numpy(X[i]) @ w1 + b1) @ w2 + b2
            torch.nn.functional.mse_loss(y, torch.from_numpy(T[i])).backward()
            optimizer.step()
            trained.append([p.detach().numpy().copy() for p in parameters])
        return trained

    return run


@pytest.fixture
def train_in_numpy() -> Callable[..., Trained]:
    """Trains it with torch's gradients and, for each parameter, an update (x, g, rate, step) that `make` makes."""

    def run(make: Callable[[], Callable[..., np.ndarray]], rate: float | Callable[[int], float]) -> Trained:
        arrays, updates, trained = list(START), [make() for _ in START], []
        for i in range(STEPS):
            parameters = [torch.from_numpy(p).requires_grad_() for p in arrays]
            w1, b1, w2, b2 = parameters
            y = torch.tanh(torch.from_numpy(X[i]) @ w1 + b1) @ w2 + b2
            gradients = torch.autograd.grad(torch.nn.functional.mse_loss(y, torch.from_numpy(T[i])), parameters)
            together = zip(updates, arrays, gradients, strict=True)
            arrays = [u(p, g.numpy(), rate_at(rate, i), i + 1) for u, p, g in together]
            trained.append(arrays)
        return trained

    return run


@pytest.fixture
def check_trained() -> Callable[[Trained, Trained], None]:
    """The relative difference of all parameters is under 1e-10 after each step, and they have moved."""

    def check(seen: Trained, expected: Trained) -> None:
        for step, (s, e) in enumerate(zip(seen, expected, strict=True)):
            a, b = (np.concatenate([p.ravel() for p in ps]) for ps in (s, e))
            assert np.linalg.norm(a - b) < 1e-10 * np.linalg.norm(b), f"step {step}"
        assert not np.allclose(seen[-1][0], START[0], rtol=1e-4)

    return check
