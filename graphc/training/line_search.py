"""Line search for the strong Wolfe conditions: a step that lowers the value enough and leaves little slope."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Point:
    """What is known at step t along a direction: the value, the gradient, and the slope (gradient times direction)."""

    t: float
    value: float
    slope: float
    gradient: np.ndarray


def strong_wolfe(
    at: Callable[[float], Point], start: Point, first: float, most: int, *, c1: float = 1e-4, c2: float = 0.9
) -> tuple[Point, int]:
    """A point with value <= start + c1 * t * slope and |slope| <= c2 * |start's|, and how many evaluations it took.

    Where `most` evaluations find none, or rounding hides it, the best point with the first condition, which may be `start`.
    `start` has t = 0 and a negative slope; `first` is the step tried first. Source: Nocedal and Wright, "Numerical
    Optimization", 2nd edition, algorithms 3.5 and 3.6.
    """
    low, high, t = start, None, first
    for count in range(1, most + 1):
        p = at(t)
        too_high = not p.value <= start.value + c1 * t * start.slope  # NaN is too high
        if too_high or (low.t > 0 and p.value >= low.value):
            high = p
        elif abs(p.slope) <= -c2 * start.slope:
            return p, count
        elif high is None:
            low, high = (p, low) if p.slope >= 0 else (p, None)
        else:
            low, high = p, low if p.slope * (high.t - low.t) >= 0 else high
        if high is None:
            t = 4 * low.t
        elif abs(high.t - low.t) * abs(low.slope) <= 1e-16 * abs(low.value):
            return low, count  # no step in between changes the value
        else:
            t = _between(low, high)
    return low, most


def _between(low: Point, high: Point) -> float:
    """The minimum of the cubic through both, kept a tenth of the interval away from its ends; else the middle."""
    width = high.t - low.t
    if not math.isfinite(high.value) or not math.isfinite(high.slope):
        return low.t + width / 2
    a = low.slope + high.slope - 3 * (high.value - low.value) / width
    square = a * a - low.slope * high.slope
    if square < 0:
        return low.t + width / 2
    root = math.copysign(math.sqrt(square), width)
    divisor = high.slope - low.slope + 2 * root
    if divisor == 0:
        return low.t + width / 2
    share = 1 - (high.slope + root - a) / divisor
    return low.t + width * min(max(share, 0.1), 0.9)
