"""Why a node can't be taken."""

from __future__ import annotations


class Refused(Exception):
    """A node can't be taken, for `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
