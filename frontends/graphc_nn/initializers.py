"""First values of parameters: functions of a shape, of how many inputs and outputs an element connects, and of a generator.

A weight (outputs, inputs, *window) has fan_in = inputs * window and fan_out = outputs * window elements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

Shape = tuple[int, ...]


class Initializer(Protocol):
    """Makes an f64 array of a shape, which is rounded to the parameter's element type."""

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray: ...


def fans(shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight; of a vector, its length twice."""
    if len(shape) < 2:
        size = math.prod(shape)
        return size, size
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


@dataclass(frozen=True)
class Constant:
    """One number everywhere."""

    value: float

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return np.full(shape, self.value)


Zeros, Ones = Constant(0.0), Constant(1.0)


@dataclass(frozen=True)
class Uniform:
    """Between low and high."""

    low: float = -0.05
    high: float = 0.05

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.low, self.high, shape)


@dataclass(frozen=True)
class Normal:
    """Of a mean and a standard deviation."""

    mean: float = 0.0
    deviation: float = 0.02

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return rng.normal(self.mean, self.deviation, shape)


@dataclass(frozen=True)
class TruncatedNormal:
    """Normal, drawn again where it is more than `limit` deviations from the mean."""

    mean: float = 0.0
    deviation: float = 0.02
    limit: float = 2.0

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        drawn = rng.standard_normal(shape)
        while (far := np.abs(drawn) > self.limit).any():
            drawn[far] = rng.standard_normal(int(far.sum()))
        return self.mean + self.deviation * drawn


@dataclass(frozen=True)
class Scaled:
    """Of variance gain^2 / fan, uniform or normal: what keeps signals of one size from layer to layer."""

    gain: float
    fan: Literal["in", "out", "mean"]
    uniform: bool = True

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        fan_in, fan_out = fans(shape)
        fan = {"in": fan_in, "out": fan_out, "mean": (fan_in + fan_out) / 2}[self.fan]
        deviation = self.gain / math.sqrt(max(fan, 1))
        if self.uniform:
            return rng.uniform(-math.sqrt(3) * deviation, math.sqrt(3) * deviation, shape)
        return rng.normal(0.0, deviation, shape)


def xavier(*, uniform: bool = True, gain: float = 1.0) -> Scaled:
    """For tanh and sigmoid. Source: Glorot and Bengio, 2010."""
    return Scaled(gain, "mean", uniform)


def he(*, uniform: bool = True, fan: Literal["in", "out"] = "in") -> Scaled:
    """For rectifiers. Source: He et al., 2015."""
    return Scaled(math.sqrt(2), fan, uniform)


def lecun(*, uniform: bool = True) -> Scaled:
    """Source: LeCun et al., 1998."""
    return Scaled(1.0, "in", uniform)


@dataclass(frozen=True)
class Orthogonal:
    """Rows (or columns, where those are fewer) that are orthogonal, times gain. Source: Saxe et al., 2013."""

    gain: float = 1.0

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        rows, columns = shape[0], math.prod(shape[1:])
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q = q * np.sign(np.diagonal(r))
        found: np.ndarray = self.gain * (q if rows >= columns else q.T).reshape(shape)
        return found
