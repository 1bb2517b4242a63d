"""How a body's values stand in registers and in memory: bools as i1 and as bytes, bf16 as its bits, others alike."""

from __future__ import annotations

import llvmlite.ir as ir

from graphc.ir.types import DType
from graphc.lowering.loop_body import Literal_
from graphc_llvm.emit import ELEMENT_TYPES, I1, I16, constant


def memory_type(dtype: DType) -> ir.Type:
    """The type of one element of `dtype` in memory."""
    return I16 if dtype.name == "bf16" else ELEMENT_TYPES[dtype.name]


def ssa_type(dtype: DType, width: int = 1) -> ir.Type:
    """The type of a value of `dtype` in registers, in `width` lanes (a scalar where 1)."""
    element = I1 if dtype.is_bool else memory_type(dtype)
    return element if width == 1 else ir.VectorType(element, width)


def literal(dtype: DType, value: Literal_) -> ir.Constant:
    """A literal of a body as a scalar of `dtype`, which is no 16-bit float."""
    return constant(ssa_type(dtype), float(value) if dtype.is_float else int(value))
