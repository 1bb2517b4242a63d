"""L-BFGS: minimizes a function of which value and gradient are compiled, over one batch of data, with a line search."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.autodiff import value_and_grad
from graphc.backend import Backend
from graphc.driver import compile, import_training
from graphc.errors import GraphcError
from graphc.executable import Executable
from graphc.ir.builder import Builder
from graphc.ir.types import TensorType, dtype_of
from graphc.training.hyperparameters import COUNT, NOT_NEGATIVE, POSITIVE, check
from graphc.training.line_search import Point, strong_wolfe
from graphc.training.losses import LOSSES, loss_of
from graphc.training.losses.loss import Loss
from graphc.training.recipe import Penalty
from graphc.training.trainable import Trainable

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""From a vector (f64) to the value and the gradient there."""


@dataclass(frozen=True)
class Minimum:
    """Where minimization ended: the point, its value, what it took, and why it ended."""

    x: np.ndarray
    value: float
    iterations: int
    evaluations: int
    reason: str


@dataclass(frozen=True)
class LBFGS:
    """Steps along -H g: H, an approximate inverse Hessian, is made of the last `history_size` steps and their gradients.

    rate: the first step length tried, in units of the direction. Ends after `max_iter` iterations or `max_eval`
    evaluations, at a gradient of at most `tolerance_grad` in each element, or where value and point change by less than
    `tolerance_change`. Source: Nocedal and Wright, algorithm 7.4 and 7.5. torch: torch.optim.LBFGS with
    line_search_fn="strong_wolfe", which divides these iterations among calls of its step.
    """

    rate: float = 1.0
    max_iter: int = 200
    max_eval: int = 1000
    tolerance_grad: float = 1e-7
    tolerance_change: float = 1e-9
    history_size: int = 10

    def __post_init__(self) -> None:
        check(
            self, rate=POSITIVE, max_iter=COUNT, max_eval=COUNT, tolerance_grad=NOT_NEGATIVE, tolerance_change=NOT_NEGATIVE,
            history_size=COUNT,
        )  # fmt: skip

    def minimize(self, function: Function, start: np.ndarray) -> Minimum:
        """The minimum of a function (f64) from a point. Raises GraphcError where the value there isn't finite."""
        x = np.array(start, np.float64)
        value, g = function(x)
        if not np.isfinite(value) or not np.isfinite(g).all():
            raise GraphcError("L-BFGS starts where the value or its gradient isn't finite", seen=value)
        evaluations, history = 1, _History(self.history_size)
        for iteration in range(self.max_iter):
            if np.abs(g).max(initial=0) <= self.tolerance_grad:
                return Minimum(x, value, iteration, evaluations, "the gradient is zero")
            if evaluations >= self.max_eval:
                return Minimum(x, value, iteration, evaluations, "max_eval")
            d = history.direction(g)
            slope = float(g @ d)
            if slope >= 0:  # rounding has the better of the history
                history, d, slope = _History(self.history_size), -g, -float(g @ g)
            first = self.rate if history.steps else self.rate * min(1.0, 1.0 / float(np.abs(g).sum()))
            here = Point(0.0, value, slope, g)
            p, tried = strong_wolfe(_along(function, x, d), here, first, self.max_eval - evaluations)
            evaluations += tried
            if p.t == 0:
                return Minimum(x, value, iteration, evaluations, "no step lowers the value")
            step = p.t * d
            history.add(step, p.gradient - g)
            change = value - p.value
            x, value, g = x + step, p.value, p.gradient
            if change < self.tolerance_change or np.abs(step).max() <= self.tolerance_change:
                return Minimum(x, value, iteration + 1, evaluations, "the value changes no more")
        return Minimum(x, value, self.max_iter, evaluations, "max_iter")


class _History:
    """The last steps and the changes of the gradient along them."""

    def __init__(self, size: int) -> None:
        self.steps: deque[tuple[np.ndarray, np.ndarray, float]] = deque(maxlen=size)

    def add(self, step: np.ndarray, change: np.ndarray) -> None:
        curvature = float(step @ change)
        if curvature > 1e-10 * float(change @ change):  # else H would lose its positive definiteness
            self.steps.append((step, change, 1 / curvature))

    def direction(self, gradient: np.ndarray) -> np.ndarray:
        """-H gradient, by the two loops."""
        q, shares = -gradient, []
        for step, change, inverse in reversed(self.steps):
            shares.append(inverse * float(step @ q))
            q = q - shares[-1] * change
        if self.steps:
            _, change, inverse = self.steps[-1]
            q = q / (inverse * float(change @ change))
        for (step, change, inverse), share in zip(self.steps, reversed(shares), strict=True):
            q = q + (share - inverse * float(change @ q)) * step
        return q


def _along(function: Function, x: np.ndarray, d: np.ndarray) -> Callable[[float], Point]:
    def at(t: float) -> Point:
        value, gradient = function(x + t * d)
        return Point(t, value, float(gradient @ d), gradient)

    return at


@dataclass(frozen=True)
class Fitted:
    """A model's parameters at the minimum of its loss over one batch."""

    parameters: Mapping[str, np.ndarray]
    minimum: Minimum
    trainable: Trainable

    def inference(self, **options: Any) -> Executable:
        """The model with these parameters, compiled as by `graphc.compile`, whose arguments it takes."""
        return compile(self.trainable.inference(dict(self.parameters)), **options)

    def write_back(self) -> None:
        """Puts the parameters into the model that was given. Raises GraphcError where its kind can't take them."""
        self.trainable.write_back(self.parameters)


def fit_lbfgs(
    model: Any,
    *,
    loss: str | Loss,
    batch: Sequence[np.ndarray],
    lbfgs: LBFGS | None = None,
    penalty: Penalty | None = None,
    backend: str | Backend = "llvm",
    threads: int | None = None,
    cache: bool = True,
) -> Fitted:
    """Minimizes a model's loss over all its parameters for one batch: the model's inputs, then the loss's targets.

    Raises GraphcError for models with randomness or running state: L-BFGS compares values, so they must be a function.
    """
    chosen = loss_of(loss)
    if chosen is None:
        raise GraphcError("L-BFGS needs a loss", expected=", ".join(sorted(LOSSES)))
    count = len(batch) - chosen.targets
    if count < 0:
        raise GraphcError("the batch lacks the loss's targets", seen=len(batch), expected=f"at least {chosen.targets}")
    trainable = import_training(model, example_inputs=batch[:count])
    if trainable.random or trainable.state:
        what = "randomness" if trainable.random else f"state ({', '.join(trainable.state)})"
        raise GraphcError("L-BFGS needs a model whose loss is a function of its parameters", seen=what)
    graph, mapping = trainable.graph.clone("loss")
    b = Builder(graph, origin=("loss",))
    targets = [graph.add_input(f"target{i}", TensorType(dtype_of(t), t.shape)) for i, t in enumerate(batch[count:])]
    value = chosen(b, [mapping[v] for v in trainable.outputs], targets)
    names = [mapping[v].name for v in trainable.parameter_inputs]
    if penalty is not None:
        trained = dict(zip(trainable.parameters, (mapping[v] for v in trainable.parameter_inputs), strict=True))
        value = b.op("add", value, penalty(b, trained))
    b.returns(value)
    exe = compile(value_and_grad(graph, wrt=names), backend=backend, threads=threads, cache=cache)
    first = list(trainable.parameters.values())
    data = list(batch)

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        result, *gradients = exe(*data[:count], *_split(x, first), *data[count:])
        return float(result), _join(gradients)

    minimum = (lbfgs or LBFGS()).minimize(function, _join(first))
    found = dict(zip(trainable.parameters, _split(minimum.x, first), strict=True))
    return Fitted(found, minimum, trainable)


def _join(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays])


def _split(x: np.ndarray, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    parts = np.split(x, np.cumsum([a.size for a in like])[:-1])
    return [part.reshape(a.shape).astype(a.dtype) for part, a in zip(parts, like, strict=True)]
