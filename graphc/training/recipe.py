"""How a model is trained, but for the model and the data: loss, optimizers, and what is done to gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from graphc.errors import GraphcError
from graphc.ir.builder import Builder
from graphc.ir.graph import Value
from graphc.training.hyperparameters import COUNT, POSITIVE, Number, Optional, check
from graphc.training.losses.loss import Loss
from graphc.training.optimizers.optimizer import Optimizer

Penalty = Callable[[Builder, Mapping[str, Value]], Value]
"""Emits a rank-0 term of the loss from the trained parameters, by name."""

Metric = Callable[[Builder, Sequence[Value], Sequence[Value]], Value]
"""Emits a rank-0 number from the model's outputs and the targets."""


@dataclass(frozen=True)
class Group:
    """Parameters, by patterns of their names ("layers.*.bias"), with an optimizer of their own."""

    parameters: Sequence[str]
    optimizer: Optimizer

    def __post_init__(self) -> None:
        if isinstance(self.parameters, str):  # whose letters would be patterns
            raise GraphcError("a group takes a tuple of patterns", seen=repr(self.parameters))


@dataclass(frozen=True)
class Recipe:
    """See `compile_training`, whose arguments these are. Raises GraphcError for values that make no sense."""

    loss: Loss | None
    optimizer: Optimizer
    groups: tuple[Group, ...] = ()
    frozen: tuple[str, ...] = ()
    penalty: Penalty | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    clip_norm: float | None = None
    clip_value: float | None = None
    accumulate: int = 1
    average: float | None = None
    loss_scale: float | Literal["dynamic"] | None = None

    def __post_init__(self) -> None:
        for pattern in self.frozen:
            if not isinstance(pattern, str):
                raise GraphcError("frozen is a list of patterns", seen=repr(pattern), expected='names as "layers.0.*"')
        for group in self.groups:
            if not isinstance(group, Group):
                raise GraphcError("no such group", seen=repr(group), expected='graphc.Group(("*.bias",), optimizer)')
        for optimizer in self.optimizers:
            if isinstance(optimizer, type) or not callable(getattr(optimizer, "update", None)):
                raise GraphcError("no such optimizer", seen=repr(optimizer), expected="a value, as graphc.Adam(1e-3)")
        if self.penalty is not None and not callable(self.penalty):
            raise GraphcError("a penalty is a function", seen=repr(self.penalty), expected="one as L2(0.01)")
        if not isinstance(self.metrics, Mapping):
            raise GraphcError(
                "metrics are functions by name",
                seen=repr(self.metrics),
                hint='graphc.Trainer takes names as "accuracy"',
            )
        for name, metric in self.metrics.items():
            if not callable(metric):
                raise GraphcError(f"the metric {name} is no function", seen=repr(metric), expected="one that emits a number")
        check(
            self, clip_norm=Optional(POSITIVE), clip_value=Optional(POSITIVE), accumulate=COUNT,
            average=Optional(Number(0, 1, inside=True)),
        )  # fmt: skip
        scale = self.loss_scale
        if scale is not None and scale != "dynamic" and not POSITIVE.fits(scale):
            raise GraphcError("no such loss scale", seen=repr(scale), expected='a number above 0, "dynamic" or None')

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizer of parameters in no group, then the groups': each has its own learning rate."""
        return (self.optimizer, *(g.optimizer for g in self.groups))
