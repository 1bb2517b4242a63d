"""Triton source to cubins, ahead of time: without a GPU, and without torch. The same for Triton 3.6 to 3.9."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.errors import GraphcError
from graphc_triton.function import Function
from graphc_triton.kernels import TritonKernel
from graphc_triton.modules import load_module
from graphc_triton.target import SHARED_MEMORY

ALIGNMENT = 16
"""Bytes: inputs, outputs and arena buffers begin at multiples of it, so that loads of 16 bytes are allowed."""


@dataclass(frozen=True)
class Cubin:
    """One compiled function and how it is launched. ttgir, ptx: the stages before it, for inspection."""

    code: bytes
    symbol: str
    warps: int
    shared: int
    scratch: int
    ptx: str
    ttgir: str


def compile_kernels(kernels: Sequence[TritonKernel], target: str, strict: bool = False) -> dict[str, tuple[Cubin, ...]]:
    """The cubins of each kernel's functions, by the kernel's key. Triton's own cache keeps them."""
    return {k.key: tuple(compile_function(k, f, target, strict) for f in k.functions) for k in kernels}


def compile_function(kernel: TritonKernel, function: Function, target: str, strict: bool = False) -> Cubin:
    """The cubin of one function of a kernel. Raises GraphcError where a block needs more than the target has."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    jitted = getattr(load_module(kernel), function.name)
    constants = dict(function.constants)
    types = {a.name: a.type for a in function.arguments}
    signature = {n: "constexpr" if n in constants else types[n] for n in jitted.arg_names}
    aligned = {
        (jitted.arg_names.index(a.name),): [["tt.divisibility", ALIGNMENT]]
        for a in function.arguments
        if a.type.startswith("*") and a.aligned
    }
    source = ASTSource(fn=jitted, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": function.warps, "num_stages": function.stages, "enable_fp_fusion": not strict}
    made = triton.compile(source, target=GPUTarget("cuda", int(target.removeprefix("sm_")), 32), options=options)
    shared = made.metadata.shared
    if shared > SHARED_MEMORY[target]:
        raise GraphcError(
            f"{kernel.name} needs more shared memory than {target} has",
            seen=shared,
            expected=f"<= {SHARED_MEMORY[target]}",
        )
    scratch = made.metadata.global_scratch_size + made.metadata.profile_scratch_size
    return Cubin(
        made.asm["cubin"],
        made.metadata.name,
        made.metadata.num_warps,
        shared,
        scratch,
        made.asm["ptx"],
        made.asm["ttgir"],
    )
