"""Adam and its kin: steps scaled by moving averages of gradients and of their squares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.types import TensorType
from graphc.ops.arithmetic import add, div, mul, sub
from graphc.training.hyperparameters import DECAY, NOT_NEGATIVE, RATE, Each, check
from graphc.training.optimizers.optimizer import (
    Slot,
    Slots,
    ascending,
    bias_correction,
    coupled_decay,
    decoupled_decay,
    like,
    moving_average,
    over,
    square,
    step_along,
)
from graphc.training.schedules import Schedule


@dataclass(frozen=True)
class Adam:
    """p - rate * m' / (sqrt(v') + eps): m and v average g and g^2, and are divided by 1 - beta^step; m' and v'.

    With `amsgrad` the greatest v so far. Source: Kingma and Ba, 2014; Reddi et al., 2018. torch: torch.optim.Adam.
    """

    rate: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    maximize: bool = False
    decoupled_weight_decay: bool = False

    def __post_init__(self) -> None:
        check(self, rate=RATE, betas=Each(DECAY, 2), eps=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE)

    def slots(self, parameter: TensorType) -> Mapping[str, Slot]:
        return like(parameter, "average", "square_average", *(["greatest"] if self.amsgrad else []))

    def update(
        self, b: Builder, parameter: Value, gradient: Value, slots: Slots, rate: Value, step: Value
    ) -> tuple[Value, Slots]:
        g, p = decayed(b, self, parameter, gradient, rate)
        m = moving_average(b, slots["average"], g, self.betas[0])
        v = moving_average(b, slots["square_average"], square(b, g), self.betas[1])
        new = {"average": m, "square_average": v}
        if self.amsgrad:
            v = new["greatest"] = b.op("max", slots["greatest"], v)
        length = div(b, rate, bias_correction(b, self.betas[0], step))
        return step_along(b, p, length, div(b, m, scale(b, v, self.betas[1], self.eps, step))), new


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weight decay is apart from the gradient: p * (1 - rate * weight_decay) at first.

    Source: Loshchilov and Hutter, 2017. torch: torch.optim.AdamW.
    """

    weight_decay: float = 1e-2
    decoupled_weight_decay: bool = True


@dataclass(frozen=True)
class Adamax:
    """p - rate / (1 - beta1^step) * m / u: u is the greatest of beta2 * u and |g| + eps.

    Source: Kingma and Ba, 2014. torch: torch.optim.Adamax.
    """

    rate: float | Schedule = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    maximize: bool = False

    def __post_init__(self) -> None:
        check(self, rate=RATE, betas=Each(DECAY, 2), eps=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE)

    def slots(self, parameter: TensorType) -> Mapping[str, Slot]:
        return like(parameter, "average", "greatest")

    def update(
        self, b: Builder, parameter: Value, gradient: Value, slots: Slots, rate: Value, step: Value
    ) -> tuple[Value, Slots]:
        g = coupled_decay(b, ascending(b, gradient, self.maximize), parameter, self.weight_decay)
        m = moving_average(b, slots["average"], g, self.betas[0])
        u = b.op("max", mul(b, slots["greatest"], self.betas[1]), add(b, b.op("abs", g), self.eps))
        length = div(b, rate, bias_correction(b, self.betas[0], step))
        return step_along(b, parameter, length, div(b, m, u)), {"average": m, "greatest": u}


@dataclass(frozen=True)
class NAdam:
    """Adam with Nesterov's momentum: mu(t) = beta1 * (1 - 0.96^(t * momentum_decay) / 2) weighs gradient and average.

    Source: Dozat, 2016. torch: torch.optim.NAdam.
    """

    rate: float | Schedule = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False
    maximize: bool = False

    def __post_init__(self) -> None:
        check(
            self,
            rate=RATE,
            betas=Each(DECAY, 2),
            eps=NOT_NEGATIVE,
            weight_decay=NOT_NEGATIVE,
            momentum_decay=NOT_NEGATIVE,
        )

    def slots(self, parameter: TensorType) -> Mapping[str, Slot]:
        return {**like(parameter, "average", "square_average"), "mu_product": Slot((), parameter.dtype, 1.0)}

    def update(
        self, b: Builder, parameter: Value, gradient: Value, slots: Slots, rate: Value, step: Value
    ) -> tuple[Value, Slots]:
        g, p = decayed(b, self, parameter, gradient, rate)
        m = moving_average(b, slots["average"], g, self.betas[0])
        v = moving_average(b, slots["square_average"], square(b, g), self.betas[1])
        mu, mu_next = self._mu(b, step), self._mu(b, add(b, step, 1))
        product = mul(b, slots["mu_product"], mu)
        one = b.full_like(1, rate)
        of_gradient = div(b, sub(b, one, mu), sub(b, one, product))
        of_average = div(b, mu_next, sub(b, one, mul(b, product, mu_next)))
        direction = add(b, mul(b, g, over(b, of_gradient, g)), mul(b, m, over(b, of_average, m)))
        p = step_along(b, p, rate, div(b, direction, scale(b, v, self.betas[1], self.eps, step)))
        return p, {"average": m, "square_average": v, "mu_product": product}

    def _mu(self, b: Builder, step: Value) -> Value:
        power = b.op("exp", mul(b, step, self.momentum_decay * math.log(0.96)))
        return mul(b, sub(b, b.full_like(1, step), mul(b, power, 0.5)), self.betas[0])


def decayed(b: Builder, optimizer: Adam | NAdam, parameter: Value, gradient: Value, rate: Value) -> tuple[Value, Value]:
    """Gradient and parameter after weight decay, coupled or decoupled."""
    g, decay = ascending(b, gradient, optimizer.maximize), optimizer.weight_decay
    if optimizer.decoupled_weight_decay:
        return g, decoupled_decay(b, parameter, rate, decay)
    return coupled_decay(b, g, parameter, decay), parameter


def scale(b: Builder, v: Value, beta: float, eps: float, step: Value) -> Value:
    """sqrt(v / (1 - beta^step)) + eps."""
    correction = b.op("rsqrt", bias_correction(b, beta, step))
    return add(b, mul(b, b.op("sqrt", v), over(b, correction, v)), eps)
