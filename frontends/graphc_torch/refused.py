"""Why a node can't be taken."""

from __future__ import annotations


class Refused(Exception):
    """A node can't be taken, for `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unknown(Exception):
    """An operand comes from a node that was refused, so nothing can be said of this one."""
