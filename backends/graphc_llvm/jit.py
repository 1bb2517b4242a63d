"""LLVM IR to object code."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import llvmlite.binding as llvm

from graphc.errors import ArtifactError
from graphc_llvm.target import Target

Level = Literal["light", "full"]
"""How much LLVM's middle end does. Kernels are emitted as they should be (rotated, vectorized, unrolled loops that
carry values in registers), so "light" only cleans up and costs a fifth of "full": LLVM's O2 without its vectorizers."""


def compile_object(ir_text: str, target: Target, level: Level = "light") -> bytes:
    """The relocatable object file (ELF) of an LLVM module; equal texts give equal bytes.

    llvmlite holds one lock around each call of LLVM, so compilations in several threads take turns; Python code that
    emits the next module does run meanwhile.
    """
    machine = _target_machine(target)
    return machine.emit_object(_optimized(ir_text, target, machine, level))


def assembly(ir_text: str, target: Target, level: Level = "light") -> str:
    """The assembly text that `compile_object` would encode."""
    machine = _target_machine(target)
    return machine.emit_assembly(_optimized(ir_text, target, machine, level))


@functools.cache
def _initialize() -> None:
    """This machine's code generator; the others would take ten megabytes of memory."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.load_library_permanently("")  # else libc's symbols aren't found when objects are linked


@functools.cache
def _initialize_others() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@functools.lru_cache(maxsize=8)
def _target_machine(target: Target) -> llvm.TargetMachine:
    _initialize()
    if target.arch != llvm.get_process_triple().split("-", 1)[0]:
        _initialize_others()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        # The small code model reaches constants relative to the instruction pointer; the default for JITs, "large",
        # loads each address into a register first.
        cpu=target.cpu, features=target.feature_string, opt=2, reloc="pic", codemodel="small",
    )  # fmt: skip


def _optimized(ir_text: str, target: Target, machine: llvm.TargetMachine, level: Level) -> llvm.ModuleRef:
    # A context of its own: what one module leaves in the global one is never freed.
    module = llvm.parse_assembly(ir_text, llvm.create_context())
    module.triple = target.triple
    module.data_layout = str(machine.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = options.loop_interleaving = False
    builder = llvm.create_pass_builder(machine, options)
    if level == "full":
        builder.getModulePassManager().run(module, builder)
        return module
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_new_gvn_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_aggressive_dce_pass()
    passes.run(module, builder)
    return module


_library_numbers = itertools.count()  # LLVM never lets the name of a library be used again


@functools.cache
def _linker() -> llvm.LLJIT:
    _initialize()
    # JITLink puts an object's sections into one block. The older linker maps each by itself, and once thread stacks
    # and arenas fill the address space they can lie further apart than the 2 GiB that code reaches: LLVM then aborts.
    return llvm.create_lljit_compiler(use_jit_link=True)


def link_by_llvm(objects: Sequence[bytes], symbols: Sequence[str]) -> tuple[dict[str, int], Callable[[], object]]:
    """The addresses of `symbols` in linked object files, and what frees these; for machines that `linker` doesn't know.

    Raises an ArtifactError where a symbol isn't defined.
    """
    builder = llvm.JITLibraryBuilder()
    for data in objects:
        builder.add_object_img(data)
    builder.add_current_process()
    for symbol in symbols:
        builder.export_symbol(symbol)
    try:
        tracker = builder.link(_linker(), f"graphc{next(_library_numbers)}")
    except RuntimeError as error:
        raise ArtifactError("native code can't be linked", seen=str(error)) from error
    return {symbol: tracker[symbol] for symbol in symbols}, tracker.close
