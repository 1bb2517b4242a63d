"""Measures executables: latency of whole runs, and time by kernel."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphc.cli.report import seconds_text, shortened, table

if TYPE_CHECKING:
    import numpy as np

    from graphc.executable import Executable

LEAST_RUNS = 5
PROFILED_RUNS = 5


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


def kernel_times(executable: Executable, inputs: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Each kernel call with its median seconds and its share of their sum, slowest first."""
    runs = [executable.time_kernels(*inputs) for _ in range(PROFILED_RUNS)]
    times = [statistics.median(column) for column in zip(*runs, strict=True)]
    total = sum(times) or 1.0
    rows = [
        {
            "name": k.name, "layers": list(k.origin), "seconds": t, "share": t / total,
            "gflops_per_second": k.flops / t * 1e-9 if t else 0.0,
        }
        for k, t in zip(executable.kernels, times, strict=True)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row["seconds"])


def kernel_table(rows: Sequence[dict[str, Any]], *, flops: bool = True) -> str:
    """The kernels as lines of text; `flops` where what they compute is known at these dims."""
    head = ("time", "share", "GFLOP/s", "kernel", "layers")
    lines = [
        (
            seconds_text(r["seconds"]), f"{r['share']:.1%}",
            f"{r['gflops_per_second']:.1f}" if flops and r["gflops_per_second"] else "",
            r["name"], shortened(r["layers"]),
        )
        for r in rows
    ]  # fmt: skip
    return table([head, *lines], right=(0, 1, 2))
