"""Fixtures that turn LLVM functions emitted by a test into callable ones."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
import pytest

from graphc.errors import ArtifactError
from graphc_llvm.emit import F32, F64, I32, I64, PTR
from graphc_llvm.jit import compile_object, load_objects
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
