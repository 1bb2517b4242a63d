"""Optimizers that torch doesn't have, for 20 steps against their papers' algorithms written in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphc.errors import GraphcError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.types import f64
from graphc.training import optimizers

Array = np.ndarray


class _Lamb:
    """You et al., 2019, algorithm 2."""

    def __init__(self, weight_decay: float, maximize: bool) -> None:
        self.decay, self.sign = weight_decay, -1.0 if maximize else 1.0
        self.m: Any = 0.0
        self.v: Any = 0.0

    def __call__(self, x: Array, g: Array, rate: float, t: int) -> Array:
        g = self.sign * g
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g**2
        r = (self.m / (1 - 0.9**t)) / (np.sqrt(self.v / (1 - 0.999**t)) + 1e-6) + self.decay * x
        return x - rate * np.linalg.norm(x) / np.linalg.norm(r) * r


class _Lion:
    """Chen et al., 2023, algorithm 2."""

    def __init__(self, weight_decay: float, maximize: bool) -> None:
        self.decay, self.sign = weight_decay, -1.0 if maximize else 1.0
        self.m: Any = 0.0

    def __call__(self, x: Array, g: Array, rate: float, t: int) -> Array:
        g = self.sign * g
        c = 0.9 * self.m + 0.1 * g
        self.m = 0.99 * self.m + 0.01 * g
        return x - rate * (np.sign(c) + self.decay * x)


class _LookaheadSGD:
    """Zhang et al., 2019, algorithm 1, around gradient descent with momentum."""

    def __init__(self, momentum: float, k: int, alpha: float) -> None:
        self.momentum, self.k, self.alpha = momentum, k, alpha
        self.m: Any = 0.0
        self.slow: Array | None = None

    def __call__(self, x: Array, g: Array, rate: float, t: int) -> Array:
        if self.slow is None:
            self.slow = x
        self.m = self.momentum * self.m + g
        x = x - rate * self.m
        if t % self.k == 0:
            x = self.slow = self.slow + self.alpha * (x - self.slow)
        return x


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("ours", "paper"), [(optimizers.LAMB, _Lamb), (optimizers.Lion, _Lion)], ids=["lamb", "lion"])
def test_follows_the_paper(
    train: Callable[..., Any], train_in_numpy: Callable[..., Any], check_trained: Callable[..., None],
    ours: Callable[..., Any], paper: Callable[..., Any], weight_decay: float, maximize: bool,
) -> None:  # fmt: skip
    seen = train(ours(0.02, weight_decay=weight_decay, maximize=maximize))
    check_trained(seen, train_in_numpy(lambda: paper(weight_decay, maximize), 0.02))


def test_lookahead(
    train: Callable[..., Any], train_in_numpy: Callable[..., Any], check_trained: Callable[..., None]
) -> None:
    seen = train(optimizers.Lookahead(optimizers.SGD(0.02, momentum=0.8), k=3, alpha=0.4))
    check_trained(seen, train_in_numpy(lambda: _LookaheadSGD(0.8, 3, 0.4), 0.02))


def test_a_schedule_inside_lookahead_is_its_rate(
    train: Callable[..., Any], train_in_numpy: Callable[..., Any], check_trained: Callable[..., None]
) -> None:
    def rate(step: int) -> float:
        return 0.02 / (1 + step)

    seen = train(optimizers.Lookahead(optimizers.SGD(rate, momentum=0.8)))
    check_trained(seen, train_in_numpy(lambda: _LookaheadSGD(0.8, 5, 0.5), rate))


def test_lamb_moves_a_parameter_that_is_all_zeros() -> None:
    b = Builder()
    p, g, m, v = (b.input(n, f64, (3,)) for n in "pgmv")
    rate, step = b.input("rate", f64, ()), b.input("step", f64, ())
    new, _ = optimizers.LAMB().update(b, p, g, {"average": m, "square_average": v}, rate, step)
    zeros = np.zeros(3)
    (moved,) = interpret(b.returns(new), [zeros, np.array([1.0, -2, 3]), zeros, zeros, np.array(0.1), np.array(1.0)])
    np.testing.assert_allclose(moved, [-0.1, 0.1, -0.1], rtol=1e-5)


def test_lookahead_refuses_itself() -> None:
    with pytest.raises(GraphcError, match="one name"):
        optimizers.Lookahead(optimizers.Lookahead(optimizers.SGD(0.1)))
