"""Where the time of a run goes: each kernel call beside its layers and beside what the device can do at best."""

from __future__ import annotations

import io
import json
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc.backend import KernelTime, Limits
from graphc.errors import GraphcError

if TYPE_CHECKING:
    from rich.table import Table

    from graphc.executable import Executable

SHOWN = 20
"""How many kernel calls the table shows, the slowest; JSON and the trace have all of them."""
SHOWN_LAYERS = 2
WIDTH = 150
"""Columns of the table as plain text."""


@dataclass(frozen=True)
class Row:
    """One kernel call of a run.

    start, seconds: since the run's begin; flops, bytes: at the run's dims, a function such as exp counting as one operation
    and each buffer once; limit: the share of the device's limit that was reached, max(flops / rate, bytes / bandwidth) /
    seconds, None where no limit is known; bands: parts that it was run in, in turn with others.
    """

    name: str
    layers: tuple[str, ...]
    backend: str
    arithmetic: str
    start: float
    seconds: float
    share: float
    flops: int
    bytes: int
    limit: float | None
    bands: int = 1

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0

    @property
    def lost(self) -> float:
        """Seconds above the least possible; 0 where no limit is known."""
        return 0.0 if self.limit is None else self.seconds * max(0.0, 1 - self.limit)

    def data(self) -> dict[str, Any]:
        """The row as JSON's types."""
        return {
            "name": self.name, "layers": list(self.layers), "backend": self.backend, "arithmetic": self.arithmetic,
            "start_seconds": self.start, "seconds": self.seconds, "share": self.share, "flops": self.flops,
            "bytes": self.bytes, "gflops_per_second": self.flops_per_second * 1e-9,
            "gbytes_per_second": self.bytes_per_second * 1e-9, "share_of_limit": self.limit, "bands": self.bands,
        }  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """A profiled run: `rows` in the order of execution. Prints as a table of the slowest; rich shows it in colour.

    limits: what each backend's device can do at best, of those that state it; runs: whose median the times are.
    """

    model: str
    rows: tuple[Row, ...]
    limits: Mapping[str, Limits]
    runs: int

    @property
    def seconds(self) -> float:
        """Of all kernels together."""
        return sum(r.seconds for r in self.rows)

    @property
    def limit(self) -> float | None:
        """The share of the limit that the kernels together reached; None where one of them has none."""
        if not self.rows or not self.seconds or any(r.limit is None for r in self.rows):
            return None
        return sum(r.seconds * (r.limit or 0.0) for r in self.rows) / self.seconds

    def slowest(self, count: int | None = None) -> list[Row]:
        """The rows that took longest, all or so many."""
        return sorted(self.rows, key=lambda r: -r.seconds)[:count]

    def data(self) -> dict[str, Any]:
        """The profile as JSON's types."""
        return {
            "model": self.model,
            "runs": self.runs,
            "seconds": self.seconds,
            "flops": sum(r.flops for r in self.rows),
            "bytes": sum(r.bytes for r in self.rows),
            "share_of_limit": self.limit,
            "limits": {
                name: {"flops_per_second": dict(x.flops), "bytes_per_second": [list(pair) for pair in x.bandwidth]}
                for name, x in self.limits.items()
            },
            "kernels": [r.data() for r in self.rows],
        }

    def json(self) -> str:
        """`data()` as text."""
        return json.dumps(self.data(), indent=2, allow_nan=False)

    def chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Writes the run in the Trace Event Format, which chrome://tracing and ui.perfetto.dev show.

        Source: "Trace Event Format", complete events (ph "X"); times are microseconds."""
        text = json.dumps({"traceEvents": list(self._events()), "displayTimeUnit": "ms"}, allow_nan=False)
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise GraphcError("the trace can't be written", seen=f"{path}: {error.strerror}") from error

    def _events(self) -> Iterator[dict[str, Any]]:
        backends = list(dict.fromkeys(r.backend for r in self.rows))
        yield {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": f"graphc {self.model}"}}
        for i, backend in enumerate(backends):
            yield {"ph": "M", "name": "thread_name", "pid": 1, "tid": i, "args": {"name": backend}}
        for r in self.rows:
            told = {k: v for k, v in r.data().items() if k not in ("name", "start_seconds", "seconds", "backend")}
            yield {
                "ph": "X", "name": r.name, "cat": "kernel", "pid": 1, "tid": backends.index(r.backend),
                "ts": r.start * 1e6, "dur": r.seconds * 1e6, "args": told,
            }  # fmt: skip

    def table(self, count: int | None = SHOWN) -> Table:
        """The slowest kernel calls, all (None) or so many, as rich's table."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        several = len({r.backend for r in self.rows}) > 1
        table = Table(title=Text(self._title()), title_justify="left", box=box.SIMPLE_HEAD)
        for head in ("time", "share", "GFLOP/s", "GB/s", "of limit"):
            table.add_column(head, justify="right", no_wrap=True)
        for head in (*(("backend",) if several else ()), "kernel", "layers"):
            table.add_column(head, overflow="fold")
        shown = self.slowest(count)
        for r in shown:
            rates = [f"{x * 1e-9:.1f}" if x else "" for x in (r.flops_per_second, r.bytes_per_second)]
            limit = "" if r.limit is None else Text(f"{r.limit:.0%}", "red" if r.limit < 0.5 else "")
            who = [Text(r.backend)] if several else []
            what = f"{r.name} in {r.bands} bands" if r.bands > 1 else r.name
            layers = ", ".join(r.layers[:SHOWN_LAYERS])
            rest = len(r.layers) - SHOWN_LAYERS
            layers += f" and {rest} more" if rest > 0 else ""
            table.add_row(_time(r.seconds), f"{r.share:.1%}", *rates, limit, *who, Text(what), Text(layers))
        rest = len(self.rows) - len(shown)
        if rest > 0:
            left = self.seconds - sum(r.seconds for r in shown)
            blank = [""] * (4 if several else 3)
            table.add_row(_time(left), f"{left / (self.seconds or 1):.1%}", *blank, f"and {rest} more")
        return table

    def _title(self) -> str:
        flops = sum(r.flops for r in self.rows)
        rate = f", {flops / self.seconds * 1e-9:.1f} GFLOP/s" if flops and self.seconds else ""
        limit = "" if self.limit is None else f", {self.limit:.0%} of the limit"
        return f"{self.model}: {len(self.rows)} kernel calls in {_time(self.seconds)}{rate}{limit}"

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        return self.text()

    def text(self, count: int | None = SHOWN) -> str:
        """The table without colours."""
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=WIDTH, color_system=None, legacy_windows=False).print(self.table(count))
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def profile(runs: Sequence[Sequence[KernelTime]], executable: Executable) -> Profile:
    """The profile of several equal runs of an executable: medians of each kernel call's times."""
    name = executable.options.backend_name
    rows: list[Row] = []
    limits: dict[str, Limits] = {}
    start = 0.0
    for calls in zip(*runs, strict=True):
        first, seconds = calls[0], statistics.median(c.seconds for c in calls)
        backend = first.backend or name
        if first.limits is not None:
            limits[backend] = first.limits
        least = None if first.limits is None else first.limits.seconds(first.kernel)
        k = first.kernel
        limit = least / seconds if least is not None and seconds > 0 else None
        rows.append(Row(k.name, k.origin, backend, k.arithmetic, start, seconds, 0.0, k.flops, k.bytes, limit, k.bands))
        start += seconds
    total = start or 1.0
    shared = tuple(replace(r, share=r.seconds / total) for r in rows)
    return Profile(executable.graph.name, shared, limits, len(runs))


def _time(seconds: float) -> str:
    """A duration with three digits: "72.1 ms"."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1 or unit == "us":
            digits = 2 - math.floor(math.log10(seconds * factor)) if seconds else 0
            return f"{seconds * factor:.{min(max(digits, 0), 3)}f} {unit}"
    raise AssertionError("the last unit takes everything")
