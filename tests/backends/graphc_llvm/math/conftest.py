"""`run_op` and `run_cast`: one scalar operation compiled as a loop over arrays, at a given vector width."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import llvmlite.ir as ir
import numpy as np
import pytest

from graphc_llvm import emit
from graphc_llvm.jit import compile_object, load_objects
from graphc_llvm.math import emit_cast, emit_scalar_op, load_bool, store_bool
from graphc_llvm.math.table import COMPARISONS
from graphc_llvm.target import Target

NUMPY = {
    "f32": np.float32, "f64": np.float64, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "bool": np.bool_,
    "f16": np.float16, "bf16": np.uint16,
}  # fmt: skip
FAULTS = "faults"


def run_op(
    target: Target, name: str, arrays: Sequence[np.ndarray], numerics: str = "strict", width: int = 8, dtype: str = ""
) -> np.ndarray:
    """`name` on arrays of one length; `dtype` is the operands', by default that of the last array. With the name
    "faults:op" the mask that op reports as faults."""
    dtype = dtype or next(d for d, t in NUMPY.items() if arrays[-1].dtype == t)
    _, wants_faults, op = name.rpartition("faults:")
    boolean = wants_faults or name in COMPARISONS or name in ("is_nan", "is_inf")
    operands = ["bool" if a.dtype == np.bool_ else dtype for a in arrays]

    def body(b: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
        masks: list[ir.Value] = []
        result = emit_scalar_op(b, op, values, dtype, {}, numerics, lambda _, mask: masks.append(mask))
        if wants_faults:
            (result,) = masks
        return result

    return _run(target, arrays, operands, "bool" if boolean else dtype, width, body)


def run_cast(target: Target, array: np.ndarray, from_dtype: str, to_dtype: str, width: int = 8) -> np.ndarray:
    """`array` converted; bf16 arrays hold bits as u16."""
    return _run(target, [array], [from_dtype], to_dtype, width, lambda b, v: emit_cast(b, v[0], from_dtype, to_dtype))


def _run(
    target: Target, arrays: Sequence[np.ndarray], operands: Sequence[str], result: str, width: int,
    body: Callable[[ir.IRBuilder, list[ir.Value]], ir.Value],
) -> np.ndarray:  # fmt: skip
    size = len(arrays[0])
    padded = -(-size // width) * width
    inputs = [np.ascontiguousarray(np.concatenate([a, np.repeat(a[-1:], padded - size)])) for a in arrays]
    output = np.empty(padded, NUMPY[result])
    library = load_objects([compile_object(_module(operands, result, width, body), target)], ["f"])
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*inputs, output)]
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(pointers), ctypes.c_int64)(library.address("f"))(*pointers, padded)
    return output[:size]


def _module(
    operands: Sequence[str], result: str, width: int, body: Callable[[ir.IRBuilder, list[ir.Value]], ir.Value]
) -> str:
    module = ir.Module()
    pointers = [emit.PTR] * (len(operands) + 1)
    function = ir.Function(module, ir.FunctionType(emit.VOID, [*pointers, emit.I64]), "f")
    b = ir.IRBuilder(function.append_basic_block())
    with emit.for_range(b, emit.i64(0), function.args[-1], width) as i:
        values = [_load(b, p, i, d, width) for p, d in zip(function.args, operands, strict=False)]
        value = body(b, values)
        element = emit.ELEMENT_TYPES[result]
        stored = store_bool(b, value) if result == "bool" else value
        emit.store(b, stored, emit.offset(b, function.args[-2], i, element))
    b.ret_void()
    return str(module)


def _load(b: ir.IRBuilder, pointer: ir.Value, i: ir.Value, dtype: str, width: int) -> ir.Value:
    element = emit.ELEMENT_TYPES[dtype]
    address = emit.offset(b, pointer, i, element)
    value = emit.load(b, address, element) if width == 1 else emit.load_vector(b, address, element, width)
    return load_bool(b, value) if dtype == "bool" else value


@pytest.fixture(name="run_op")
def run_op_fixture() -> Callable[..., np.ndarray]:
    """`run_op(target, name, arrays, numerics, width)`."""
    return run_op


@pytest.fixture(name="run_cast")
def run_cast_fixture() -> Callable[..., np.ndarray]:
    """`run_cast(target, array, from_dtype, to_dtype, width)`."""
    return run_cast
