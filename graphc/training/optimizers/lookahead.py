"""Lookahead: slow weights that follow another optimizer's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphc.errors import GraphcError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.ir.types import TensorType
from graphc.ops.arithmetic import add, mul, sub
from graphc.training.hyperparameters import COUNT, SHARE, check
from graphc.training.optimizers.optimizer import Optimizer, Slot, Slots, over
from graphc.training.schedules import Schedule


@dataclass(frozen=True)
class Lookahead:
    """`optimizer`, and after every k of its steps s + alpha * (p - s), which becomes both s and p; s starts at p.

    Source: Zhang et al., 2019, algorithm 1; the inner optimizer keeps its state.
    """

    optimizer: Optimizer
    k: int = 5
    alpha: float = 0.5

    def __post_init__(self) -> None:
        check(self, k=COUNT, alpha=SHARE)
        if isinstance(self.optimizer, type) or not callable(getattr(self.optimizer, "update", None)):
            expected = "an optimizer, as graphc.Lookahead(graphc.Adam(1e-3))"
            raise GraphcError("Lookahead is around an optimizer", seen=repr(self.optimizer), expected=expected)
        if isinstance(self.optimizer, Lookahead):
            raise GraphcError("Lookahead around Lookahead: both would keep their weights under one name")

    @property
    def rate(self) -> float | Schedule:
        return self.optimizer.rate

    def slots(self, parameter: TensorType) -> Mapping[str, Slot]:
        return {**self.optimizer.slots(parameter), "slow": Slot(parameter.shape, parameter.dtype, "parameter")}

    def update(
        self, b: Builder, parameter: Value, gradient: Value, slots: Slots, rate: Value, step: Value
    ) -> tuple[Value, Slots]:
        inner = {name: slot for name, slot in slots.items() if name != "slow"}
        p, new = self.optimizer.update(b, parameter, gradient, inner, rate, step)
        slow = slots["slow"]
        together = add(b, slow, mul(b, sub(b, p, slow), self.alpha))
        due = over(b, b.op("eq", b.op("mod", step, b.full_like(self.k, step)), b.full_like(0, step)), p)
        return b.op("select", due, together, p), {**new, "slow": b.op("select", due, together, slow)}
