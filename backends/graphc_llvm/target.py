"""What a CPU can do, as a value: lowering reads a `Target` and never asks the host."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from graphc.errors import ArtifactError, GraphcError


@dataclass(frozen=True)
class Target:
    """One kind of CPU: LLVM's triple, CPU model and features, and the sizes that tiling needs. Caches are in bytes.

    `cpu` is LLVM's name of the model whose timing the code is scheduled for; `features` are those that code may use,
    and `disabled` those that the model has by default but this target doesn't.
    """

    triple: str
    cpu: str
    features: frozenset[str]
    vector_bits: int
    vector_registers: int
    l1: int
    l2: int
    l3: int
    disabled: frozenset[str] = frozenset()

    @property
    def arch(self) -> str:
        """The first part of the triple: "x86_64", "aarch64"."""
        return self.triple.split("-", 1)[0]

    @property
    def fma(self) -> bool:
        """Whether x * y + z is one instruction; where it isn't, `llvm.fma` becomes a slow library call."""
        return self.arch == "aarch64" or "fma" in self.features

    @property
    def bf16_pairs(self) -> bool:
        """Whether one instruction adds the products of two pairs of bf16 to each f32 of a vector."""
        return "avx512bf16" in self.features and self.vector_bits == 512

    def lanes(self, bytes_per_element: int) -> int:
        """How many elements of that size one vector register holds."""
        return self.vector_bits // (8 * bytes_per_element)

    @property
    def feature_string(self) -> str:
        """The features in LLVM's form, "+a,+b,-c", sorted."""
        return ",".join([f"+{name}" for name in sorted(self.features)] + [f"-{name}" for name in sorted(self.disabled)])

    @property
    def key(self) -> str:
        """A text that is equal for equal targets only, the same in each process: part of every cache key."""
        sizes = (self.vector_bits, self.vector_registers, self.l1, self.l2, self.l3)
        return f"{self.triple} {self.cpu} {self.feature_string} {' '.join(map(str, sizes))}"


_V3 = frozenset({
    "64bit", "avx", "avx2", "bmi", "bmi2", "cmov", "crc32", "cx8", "cx16", "f16c", "fma", "fxsr", "lzcnt", "mmx",
    "movbe", "popcnt", "sahf", "sse", "sse2", "sse3", "sse4.1", "sse4.2", "ssse3", "xsave",
})  # fmt: skip
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
_KIB = 1024

NAMED_TARGETS: dict[str, Target] = {
    name: Target(triple, cpu, frozenset(features), bits, registers, 32 * _KIB, l2 * _KIB, 8192 * _KIB)
    for name, triple, cpu, features, bits, registers, l2 in (
        ("x86-64-v3", "x86_64-unknown-linux-gnu", "x86-64-v3", _V3, 256, 16, 512),
        ("x86-64-v4", "x86_64-unknown-linux-gnu", "x86-64-v4", _V4, 512, 32, 1024),
        ("aarch64+neon", "aarch64-unknown-linux-gnu", "generic", {"fp-armv8", "neon"}, 128, 32, 512),
    )
}
"""The targets that can be asked for by name, with the cache sizes of a common CPU of that kind."""


def parse_target(name: str | Target | None) -> Target:
    """The target called `name`: one of NAMED_TARGETS, or "host" or None for this machine; a Target as it is."""
    if isinstance(name, Target):
        return name
    if name is None or name == "host":
        return host_target()
    if name not in NAMED_TARGETS:
        expected = ", ".join(["host", *NAMED_TARGETS])
        raise GraphcError("unknown target of the llvm backend", seen=repr(name), expected=f"one of {expected}")
    return NAMED_TARGETS[name]


@functools.cache
def host_target() -> Target:
    """The target that describes this machine; detected once."""
    import llvmlite.binding as llvm

    triple = llvm.get_process_triple()
    cpu = llvm.get_host_cpu_name()
    detected = llvm.get_host_cpu_features()
    features = frozenset(name for name, present in detected.items() if present)
    disabled = frozenset(name for name, present in detected.items() if not present)
    if triple.startswith("aarch64"):
        bits, registers = 128, 32
    elif "avx512f" in features and "avx512vl" in features:
        bits, registers = 512, 32
    else:
        bits, registers = (256, 16) if "avx2" in features else (128, 16)
    l1, l2, l3 = _cache_sizes(Path("/sys/devices/system/cpu/cpu0/cache"))
    return Target(triple, cpu, features, bits, registers, l1, l2, l3, disabled)


@functools.cache
def host_identity() -> str:
    """A text that is equal on equal machines only, and that needs no LLVM: what Linux tells of the first CPU."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return host_target().key
    facts = [line for line in first.splitlines() if line.partition("\t")[0].strip() not in _CHANGING]
    sizes = _cache_sizes(Path("/sys/devices/system/cpu/cpu0/cache"))
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    return f"{platform.machine()} {digest[:32]} {' '.join(map(str, sizes))}"


_CHANGING = frozenset({"processor", "cpu MHz", "bogomips", "BogoMIPS", "physical id", "core id", "apicid", "initial apicid"})
"""What differs between the CPUs of a machine, or from one moment to the next."""


def _cache_sizes(folder: Path) -> tuple[int, int, int]:
    """Bytes of L1 data, L2 and L3 cache as Linux tells them, and common sizes where it doesn't."""
    sizes = {1: 32 * _KIB, 2: 512 * _KIB, 3: 8192 * _KIB}
    for index in sorted(folder.glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue  # containers may hide single files
        if kind != "Instruction" and level.isdigit() and size.endswith("K") and size[:-1].isdigit():
            sizes[int(level)] = int(size[:-1]) * _KIB
    return sizes[1], sizes[2], sizes[3]


def check_runs_here(target: Target) -> None:
    """Raise an ArtifactError unless this machine can execute code made for `target`; called before code is loaded."""
    host = host_target()
    if target.arch != host.arch:
        raise ArtifactError("native code is for another architecture", seen=target.arch, expected=host.arch)
    missing = _missing(target.features, host.features)
    if missing:
        raise ArtifactError(
            "native code needs features that this CPU lacks",
            seen=", ".join(missing),
            expected=f"features of {host.cpu}",
            hint="compile on this machine, or with target= a name that it supports",
        )


def _missing(needed: Iterable[str], present: frozenset[str]) -> list[str]:
    return sorted(set(needed) - present)
