"""Fixtures that turn LLVM functions emitted by a test into callable ones."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
import numpy as np
import pytest

from graphc.errors import ArtifactError
from graphc.ir.symbolic import evaluate
from graphc.testing.guard_pages import at_guard_page
from graphc_llvm.emit import F32, F64, I32, I64, PTR
from graphc_llvm.jit import compile_object
from graphc_llvm.linker import load_objects
from graphc_llvm.nest import emit_kernel, kernel_info
from graphc_llvm.target import NAMED_TARGETS, Target, check_runs_here, host_target

_CTYPES = {I32: ctypes.c_int32, I64: ctypes.c_int64, PTR: ctypes.c_void_p, F32: ctypes.c_float, F64: ctypes.c_double}

Emitter = Callable[..., ir.Value | None]


def _runnable() -> dict[str, Target]:
    found = {"host": host_target()}
    for name, target in NAMED_TARGETS.items():
        try:
            check_runs_here(target)
        except ArtifactError:
            continue
        found[name] = target
    return found


RUNNABLE = _runnable()


@pytest.fixture(params=RUNNABLE.values(), ids=list(RUNNABLE))
def target(request: pytest.FixtureRequest) -> Target:
    """Each target whose code this machine can run."""
    return request.param


@pytest.fixture
def emit_function() -> Callable[..., str]:
    """`emit_function(argument types, emitter, result type)`: the IR of "f"; `emitter(builder, *arguments)`."""

    def make(arguments: list[ir.Type], emitter: Emitter, result: ir.Type = I32) -> str:
        module = ir.Module()
        function = ir.Function(module, ir.FunctionType(result, arguments), "f")
        b = ir.IRBuilder(function.append_basic_block())
        value = emitter(b, *function.args)
        b.ret(value if value is not None else ir.Constant(result, 0))
        return str(module)

    return make


@pytest.fixture
def native(emit_function: Callable[..., str]) -> Callable[..., Any]:
    """`native(target, argument types, emitter, result type)`: the function, compiled, loaded and callable."""

    def make(target: Target, arguments: list[ir.Type], emitter: Emitter, result: ir.Type = I32) -> Any:
        text = emit_function(arguments, emitter, result)
        library = load_objects([compile_object(text, target)], ["f"])
        function = ctypes.CFUNCTYPE(_CTYPES[result], *(_CTYPES[type_] for type_ in arguments))(library.address("f"))
        function.library = library
        return function

    return make


class NestKernel:
    """The compiled kernel of a loop body, run on arrays between forbidden pages, as misaligned as their types allow."""

    def __init__(self, body, target=None, numerics="strict"):
        target = target or host_target()
        self.body = body
        self.text = emit_kernel(body, target, numerics)
        self.info = kernel_info(body, target)
        self.library = load_objects([compile_object(self.text, target)], [self.info.symbol])
        longs = (ctypes.c_int64, ctypes.c_int64)
        address = self.library.address(self.info.symbol)
        self.function = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3, *longs)(address)

    def __call__(self, inputs, outputs, dims=None, pieces=1, side="end"):
        """Writes `outputs` and returns the status; the work items are done in `pieces` calls, the last ones first."""
        dims = dims or {}
        memory = [at_guard_page(x, side) for x in [*inputs, *outputs]]
        pointers = (ctypes.c_void_p * max(1, len(memory)))(*[x.ctypes.data for x in memory])
        values = (ctypes.c_int64 * max(1, len(self.info.dims)))(*[dims[n] for n in self.info.dims])
        size = evaluate(self.info.scratch_bytes, dims)
        scratch = at_guard_page(np.full(size + -size % 64, 0xAB, np.uint8))
        n = evaluate(self.info.work_items, dims)
        status = 0
        for k in reversed(range(pieces)):
            part = n * k // pieces, n * (k + 1) // pieces
            done = self.function(ctypes.addressof(pointers), ctypes.addressof(values), scratch.ctypes.data, *part)
            status = status or done
        for given, x in zip(inputs, memory, strict=False):
            assert given.tobytes() == x.tobytes(), "an input was written"
        for given, x in zip(outputs, memory[len(inputs) :], strict=True):
            given[...] = x
        return status


@pytest.fixture(scope="session")
def nest_kernel() -> type[NestKernel]:
    """`nest_kernel(body, target, numerics)` compiles a loop body through the generic loop nest."""
    return NestKernel
