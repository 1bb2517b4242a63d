"""One Triton function as data: its source, what it takes, how it is launched."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir.symbolic import Dim


@dataclass(frozen=True)
class Argument:
    """A parameter of a kernel: the pointer of a `buffer` by its position, the status word, or the size of a dim.

    type: Triton's name of it, "*fp32", "i64"; aligned: a pointer to a multiple of 16 bytes, which wide loads take.
    """

    name: str
    type: str
    buffer: int | None = None
    dim: str | None = None
    aligned: bool = True


@dataclass(frozen=True)
class Function:
    """A jitted function. `constants` are its compile-time parameters; it runs once for each program of `grid`."""

    name: str
    source: str
    arguments: tuple[Argument, ...]
    constants: tuple[tuple[str, int], ...]
    grid: Dim
    warps: int = 4
    stages: int = 3
    template: str = "pointwise"
