"""`run_op` and `run_cast`: one scalar operation compiled as a loop over arrays, at a given vector width."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import llvmlite.ir as ir
import numpy as np
import pytest

from graphc.errors import ArtifactError
from graphc_llvm import emit
from graphc_llvm.jit import assembly, compile_object
from graphc_llvm.linker import load_objects
from graphc_llvm.math import emit_cast, emit_scalar_op, load_bool, store_bool
from graphc_llvm.math.table import COMPARISONS
from graphc_llvm.target import Target, check_runs_here, parse_target

NUMPY = {
    "f32": np.float32, "f64": np.float64, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "bool": np.bool_,
    "f16": np.float16, "bf16": np.uint16,
}  # fmt: skip
BOOLEAN_RESULTS = {*COMPARISONS, "is_nan", "is_inf"}


def run_op(
    target: Target,
    name: str,
    arrays: Sequence[np.ndarray],
    numerics: str = "strict",
    width: int = 8,
    *,
    faults: bool = False,
    constants: Sequence[float] = (),
) -> np.ndarray:
    """`name` on arrays of one length, followed by `constants` as operands; with `faults`, the mask of faulty lanes."""
    dtype = next(d for d, t in NUMPY.items() if arrays[-1].dtype == t)
    operands = ["bool" if a.dtype == np.bool_ else dtype for a in arrays]

    def body(b: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
        masks: list[ir.Value] = []
        values = [*values, *(emit.constant(values[-1].type, c) for c in constants)]
        result = emit_scalar_op(b, name, values, dtype, {}, numerics, lambda _, mask: masks.append(mask))
        return masks[0] if faults else result

    return _run(target, arrays, operands, "bool" if faults or name in BOOLEAN_RESULTS else dtype, width, body)


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
    library = load_objects([compile_object(emit_module(operands, result, width, body), target)], ["f"])
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*inputs, output)]
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(pointers), ctypes.c_int64)(library.address("f"))(*pointers, padded)
    return output[:size]


def emit_module(
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
    """`run_op(target, name, arrays, numerics, width, faults=, constants=)`."""
    return run_op


@pytest.fixture(name="run_cast")
def run_cast_fixture() -> Callable[..., np.ndarray]:
    """`run_cast(target, array, from_dtype, to_dtype, width)`."""
    return run_cast


@pytest.fixture(params=[("host", 1), ("host", 8), ("host", 16), ("x86-64-v3", 8)], ids=lambda p: f"{p[0]}x{p[1]}")
def machine(request: pytest.FixtureRequest) -> tuple[Target, int]:
    """A target that runs here, and a vector width."""
    name, width = request.param
    target = parse_target(name)
    try:
        check_runs_here(target)
    except ArtifactError as error:
        pytest.skip(str(error))
    return target, width


@pytest.fixture
def assembly_of() -> Callable[..., str]:
    """`assembly_of(target, name, dtype, operands, width)`: the code of a loop over one operation."""

    def make(target: Target, name: str, dtype: str, operands: int, width: int) -> str:
        result = "bool" if name in BOOLEAN_RESULTS else dtype
        dtypes = [dtype] * operands

        def body(b: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
            return emit_scalar_op(b, name, values, dtype)

        return assembly(emit_module(dtypes, result, width, body), target)

    return make
