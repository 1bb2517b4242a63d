"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphc.errors import GraphcError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.types import TensorType
from graphc.ops.arithmetic import add, mul
from graphc.training.hyperparameters import ANY, NOT_NEGATIVE, RATE, check
from graphc.training.optimizers.optimizer import Slot, Slots, ascending, coupled_decay, like, over, step_along
from graphc.training.schedules import Schedule


@dataclass(frozen=True)
class SGD:
    """p - rate * m with m = momentum * m + (1 - dampening) * g, which starts at g; with `nesterov`, g + momentum * m.

    Source: Sutskever et al., 2013, in torch's form (torch.optim.SGD).
    """

    rate: float | Schedule = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False

    def __post_init__(self) -> None:
        check(self, rate=RATE, momentum=NOT_NEGATIVE, dampening=ANY, weight_decay=NOT_NEGATIVE)
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise GraphcError(
                "Nesterov's momentum needs a momentum and no dampening",
                seen=f"momentum={self.momentum}, dampening={self.dampening}", hint="SGD(rate, momentum=0.9, nesterov=True)",
            )  # fmt: skip

    def slots(self, parameter: TensorType) -> Mapping[str, Slot]:
        return like(parameter, "momentum") if self.momentum else {}

    def update(
        self, b: Builder, parameter: Value, gradient: Value, slots: Slots, rate: Value, step: Value
    ) -> tuple[Value, Slots]:
        g = coupled_decay(b, ascending(b, gradient, self.maximize), parameter, self.weight_decay)
        if not self.momentum:
            return step_along(b, parameter, rate, g), {}
        m = add(b, mul(b, slots["momentum"], self.momentum), mul(b, g, 1 - self.dampening) if self.dampening else g)
        if self.dampening:
            first = b.op("eq", step, b.full_like(1, step))
            m = b.op("select", over(b, first, g), g, m)
        direction = add(b, g, mul(b, m, self.momentum)) if self.nesterov else m
        return step_along(b, parameter, rate, direction), {"momentum": m}
