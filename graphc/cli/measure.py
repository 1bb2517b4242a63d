"""Measures executables: latency of whole runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from graphc.executable import Executable

LEAST_RUNS = 5


@dataclass(frozen=True)
class Latency:
    """Seconds of single runs, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)


def measure(executable: Executable, inputs: Sequence[np.ndarray], seconds: float) -> Latency:
    """Runs again and again for about so many seconds (LEAST_RUNS at least), after a tenth of that for warming up."""
    _run_for(executable, inputs, seconds / 10, 1)
    return Latency(tuple(_run_for(executable, inputs, seconds, LEAST_RUNS)))


def _run_for(executable: Executable, inputs: Sequence[np.ndarray], seconds: float, least: int) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        executable(*inputs)
        times.append(time.perf_counter() - start)
    return times
