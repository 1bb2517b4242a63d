"""What kernels are compiled for."""

from __future__ import annotations

import os

from graphc.errors import GraphcError

INTERPRETER = "interpreter"
"""The target that runs in Triton's interpreter."""

KNOWN = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100")
DEFAULT = "sm_90"

SHARED_MEMORY = {"sm_80": 166_912, "sm_86": 101_376, "sm_89": 101_376, "sm_90": 232_448, "sm_100": 232_448}
"""Bytes of shared memory that a block may have (CUDA C++ programming guide, table of technical specifications)."""


def parse_target(text: str | None) -> str:
    """The target that `text` names; None: the GPU of this machine, or sm_90 where there is none.

    Where Triton was told to interpret (TRITON_INTERPRET=1), it can't compile: None is then its interpreter.
    """
    if text is None and os.environ.get("TRITON_INTERPRET") == "1":
        return INTERPRETER
    if text is None:
        from graphc_triton.driver import capability

        return capability() or DEFAULT
    if text not in (*KNOWN, INTERPRETER):
        raise GraphcError("there is no such target", seen=text, expected=[*KNOWN, INTERPRETER])
    return text
