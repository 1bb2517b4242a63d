"""L-BFGS finds the minima that torch.optim.LBFGS finds, in no more evaluations than half as many again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import graphc
from graphc.errors import GraphcError
from graphc.ir.types import f32, f64
from graphc.training.lbfgs import LBFGS, Function, fit_lbfgs
from graphc.training.line_search import Point, strong_wolfe
from graphc.training.regularization import L2


def _rosenbrock(size: int) -> Function:
    """The sum of 100 (x[i+1] - x[i]^2)^2 + (1 - x[i])^2, and its gradient, compiled."""
    b = graphc.Builder(graphc.Graph("rosenbrock"))
    x = b.input("x", f64, (size,))
    a, c = (b.op("slice", x, starts=(i,), limits=(size - 1 + i,), strides=(1,)) for i in (0, 1))
    d = b.op("sub", c, b.op("mul", a, a))
    e = b.op("sub", b.full_like(1, a), a)
    total = b.op("add", b.op("mul", b.full_like(100, d), b.op("mul", d, d)), b.op("mul", e, e))
    graph = b.returns(b.op("reduce_sum", total, axes=(0,)))
    exe = graphc.compile(graphc.value_and_grad(graph), threads=1)

    def function(at: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = exe(at)
        return float(value), gradient

    return function


def _evaluations_of_torch(start: np.ndarray) -> int:
    """How often torch's evaluates the same function until it stops."""
    x, count = torch.tensor(start, requires_grad=True), 0
    options = {"max_iter": 200, "max_eval": 1000, "history_size": 10, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([x], **options)

    def closure() -> torch.Tensor:
        nonlocal count
        count += 1
        optimizer.zero_grad()
        value = (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
        value.backward()
        return value

    optimizer.step(closure)
    np.testing.assert_allclose(x.detach(), 1, atol=1e-4)
    return count


@pytest.mark.parametrize("start", [np.array([-1.2, 1.0]), np.full(10, 3.0)], ids=["2", "10"])
def test_rosenbrock(start: np.ndarray) -> None:
    found = LBFGS().minimize(_rosenbrock(len(start)), start)
    np.testing.assert_allclose(found.x, 1, atol=1e-5)
    assert found.value < 1e-9
    assert found.evaluations <= 1.5 * _evaluations_of_torch(start)


def _network() -> tuple[graphc.Graph, torch.nn.Module]:
    """The same small net twice."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    b = graphc.Builder(graphc.Graph("net"))
    h = b.input("x", f32, (40, 4))
    for name in ("0", "2"):
        layer = module.get_submodule(name)
        w = b.constant(layer.weight.detach().numpy().T.copy(), f"w{name}")
        h = b.op("matmul", h, w)
        h = b.op("add", h, b.broadcast(b.constant(layer.bias.detach().numpy().copy(), f"b{name}"), h.type.shape, (1,)))
        h = b.op("tanh", h) if name == "0" else h
    return b.returns(h), module


def test_a_small_net_reaches_the_loss_that_torch_reaches() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype(np.float32), rng.integers(0, 3, 40)
    graph, module = _network()
    fitted = fit_lbfgs(graph, loss="cross_entropy", batch=(x, y), penalty=L2(0.05), threads=1)

    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=200, max_eval=1000, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        penalty = sum(p.square().sum() for p in module.parameters()) * 0.025
        value = F.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y)) + penalty
        value.backward()
        return value

    first = float(closure().detach())
    optimizer.step(closure)
    reached = float(closure().detach())
    assert reached < 0.9 * first
    assert fitted.minimum.value == pytest.approx(reached, rel=1e-4)
    logits = torch.from_numpy(fitted.inference(threads=1)(x))
    penalty = sum(float(np.square(p).sum()) for p in fitted.parameters.values()) * 0.025
    assert float(F.cross_entropy(logits, torch.from_numpy(y))) + penalty == pytest.approx(fitted.minimum.value, rel=1e-5)


def test_ends_where_it_must() -> None:
    function = _rosenbrock(2)
    assert LBFGS(max_iter=3).minimize(function, np.zeros(2)).reason == "max_iter"
    few = LBFGS(max_eval=5).minimize(function, np.zeros(2))
    assert few.reason == "max_eval" and few.evaluations == 5
    there = LBFGS().minimize(function, np.ones(2))
    assert (there.reason, there.evaluations) == ("the gradient is zero", 1)
    with pytest.raises(GraphcError, match="isn't finite"):
        LBFGS().minimize(function, np.array([np.nan, 0]))


@pytest.mark.parametrize("first", [1e-3, 1.0, 50.0])
def test_line_search_meets_both_conditions(first: float) -> None:
    def at(t: float) -> Point:  # infinite beyond 3, as losses can be
        value = (t - 2) ** 4 - t if t < 3 else np.inf
        return Point(t, value, 4 * (t - 2) ** 3 - 1 if t < 3 else np.nan, np.zeros(1))

    start = at(0.0)
    p, count = strong_wolfe(at, start, first, 25, c2=0.1)
    assert p.value <= start.value + 1e-4 * p.t * start.slope
    assert abs(p.slope) <= 0.1 * abs(start.slope)
    assert count < 25
