"""Runs programs in Triton's interpreter, on NumPy memory: what kernels mean, without a GPU.

It takes TRITON_INTERPRET=1 in the environment before Triton is imported. The interpreter keeps bf16 as bits: conversions and
products of bf16 go through ml_dtypes here, and kernels widen everything else right after loading it.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import GraphcError, NumericError
from graphc.lowering.program import KernelStep, Program
from graphc.lowering.status import MEANING, Status
from graphc_triton.kernels import TritonKernel
from graphc_triton.modules import load_module
from graphc_triton.plan import Copy, Fault, Launch, Loop, Place, Work, make_plan


class Pointer:
    """An address with an element type, in the form that the interpreter takes for a tensor."""

    def __init__(self, address: int, dtype: str) -> None:
        self.address, self.dtype = address, dtype

    def data_ptr(self) -> int:
        return self.address

    def cpu(self) -> Pointer:
        return self

    def untyped_storage(self) -> Pointer:
        return self

    def new_empty(self, *_: Any, **__: Any) -> Pointer:
        return Pointer(self.address, self.dtype)

    def set_(self, *_: Any) -> None:
        """Its memory is where it was."""

    def copy_(self, *_: Any) -> None:
        """Its memory is where it was."""

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return (1,)

    def stride(self) -> tuple[int, ...]:
        return (1,)


TORCH_NAMES = {
    "*i8": "int8", "*i16": "int16", "*i32": "int32", "*i64": "int64", "*u8": "uint8", "*u16": "uint16", "*u32": "uint32",
    "*u64": "uint64", "*fp16": "float16", "*bf16": "bfloat16", "*fp32": "float32", "*fp64": "float64",
}  # fmt: skip


class InterpretedProgram:
    """A program whose kernels Triton's interpreter runs, one program of the grid after another."""

    def __init__(self, program: Program, kernels: Sequence[TritonKernel], constants: Sequence[np.ndarray]) -> None:
        if os.environ.get("TRITON_INTERPRET") != "1":
            raise GraphcError("the Triton interpreter is chosen by the environment", expected="TRITON_INTERPRET=1")
        _patch()
        self.program, self.kernels = program, kernels
        self.constants = [np.ascontiguousarray(c) for c in constants]
        self.functions = [[getattr(load_module(k), f.name) for f in k.functions] for k in kernels]

    def run(self, inputs: Sequence[np.ndarray], dims: Mapping[str, int]) -> tuple[np.ndarray, ...]:
        """The outputs, in fresh memory or in that of donated inputs. Raises NumericError where a kernel reports a status."""
        return self._run(inputs, dims)[0]

    def profile(self, inputs: Sequence[np.ndarray], dims: Mapping[str, int]) -> list[float]:
        """Seconds that the interpreter took for each step."""
        return self._run(inputs, dims)[1]

    def _run(self, inputs: Sequence[np.ndarray], dims: Mapping[str, int]) -> tuple[tuple[np.ndarray, ...], list[float]]:
        plan = make_plan(self.program, self.kernels, dims)
        outputs = [np.empty(s, t.dtype.numpy) for s, t in zip(plan.shapes, self.program.outputs, strict=True)]
        for given, taken in self.program.in_place:
            outputs[taken] = inputs[given]
        arena, status = (
            np.full(plan.arena + plan.between, 0xFF, np.uint8),
            np.zeros(max(len(plan.statuses), 1), np.int32),
        )
        memory = [*inputs, *outputs, arena, *self.constants, status]
        bases = [m.ctypes.data for m in memory]
        seconds = [0.0] * len(self.program.steps)
        for item in plan.work:
            start = time.perf_counter()
            self._do(item, memory, bases)
            seconds[item.step] += time.perf_counter() - start
        for step, code in zip(plan.statuses, status, strict=False):
            if code:
                raise status_error(step, int(code))
        return tuple(outputs), seconds

    def _do(self, item: Work, memory: Sequence[np.ndarray], bases: Sequence[int]) -> None:
        match item:
            case Copy():
                _copy(memory, item)
            case Launch():
                self._launch(item, bases)
            case Fault():
                raise item.error()
            case Loop():
                flag = memory[item.condition.base].reshape(-1).view(np.uint8)
                trips = 0
                while trips < item.trips and bool(flag[item.condition.offset]) == item.expected:
                    for inner in item.work:
                        self._do(inner, memory, bases)
                    trips += 1

    def _launch(self, item: Launch, bases: Sequence[int]) -> None:
        function = self.kernels[item.kernel].functions[item.function]
        arguments = [
            Pointer(bases[a.base] + a.offset, TORCH_NAMES[p.type]) if isinstance(a, Place) else a
            for a, p in zip(item.arguments, function.arguments, strict=True)
        ]
        with np.errstate(all="ignore"):
            self.functions[item.kernel][item.function][(item.grid,)](*arguments)


def status_error(step: KernelStep, code: int) -> NumericError:
    """What the status of a step's kernel means, with the layer."""
    return NumericError(f"{step.name} met {MEANING[Status(code)]}", layer=", ".join(step.origin))


def _copy(memory: Sequence[np.ndarray], item: Copy) -> None:
    target = memory[item.target.base].reshape(-1).view(np.uint8)
    source = memory[item.source.base].reshape(-1).view(np.uint8)
    moved = source[item.source.offset : item.source.offset + item.bytes].copy()
    target[item.target.offset : item.target.offset + item.bytes] = moved


@functools.cache
def _patch() -> None:
    """Gives bf16 its meaning in the interpreter: rounding to nearest, and products of values, not of bits.

    And scalars that are compared: they stay bools when they are spread over a block.
    """
    import ml_dtypes
    import triton.language as tl
    from triton.runtime import interpreter

    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    cast, dot, splat = builder.cast_impl, builder.create_dot, builder.create_splat

    def value(x: Any) -> Any:
        return x.data.view(bfloat16).astype(np.float32) if x.dtype.scalar == tl.bfloat16 else x.data

    def rounded(self: Any, x: Any, type: Any, *rest: Any) -> Any:
        source, target = x.dtype.scalar, type.scalar
        if source == target or tl.bfloat16 not in (source, target):
            return cast(self, x, type)
        wide = value(x)
        if target == tl.bfloat16:
            return handle(wide.astype(bfloat16).view(np.uint16), tl.bfloat16)
        return cast(self, handle(np.ascontiguousarray(wide), tl.float32), type)

    def product(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        if d.dtype.scalar != tl.float32:
            return dot(self, a, b, d, *rest)
        total = np.matmul(value(a).astype(np.float32), value(b).astype(np.float32))
        return handle(total + d.data, d.dtype.scalar)

    def spread(self: Any, type: Any, x: Any) -> Any:
        return handle(np.full(type.shape, x.data), tl.int1) if x.data.dtype == np.bool_ else splat(self, type, x)

    def to_float(self: Any, x: Any, type: Any, rounding: Any) -> Any:
        return rounded(self, x, type)

    names = (
        "create_si_to_fp",
        "create_ui_to_fp",
        "create_fp_to_si",
        "create_fp_to_ui",
        "create_fp_ext",
        "create_fp_trunc",
    )
    for name in names:
        setattr(builder, name, rounded)
    builder.create_fp_to_fp, builder.create_dot = to_float, product
    builder.create_splat = spread
