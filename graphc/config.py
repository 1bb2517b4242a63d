"""The settings that come from the environment: the one place that reads `GRAPHC_*` variables, at each call."""

from __future__ import annotations

import os
from pathlib import Path

from graphc.errors import GraphcError

VARIABLES = {
    "GRAPHC_DUMP": "a folder that gets the graph as text after each pass, as NN-pass.txt; unset: no dumps",
    "GRAPHC_CACHE_DIR": "the folder of compiled kernels; unset: graphc in $XDG_CACHE_HOME, or in ~/.cache",
    "GRAPHC_CACHE_BYTES": "how much that folder may hold; what wasn't used for longest goes first; unset: 2 GiB",
    "GRAPHC_THREADS": "how many threads an executable uses where threads= isn't given; unset: all the process may use",
    "GRAPHC_TUNE_SECONDS": "how long tune=True may measure, in the passes and again for the kernels; unset: 120",
}


def dump_dir() -> Path | None:
    """The folder for dumps (`GRAPHC_DUMP`), or None: no dumps are asked for."""
    value = _read("GRAPHC_DUMP")
    return None if value is None else Path(value).expanduser()


def cache_dir() -> Path:
    """The folder of the compilation cache (`GRAPHC_CACHE_DIR`); it need not exist yet."""
    value = _read("GRAPHC_CACHE_DIR")
    if value is not None:
        return Path(value).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "graphc"


def cache_bytes() -> int:
    """How many bytes the compilation cache may hold (`GRAPHC_CACHE_BYTES`, 0 or more)."""
    value = _read("GRAPHC_CACHE_BYTES")
    if value is None:
        return 2 << 30
    if not (value.isascii() and value.isdigit()):
        raise GraphcError(
            "GRAPHC_CACHE_BYTES isn't a number of bytes", seen=repr(value), expected="an integer of 0 or more"
        )
    return int(value)


def tune_seconds() -> int:
    """Seconds that measuring may take (`GRAPHC_TUNE_SECONDS`, 0 or more): a compilation's passes, and its kernels, each."""
    value = _read("GRAPHC_TUNE_SECONDS")
    if value is None:
        return 120
    if not (value.isascii() and value.isdigit()):
        raise GraphcError(
            "GRAPHC_TUNE_SECONDS isn't a number of seconds", seen=repr(value), expected="an integer of 0 or more"
        )
    return int(value)


def threads() -> int | None:
    """The number of threads asked for (`GRAPHC_THREADS`, 1 or more), or None: the caller decides."""
    value = _read("GRAPHC_THREADS")
    if value is None:
        return None
    try:
        count = int(value)
    except ValueError:
        count = 0
    if count < 1:
        raise GraphcError(
            "GRAPHC_THREADS isn't a number of threads",
            seen=repr(value),
            expected="an integer of 1 or more",
            hint="set it to a number, or unset it to use every core this process may use",
        )
    return count


def _read(name: str) -> str | None:
    """The variable's value; an empty one counts as unset."""
    assert name in VARIABLES, f"{name} isn't documented"
    return os.environ.get(name) or None
