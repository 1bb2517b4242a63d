"""What can be known of compiled code without running it: registers, spills, instructions. The tools come with Triton."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphc.errors import GraphcError
from graphc_triton.compile import Cubin


@dataclass(frozen=True)
class StaticFacts:
    """registers of a thread; spills: bytes that it keeps in local memory instead; sass: the machine code as text.

    serialized: the assembler could not overlap tensor-core instructions (its advisory C7510 to C7519).
    """

    registers: int
    spills: int
    serialized: bool
    sass: str

    def count(self, instruction: str) -> int:
        """How often an instruction stands in the code: "HGMMA", "LDG.E.128"."""
        return len(re.findall(rf"\b{re.escape(instruction)}\b", self.sass))


def static_facts(cubin: Cubin, target: str) -> StaticFacts:
    """Assembles the PTX again, for what the assembler tells, and disassembles the code."""
    from triton import knobs

    nvidia = knobs.nvidia
    with tempfile.TemporaryDirectory() as folder:
        ptx, code = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        ptx.write_text(cubin.ptx)
        code.write_bytes(cubin.code)
        name = target if target in ("sm_80", "sm_86", "sm_89") else f"{target}a"
        ptxas = getattr(nvidia, "ptxas_blackwell", nvidia.ptxas).path
        told = _run([ptxas, "-v", f"--gpu-name={name}", str(ptx), "-o", str(Path(folder, "again.cubin"))])
        sass = _run([nvidia.cuobjdump.path, "-sass", str(code)])
    registers = re.search(r"Used (\d+) registers", told)
    spills = re.findall(r"(\d+) bytes spill", told)
    if registers is None:
        raise GraphcError("the assembler told no registers", seen=told[-500:])
    return StaticFacts(int(registers[1]), sum(map(int, spills)), bool(re.search(r"C751\d", told)), sass)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GraphcError(f"{Path(command[0]).name} failed", seen=(done.stdout + done.stderr)[-2000:])
    return done.stdout + done.stderr
