"""Optimizers that scale each element's step by its own past gradients: Adagrad, RMSprop, Adadelta, Rprop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.types import TensorType
from graphc.ops.arithmetic import add, div, mul, sub
from graphc.training.hyperparameters import NOT_NEGATIVE, POSITIVE, RATE, SHARE, Each, check
from graphc.training.optimizers.optimizer import (
    Slot,
    Slots,
    ascending,
    coupled_decay,
    like,
    moving_average,
    square,
    step_along,
)
from graphc.training.schedules import Schedule, rate_at


@dataclass(frozen=True)
class Adagrad:
    """p - rate / (1 + (step - 1) * lr_decay) * g / (sqrt(s) + eps), s the sum of all g^2.

    Source: Duchi et al., 2011. torch: torch.optim.Adagrad.
    """

    rate: float | Schedule = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    maximize: bool = False

    def __post_init__(self) -> None:
        check(
            self,
            rate=RATE,
            lr_decay=NOT_NEGATIVE,
            weight_decay=NOT_NEGATIVE,
            initial_accumulator_value=NOT_NEGATIVE,
            eps=NOT_NEGATIVE,
        )

    def slots(self, parameter: TensorType) -> Mapping[str, Slot]:
        return like(parameter, "sum", initial=self.initial_accumulator_value)

    def update(
        self, b: Builder, parameter: Value, gradient: Value, slots: Slots, rate: Value, step: Value
    ) -> tuple[Value, Slots]:
        g = coupled_decay(b, ascending(b, gradient, self.maximize), parameter, self.weight_decay)
        s = add(b, slots["sum"], square(b, g))
        if self.lr_decay:
            rate = div(b, rate, add(b, mul(b, sub(b, step, 1), self.lr_decay), 1))
        return step_along(b, parameter, rate, div(b, g, add(b, b.op("sqrt", s), self.eps))), {"sum": s}


@dataclass(frozen=True)
class RMSprop:
    """p - rate * g / (sqrt(v) + eps), v averaging g^2; `centered`: v less the square of g's average; with momentum.

    Source: Hinton, 2012; Graves, 2013 (centered). torch: torch.optim.RMSprop.
    """

    rate: float | Schedule = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    maximize: bool = False

    def __post_init__(self) -> None:
        check(self, rate=RATE, alpha=SHARE, eps=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE, momentum=NOT_NEGATIVE)

    def slots(self, parameter: TensorType) -> Mapping[str, Slot]:
        momentum, average = ["momentum"] if self.momentum else [], ["average"] if self.centered else []
        return like(parameter, "square_average", *average, *momentum)

    def update(
        self, b: Builder, parameter: Value, gradient: Value, slots: Slots, rate: Value, step: Value
    ) -> tuple[Value, Slots]:
        g = coupled_decay(b, ascending(b, gradient, self.maximize), parameter, self.weight_decay)
        v = moving_average(b, slots["square_average"], square(b, g), self.alpha)
        new = {"square_average": v}
        if self.centered:
            average = new["average"] = moving_average(b, slots["average"], g, self.alpha)
            v = sub(b, v, square(b, average))
        direction = div(b, g, add(b, b.op("sqrt", v), self.eps))
        if self.momentum:
            direction = new["momentum"] = add(b, mul(b, slots["momentum"], self.momentum), direction)
        return step_along(b, parameter, rate, direction), new


@dataclass(frozen=True)
class Adadelta:
    """p - rate * d with d = sqrt(u + eps) / sqrt(v + eps) * g: v averages g^2 and u averages d^2.

    Source: Zeiler, 2012. torch: torch.optim.Adadelta.
    """

    rate: float | Schedule = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0
    maximize: bool = False

    def __post_init__(self) -> None:
        check(self, rate=RATE, rho=SHARE, eps=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE)

    def slots(self, parameter: TensorType) -> Mapping[str, Slot]:
        return like(parameter, "square_average", "step_average")

    def update(
        self, b: Builder, parameter: Value, gradient: Value, slots: Slots, rate: Value, step: Value
    ) -> tuple[Value, Slots]:
        g = coupled_decay(b, ascending(b, gradient, self.maximize), parameter, self.weight_decay)
        v = moving_average(b, slots["square_average"], square(b, g), self.rho)
        u = slots["step_average"]
        roots = [b.op("sqrt", add(b, x, self.eps)) for x in (u, v)]
        d = mul(b, div(b, *roots), g)
        new = {"square_average": v, "step_average": moving_average(b, u, square(b, d), self.rho)}
        return step_along(b, parameter, rate, d), new


@dataclass(frozen=True)
class Rprop:
    """p - sign(g) * d: d, at first the rate, grows by etas[1] where g kept its sign; where it changed, d shrinks by
    etas[0] and p stays. For whole batches; a schedule of the rate matters at the first step alone.

    Source: Riedmiller and Braun, 1993 (Rprop-). torch: torch.optim.Rprop.
    """

    rate: float | Schedule = 1e-2
    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)
    maximize: bool = False

    def __post_init__(self) -> None:
        check(self, rate=RATE, etas=Each(POSITIVE, 2), step_sizes=Each(NOT_NEGATIVE, 2))

    def slots(self, parameter: TensorType) -> Mapping[str, Slot]:
        return {**like(parameter, "gradient"), **like(parameter, "size", initial=rate_at(self.rate, 0))}

    def update(
        self, b: Builder, parameter: Value, gradient: Value, slots: Slots, rate: Value, step: Value
    ) -> tuple[Value, Slots]:
        g = ascending(b, gradient, self.maximize)
        agreement, zero, one = mul(b, g, slots["gradient"]), b.full_like(0, g), b.full_like(1, g)
        turned = b.op("lt", agreement, zero)
        factor = b.op("select", turned, b.full_like(self.etas[0], g), one)
        factor = b.op("select", b.op("gt", agreement, zero), b.full_like(self.etas[1], g), factor)
        low, high = (b.full_like(size, g) for size in self.step_sizes)
        size = b.op("min", b.op("max", mul(b, slots["size"], factor), low), high)
        g = b.op("select", turned, zero, g)
        return sub(b, parameter, mul(b, b.op("sign", g), size)), {"gradient": g, "size": size}
