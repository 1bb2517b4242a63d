"""What kernels report: the faults that only a run can meet."""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """What a kernel returns; anything but OK makes the call raise NumericError."""

    OK = 0
    INTEGER_DIVISION = 1  # by zero, or the smallest integer by -1
    BAD_INDEX = 2
    NO_ELEMENTS = 3  # to take the largest or smallest of


MEANING = {
    Status.INTEGER_DIVISION: "an integer division by zero, or of the smallest integer by -1",
    Status.BAD_INDEX: "an index out of bounds",
    Status.NO_ELEMENTS: "an extreme of no elements",
}
"""The faults in words, after "met"."""
