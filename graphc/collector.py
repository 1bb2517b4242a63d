"""Python's garbage collector, out of the way of compilation."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """No search for cyclic garbage inside; also a decorator.

    Graphs are cyclic and live until all is compiled, so what the collector looks through, with all that frameworks have
    loaded, is hardly ever garbage: it took a sixth of the time. Whoever stops it sets it going again; who finds it stopped
    leaves it alone, as it may be started by another thread in between, and nobody would start it then.
    """
    running = gc.isenabled()
    if running:
        gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
