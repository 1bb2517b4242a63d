"""Ctrl-C while training: noted, and obeyed between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Raised where training may stop, after Ctrl-C."""


class Interruption:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        """Raises Interrupted if it was."""
        if self.asked:
            raise Interrupted


@contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """Within it Ctrl-C (SIGINT) is noted; pressed again it raises KeyboardInterrupt at once.

    In threads other than the main one, and where the program has taken the signal over, nothing changes.
    """
    noted = Interruption()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        if noted.asked:
            raise KeyboardInterrupt
        noted.asked = True

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
