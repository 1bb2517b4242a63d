"""LAMB and Lion: optimizers for large batches and large models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.types import TensorType
from graphc.ops.arithmetic import add, div, mul
from graphc.training.hyperparameters import DECAY, NOT_NEGATIVE, RATE, Each, check
from graphc.training.optimizers.optimizer import (
    Slot,
    Slots,
    ascending,
    bias_correction,
    decoupled_decay,
    like,
    moving_average,
    over,
    square,
    step_along,
)
from graphc.training.schedules import Schedule


@dataclass(frozen=True)
class LAMB:
    """p - rate * |p| / |d| * d with d = Adam's direction + weight_decay * p; the factor is 1 where either norm is 0.

    Source: You et al., 2019, algorithm 2, with the identity for phi.
    """

    rate: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.0
    maximize: bool = False

    def __post_init__(self) -> None:
        check(self, rate=RATE, betas=Each(DECAY, 2), eps=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE)

    def slots(self, parameter: TensorType) -> Mapping[str, Slot]:
        return like(parameter, "average", "square_average")

    def update(
        self, b: Builder, parameter: Value, gradient: Value, slots: Slots, rate: Value, step: Value
    ) -> tuple[Value, Slots]:
        g = ascending(b, gradient, self.maximize)
        m = moving_average(b, slots["average"], g, self.betas[0])
        v = moving_average(b, slots["square_average"], square(b, g), self.betas[1])
        by_m = over(b, bias_correction(b, self.betas[0], step), m)
        by_v = over(b, bias_correction(b, self.betas[1], step), v)
        d = div(b, div(b, m, by_m), add(b, b.op("sqrt", div(b, v, by_v)), self.eps))
        if self.weight_decay:
            d = add(b, d, mul(b, parameter, self.weight_decay))
        own, along = _norm(b, parameter), _norm(b, d)
        zero = b.full_like(0, own)
        both = b.op("logical_and", b.op("gt", own, zero), b.op("gt", along, zero))
        trust = b.op("select", both, div(b, own, along), b.full_like(1, own))
        return step_along(b, parameter, mul(b, rate, trust), d), {"average": m, "square_average": v}


@dataclass(frozen=True)
class Lion:
    """p * (1 - rate * weight_decay) - rate * sign(beta1 * m + (1 - beta1) * g); then m = beta2 * m + (1 - beta2) * g.

    Source: Chen et al., 2023, algorithm 2.
    """

    rate: float | Schedule = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    maximize: bool = False

    def __post_init__(self) -> None:
        check(self, rate=RATE, betas=Each(DECAY, 2), weight_decay=NOT_NEGATIVE)

    def slots(self, parameter: TensorType) -> Mapping[str, Slot]:
        return like(parameter, "average")

    def update(
        self, b: Builder, parameter: Value, gradient: Value, slots: Slots, rate: Value, step: Value
    ) -> tuple[Value, Slots]:
        g, m = ascending(b, gradient, self.maximize), slots["average"]
        direction = b.op("sign", moving_average(b, m, g, self.betas[0]))
        p = decoupled_decay(b, parameter, rate, self.weight_decay)
        return step_along(b, p, rate, direction), {"average": moving_average(b, m, g, self.betas[1])}


def _norm(b: Builder, x: Value) -> Value:
    """The Euclidean norm, of rank 0."""
    return b.op("sqrt", b.op("reduce_sum", square(b, x), axes=tuple(range(x.type.rank))))
