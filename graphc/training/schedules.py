"""Learning rates over time: a schedule is a function of the number of steps already taken."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from graphc.training.hyperparameters import (
    ANY,
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    SHARE,
    WHOLE,
    Each,
    OneOf,
    check,
    check_value,
)

Schedule = Callable[[int], float]
"""From the number of steps (or epochs, as its user counts) already taken, from 0, to the learning rate."""


def rate_at(rate: float | Schedule, step: int) -> float:
    """The learning rate after that many steps; a number is the same at each. Raises GraphcError where a schedule gives none."""
    found = rate(step) if callable(rate) else rate
    check_value(f"the learning rate of step {step}", found, ANY)
    return float(found)


@dataclass(frozen=True)
class StepDecay:
    """rate * gamma ** (step // step_size). torch: StepLR."""

    rate: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check(self, rate=NOT_NEGATIVE, step_size=COUNT, gamma=NOT_NEGATIVE)

    def __call__(self, step: int) -> float:
        return float(self.rate * self.gamma ** (step // self.step_size))


@dataclass(frozen=True)
class MultiStep:
    """rate, times gamma at each milestone (steps, ascending). torch: MultiStepLR."""

    rate: float
    milestones: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check(self, rate=NOT_NEGATIVE, milestones=Each(WHOLE), gamma=NOT_NEGATIVE)

    def __call__(self, step: int) -> float:
        return float(self.rate * self.gamma ** bisect_right(self.milestones, step))


@dataclass(frozen=True)
class Exponential:
    """rate * gamma ** step. torch: ExponentialLR."""

    rate: float
    gamma: float

    def __post_init__(self) -> None:
        check(self, rate=NOT_NEGATIVE, gamma=NOT_NEGATIVE)

    def __call__(self, step: int) -> float:
        return float(self.rate * self.gamma**step)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from rate to minimum over `steps`, then minimum.

    Source: Loshchilov and Hutter, 2016. torch: CosineAnnealingLR, which rises again after its T_max.
    """

    rate: float
    steps: int
    minimum: float = 0.0

    def __post_init__(self) -> None:
        check(self, rate=NOT_NEGATIVE, steps=COUNT, minimum=NOT_NEGATIVE)

    def __call__(self, step: int) -> float:
        return _cosine(self.rate, self.minimum, min(step / self.steps, 1.0))


@dataclass(frozen=True)
class CosineRestarts:
    """Half a cosine from rate to minimum, again and again: first over `period` steps, each time `multiply` times longer.

    Source: Loshchilov and Hutter, 2016. torch: CosineAnnealingWarmRestarts.
    """

    rate: float
    period: int
    multiply: int = 1
    minimum: float = 0.0

    def __post_init__(self) -> None:
        check(self, rate=NOT_NEGATIVE, period=COUNT, multiply=COUNT, minimum=NOT_NEGATIVE)

    def __call__(self, step: int) -> float:
        period = self.period
        while step >= period:
            step -= period
            period *= self.multiply
            if self.multiply == 1:
                step %= period
        return _cosine(self.rate, self.minimum, step / period)


@dataclass(frozen=True)
class OneCycle:
    """Up from rate / div_factor to rate over pct_start of the steps, then down to a final_div_factor-th of the start.

    Source: Smith and Topin, 2017. torch: OneCycleLR, whose max_lr is `rate`. Momentum isn't cycled.
    """

    rate: float
    steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    anneal: Literal["cos", "linear"] = "cos"

    def __post_init__(self) -> None:
        check(
            self, rate=NOT_NEGATIVE, steps=COUNT, pct_start=SHARE, div_factor=POSITIVE, final_div_factor=POSITIVE,
            anneal=OneOf(("cos", "linear")),
        )  # fmt: skip

    def __call__(self, step: int) -> float:
        first, top = self.rate / self.div_factor, self.pct_start * self.steps - 1
        step = min(step, self.steps - 1)
        between = _cosine if self.anneal == "cos" else _linear
        if step <= top:
            return between(first, self.rate, step / top if top else 1.0)
        return between(self.rate, first / self.final_div_factor, (step - top) / (self.steps - 1 - top))


@dataclass(frozen=True)
class Polynomial:
    """rate * (1 - step / steps) ** power, then 0. torch: PolynomialLR."""

    rate: float
    steps: int
    power: float = 1.0

    def __post_init__(self) -> None:
        check(self, rate=NOT_NEGATIVE, steps=COUNT, power=NOT_NEGATIVE)

    def __call__(self, step: int) -> float:
        return float(self.rate * (1 - min(step, self.steps) / self.steps) ** self.power)


@dataclass(frozen=True)
class WarmUp:
    """A schedule (or rate) that starts after `steps`, over which its first rate is reached on a line from `start` times it.

    torch: SequentialLR of LinearLR and the schedule.
    """

    after: float | Schedule
    steps: int
    start: float = 0.0

    def __post_init__(self) -> None:
        check(self, after=RATE, steps=WHOLE, start=NOT_NEGATIVE)

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return rate_at(self.after, step - self.steps)
        return rate_at(self.after, 0) * _linear(self.start, 1.0, step / self.steps)


@dataclass
class Plateau:
    """rate, times `factor` each time that a metric hasn't improved for more than `patience` observations.

    Not a function of the step: `observe` is told the metric, mostly once an epoch. An improvement is by more than
    `threshold`, relative ("rel") or absolute ("abs"); after a reduction `cooldown` observations don't count as bad.
    torch: ReduceLROnPlateau.
    """

    rate: float
    factor: float = 0.1
    patience: int = 10
    mode: Literal["min", "max"] = "min"
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    minimum: float = 0.0
    best: float | None = None
    bad: int = 0
    cooling: int = 0

    def __post_init__(self) -> None:
        check(
            self, rate=NOT_NEGATIVE, factor=SHARE, patience=WHOLE, mode=OneOf(("min", "max")), threshold=NOT_NEGATIVE,
            threshold_mode=OneOf(("rel", "abs")), cooldown=WHOLE, minimum=NOT_NEGATIVE,
        )  # fmt: skip

    def __call__(self, step: int) -> float:
        return self.rate

    def observe(self, metric: float) -> None:
        """Takes note of a metric and lowers the rate where it's time."""
        if self.best is None or self._better(metric, self.best):
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            self.rate = max(self.rate * self.factor, self.minimum)
            self.cooling, self.bad = self.cooldown, 0

    def _better(self, metric: float, best: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            return sign * metric > sign * best * (1 + sign * self.threshold)
        return sign * metric > sign * best + self.threshold


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _linear(start: float, end: float, share: float) -> float:
    return start + (end - start) * share
