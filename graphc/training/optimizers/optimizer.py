"""What an optimizer is: a builder of one parameter's update, and the state (slots) that it keeps for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim
from graphc.ir.types import DType, TensorType
from graphc.ops.arithmetic import add, mul, sub
from graphc.training.schedules import Schedule

Slots = Mapping[str, Value]


@dataclass(frozen=True)
class Slot:
    """A tensor that an optimizer keeps for a parameter; at first all `initial`, or a copy of the parameter."""

    shape: tuple[Dim, ...]
    dtype: DType
    initial: float | Literal["parameter"] = 0.0


class Optimizer(Protocol):
    """Emits updates, mostly elementwise, so that one loop over a parameter reads and writes it and its slots once."""

    @property
    def rate(self) -> float | Schedule:
        """The learning rate, or how it changes."""

    def slots(self, parameter: TensorType) -> Mapping[str, Slot]:
        """What is kept for a parameter of that type, by name."""

    def update(
        self, b: Builder, parameter: Value, gradient: Value, slots: Slots, rate: Value, step: Value
    ) -> tuple[Value, Slots]:
        """Emits the parameter's and the slots' new values; rate and step (from 1) have rank 0 and its element type."""


def like(parameter: TensorType, *names: str, initial: float = 0.0) -> dict[str, Slot]:
    """Slots of a parameter's own type."""
    return {name: Slot(parameter.shape, parameter.dtype, initial) for name in names}


def over(b: Builder, scalar: Value, x: Value) -> Value:
    """A rank-0 value, repeated to the shape of `x`."""
    return b.broadcast(scalar, x.type.shape, ())


def step_along(b: Builder, parameter: Value, rate: Value, direction: Value) -> Value:
    """parameter - rate * direction; `rate` has rank 0."""
    return sub(b, parameter, mul(b, direction, over(b, rate, direction)))


def moving_average(b: Builder, average: Value, x: Value, decay: float) -> Value:
    """decay * average + (1 - decay) * x, as average + (1 - decay) * (x - average)."""
    return add(b, average, mul(b, sub(b, x, average), 1 - decay))


def square(b: Builder, x: Value) -> Value:
    """x * x."""
    return mul(b, x, x)


def bias_correction(b: Builder, decay: float, step: Value) -> Value:
    """1 - decay ** step, of rank 0; by expm1, as the power is close to 1 in the first steps."""
    if decay == 0:
        return b.full_like(1, step)
    return b.op("neg", b.op("expm1", mul(b, step, math.log(decay))))


def ascending(b: Builder, gradient: Value, maximize: bool) -> Value:
    """The gradient of what is minimized: turned around where the loss is to grow."""
    return b.op("neg", gradient) if maximize else gradient


def coupled_decay(b: Builder, gradient: Value, parameter: Value, weight_decay: float) -> Value:
    """gradient + weight_decay * parameter: that of the loss with weight_decay / 2 * |parameter|^2 added."""
    return add(b, gradient, mul(b, parameter, weight_decay)) if weight_decay else gradient


def decoupled_decay(b: Builder, parameter: Value, rate: Value, weight_decay: float) -> Value:
    """parameter * (1 - rate * weight_decay). Source: Loshchilov and Hutter, 2017."""
    if not weight_decay:
        return parameter
    kept = sub(b, b.full_like(1, rate), mul(b, rate, weight_decay))
    return mul(b, parameter, over(b, kept, parameter))
