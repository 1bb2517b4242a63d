"""What a command gives back, and how it is shown: plain text or JSON on stdout, progress on a terminal's stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Report:
    """A command's result for machines (`data`, JSON's types alone) and for people (`text`), and its exit status."""

    data: dict[str, Any]
    text: str
    status: int = 0


def json_text(data: Any) -> str:
    """JSON, in which NaN and infinities, which it has no numbers for, are strings."""
    return json.dumps(_finite(data), indent=2, allow_nan=False)


def _finite(data: Any) -> Any:
    match data:
        case dict():
            return {key: _finite(value) for key, value in data.items()}
        case list() | tuple():
            return [_finite(value) for value in data]
        case float() if not math.isfinite(data):
            return str(data)
    return data


@contextlib.contextmanager
def progress(arguments: argparse.Namespace, what: str) -> Iterator[None]:
    """Shows that `what` goes on, where stderr is a terminal and people read."""
    if arguments.json or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def table(rows: Iterable[Sequence[object]], *, right: Sequence[int] = (), indent: str = "  ") -> str:
    """Rows in columns of their own width, those numbered in `right` aligned to the right; the first row is the head."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*texts, strict=True)]
    lines = [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in texts
    ]
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def bytes_text(count: float) -> str:
    """A size for people: `97.5 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def seconds_text(seconds: float) -> str:
    """A duration for people: `72.1 ms`."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds * 1e6:.3g} us"


def shortened(names: Sequence[str], most: int = 2) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
