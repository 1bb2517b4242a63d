"""What hyperparameters may be: checked where they are given, as what they break shows elsewhere."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np

from graphc.errors import GraphcError

LARGEST_SEED = 2**63 - 1


class Rule(Protocol):
    """What a value may be; as text, what is expected."""

    def fits(self, value: Any) -> bool:
        """Whether it is that."""


@dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`, without the ends where `inside`; a whole one where `whole`."""

    low: float = -math.inf
    high: float = math.inf
    inside: bool = False
    whole: bool = False

    def fits(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        try:
            number = int(value) if isinstance(value, Integral) else float(value)
            if not math.isfinite(number):
                return False
        except OverflowError:  # no float is as large
            return False
        return self.low < number < self.high if self.inside else self.low <= number <= self.high

    def __str__(self) -> str:
        what = "a whole number" if self.whole else "a number"
        if math.isinf(self.low) and math.isinf(self.high):
            return what
        if math.isinf(self.high):
            return f"{what} above {self.low:g}" if self.inside else f"{what} of {self.low:g} or more"
        return (
            f"{what} {'between' if self.inside else 'from'} {self.low:g} {'and' if self.inside else 'to'} {self.high:g}"
        )


@dataclass(frozen=True)
class Decay(Number):
    """A number from 0 to below 1."""

    low: float = 0.0
    high: float = 1.0

    def fits(self, value: Any) -> bool:
        return super().fits(value) and value < 1

    def __str__(self) -> str:
        return "a number from 0 to below 1"


@dataclass(frozen=True)
class Rate:
    """A learning rate: a number, or a function of the number of steps taken."""

    def fits(self, value: Any) -> bool:
        return NOT_NEGATIVE.fits(value) or (callable(value) and not isinstance(value, type))

    def __str__(self) -> str:
        return "a number of 0 or more, or a schedule as graphc.training.schedules.Cosine(1e-3, 1000)"


@dataclass(frozen=True)
class Each:
    """A tuple of values that all fit; `count` of them, or any number."""

    rule: Rule
    count: int | None = None

    def fits(self, value: Any) -> bool:
        value = value.tolist() if isinstance(value, np.ndarray) else value
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            return False
        return (self.count is None or len(value) == self.count) and all(self.rule.fits(v) for v in value)

    def __str__(self) -> str:
        return f"a tuple of {'some' if self.count is None else self.count}, each {self.rule}"


@dataclass(frozen=True)
class Optional:
    """None, or what fits."""

    rule: Rule

    def fits(self, value: Any) -> bool:
        return value is None or self.rule.fits(value)

    def __str__(self) -> str:
        return f"{self.rule}, or None"


@dataclass(frozen=True)
class OneOf:
    """One of some texts."""

    names: tuple[str, ...]

    def fits(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.names

    def __str__(self) -> str:
        return " or ".join(f'"{n}"' for n in self.names)


@dataclass(frozen=True)
class _Flag:
    def fits(self, value: Any) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


ANY = Number()
NOT_NEGATIVE = Number(0)
POSITIVE = Number(0, inside=True)
SHARE = Number(0, 1)
DECAY = Decay()
WHOLE = Number(0, whole=True)
COUNT = Number(1, whole=True)
RATE = Rate()
REDUCTION = OneOf(("mean", "sum"))
SEED = Number(0, LARGEST_SEED, whole=True)


def check(owner: Any, **rules: Rule) -> None:
    """Raises GraphcError for the first field of a dataclass value that breaks its rule; flags have theirs by their default."""
    flags: Mapping[str, Rule] = {f.name: _Flag() for f in dataclasses.fields(owner) if isinstance(f.default, bool)}
    for name, rule in {**flags, **rules}.items():
        check_value(f"{type(owner).__name__}: {name}", getattr(owner, name), rule)


def check_value(what: str, value: Any, rule: Rule) -> None:
    """Raises GraphcError for a value that breaks its rule."""
    if not rule.fits(value):
        raise GraphcError(f"{what} has no such value", seen=repr(value), expected=rule)
