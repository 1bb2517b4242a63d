"""A program as data: which kernels run, in which order, on which memory. What `assemble` makes and `instance` runs.

Memory is named by `Location`s: an index into the table of base addresses, or a buffer of the arena whose offset is
planned for given dims. The table of bases: inputs, outputs, the arena, constants, then the slices that loops move."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir.symbolic import Dim
from graphc.ir.types import TensorType


@dataclass(frozen=True)
class Location:
    """Where a value lies: at base address `base`, or (base = the arena's) in arena buffer `buffer`."""

    base: int
    buffer: int | None = None


@dataclass(frozen=True)
class ArenaBuffer:
    """Intermediate memory of `bytes`, in use from step `first` to step `last`, both included."""

    bytes: Dim
    first: int
    last: int


@dataclass(frozen=True)
class KernelStep:
    """Runs kernel number `kernel` over [0, work). `dims` are passed to it; `scratch` bytes are each worker's own.

    `flops` and `bytes` are what it computes and moves, for thread choice and reports; `arithmetic` is the element type that it
    computes with, "" where it computes nothing. Where one of the sizes `nonempty` is 0,
    the result has no value.
    """

    kernel: int
    name: str
    origin: tuple[str, ...]
    operands: tuple[Location, ...]
    dims: tuple[Dim, ...]
    work: Dim
    scratch: Dim
    flops: Dim
    bytes: Dim
    nonempty: tuple[Dim, ...]
    arithmetic: str


@dataclass(frozen=True)
class CopyStep:
    """Copies `bytes` from one place to another, which may be the same."""

    target: Location
    source: Location
    bytes: Dim


@dataclass(frozen=True)
class Slice:
    """Base `base` is set, in trip t, to `source` + t * `stride` bytes."""

    base: int
    source: Location
    stride: Dim


ENDLESS = 2**62
"""Trips of a loop that only its condition ends."""


@dataclass(frozen=True)
class LoopStep:
    """Runs `steps` `trips` times; before each trip the slices move, after it the carries are copied, in order.

    With a condition, the bool that lies there is read before each trip, and the loop ends where it isn't `expected`: a loop of
    one trip is a branch, one of ENDLESS trips runs until its steps change the condition.
    """

    name: str
    origin: tuple[str, ...]
    steps: tuple[Step, ...]
    trips: Dim
    reverse: bool
    slices: tuple[Slice, ...]
    carries: tuple[CopyStep, ...]
    condition: Location | None = None
    expected: bool = True


Step = KernelStep | CopyStep | LoopStep


@dataclass(frozen=True)
class Program:
    """Everything that one native segment is, but its code and its constants.

    kernels: (cache key, function name) of each; `KernelStep.kernel` is an index into them.
    in_place: pairs (input, output) that may be given the same memory.
    """

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    constants: int
    slices: int
    buffers: tuple[ArenaBuffer, ...]
    steps: tuple[Step, ...]
    kernels: tuple[tuple[str, str], ...]
    in_place: tuple[tuple[int, int], ...] = ()

    @property
    def arena_base(self) -> int:
        """The arena's index in the table of bases."""
        return len(self.inputs) + len(self.outputs)

    @property
    def first_constant(self) -> int:
        """The first constant's index in the table of bases."""
        return self.arena_base + 1

    @property
    def bases(self) -> int:
        """The length of the table of bases."""
        return self.first_constant + self.constants + self.slices
