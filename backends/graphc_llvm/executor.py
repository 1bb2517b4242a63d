"""The entry of every program: native code that walks its step table.

A program is data (see `program.py`), so making one costs no compilation: only its kernels are code. Walking costs some
nanoseconds a step. `run_program(context)` runs the context's steps; between them no Python runs.
"""

from __future__ import annotations

from importlib import resources

import llvmlite.ir as ir

from graphc_llvm.abi import CONTEXT, ENTRY_TYPE
from graphc_llvm.emit import I32, I64, PTR


def executor_ir() -> str:
    """The walker as LLVM IR, to be linked with the runtime module, whose `run_kernel` it calls."""
    return resources.files("graphc_llvm").joinpath("executor.ll").read_text(encoding="utf-8") + _entry_ir()


def _entry_ir() -> str:
    module = ir.Module()
    module.context = ir.Context()
    run_steps = ir.Function(module, ir.FunctionType(I32, [PTR, PTR, I64, PTR, PTR, PTR]), "run_steps")
    function = ir.Function(module, ENTRY_TYPE, "run_program")
    (context,) = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    fields = [CONTEXT.load(b, context, name) for name in ("buffers", "steps", "step_count", "scratch")]
    failed = CONTEXT.address(b, context, "error_step")
    b.ret(b.call(run_steps, [*fields, failed, CONTEXT.load(b, context, "times")]))
    text = str(module)
    return text[text.index("define") :]
