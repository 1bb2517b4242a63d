"""The table of scalar operations: `emit_scalar_op` emits any of them, `MAX_ULP` states their errors.

Operands and results are scalars or vectors of any width; the code is the same. bool values are i1 (or vectors of i1);
so are the results of comparisons, `is_nan` and `is_inf`. f16 and bf16 don't compute: widen them to f32 first (`cast`).
Meanings are NumPy's, for NaN, infinities and signed zeros too.

sin, cos, tan and the remainders of floats append blocks to the function: go on from the builder's position, not from a
block remembered before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import llvmlite.ir as ir

from graphc_llvm.math import (
    arithmetic,
    erf,
    exp,
    hyperbolic,
    integer,
    inverse_trig,
    log,
    pow,
    remainder,
    rounding,
    trig,
)
from graphc_llvm.math.integer import Fault
from graphc_llvm.math.lanes import Lanes, where

FLOAT_UNARY: dict[str, Callable[[Lanes], Lanes]] = {
    "neg": lambda x: -x,
    "abs": lambda x: x.abs(),
    "sign": arithmetic.sign,
    "floor": rounding.floor,
    "ceil": rounding.ceil,
    "round": rounding.round_to_even,
    "sqrt": rounding.sqrt,
    "rsqrt": rounding.rsqrt,
    "exp": exp.exp,
    "expm1": exp.expm1,
    "log": log.log,
    "log1p": log.log1p,
    "sin": trig.sin,
    "cos": trig.cos,
    "tan": trig.tan,
    "asin": inverse_trig.asin,
    "acos": inverse_trig.acos,
    "atan": inverse_trig.atan,
    "sinh": hyperbolic.sinh,
    "cosh": hyperbolic.cosh,
    "tanh": hyperbolic.tanh,
    "asinh": hyperbolic.asinh,
    "acosh": hyperbolic.acosh,
    "atanh": hyperbolic.atanh,
    "erf": erf.erf,
    "sigmoid": exp.sigmoid,
    "is_nan": lambda x: x.is_nan(),
    "is_inf": lambda x: x.abs().equals(math.inf),
}
FLOAT_BINARY: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "rem": remainder.rem,
    "mod": remainder.mod,
    "pow": pow.power,
    "max": arithmetic.maximum,
    "min": arithmetic.minimum,
}
INTEGER_UNARY: dict[str, Callable[[Lanes, bool], Lanes]] = {
    "neg": lambda x, signed: -x,
    "abs": integer.absolute,
    "sign": integer.sign,
    "bitwise_not": lambda x, signed: ~x,
}
INTEGER_BINARY: dict[str, Callable[[Lanes, Lanes, bool], Lanes]] = {
    "add": lambda x, y, signed: x + y,
    "sub": lambda x, y, signed: x - y,
    "mul": lambda x, y, signed: x * y,
    "max": integer.maximum,
    "min": integer.minimum,
    "bitwise_and": lambda x, y, signed: x & y,
    "bitwise_or": lambda x, y, signed: x | y,
    "bitwise_xor": lambda x, y, signed: x ^ y,
    "shift_left": lambda x, y, signed: integer.shift_left(x, y),
    "shift_right": integer.shift_right,
}
INTEGER_DIVISION: dict[str, Callable[[Lanes, Lanes, bool, Fault | None], Lanes]] = {
    "div": integer.divide,
    "rem": integer.rem,
    "mod": integer.mod,
}
BOOL_BINARY: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    "logical_and": lambda x, y: x & y,
    "logical_or": lambda x, y: x | y,
    "logical_xor": lambda x, y: x ^ y,
    "max": lambda x, y: x | y,
    "min": lambda x, y: x & y,
}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

MAX_ULP: dict[str, dict[str, float]] = {
    **{name: {"strict": 0.5, "fast": 0.5} for name in ("add", "sub", "mul", "div", "sqrt")},
    **{name: {"strict": 2.0, "fast": 4.0} for name in (
        "rsqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh",
        "asinh", "acosh", "atanh", "erf", "sigmoid", "pow",
    )},
}  # fmt: skip
"""The largest error in units in the last place of the result, by operation and numerics; what isn't listed is exact."""


def supports(name: str, dtype: str) -> bool:
    """Whether `emit_scalar_op` knows the operation `name` on operands of `dtype`."""
    if name == "select" or name in ("eq", "ne"):
        return dtype in ("f32", "f64", "bool") or is_integer(dtype)
    if dtype in ("f32", "f64"):
        return name in FLOAT_UNARY or name in FLOAT_BINARY or name in COMPARISONS
    if dtype == "bool":
        return name in BOOL_BINARY or name == "logical_not"
    known = (INTEGER_UNARY, INTEGER_BINARY, INTEGER_DIVISION, COMPARISONS)
    return is_integer(dtype) and any(name in table for table in known)


def is_integer(dtype: str) -> bool:
    """Whether `dtype` names an integer type: "i8" … "u64"."""
    return dtype[0] in "iu" and dtype[1:].isdigit()


def emit_scalar_op(
    b: ir.IRBuilder,
    name: str,
    args: Sequence[ir.Value],
    dtype: str,
    attrs: Mapping[str, object] | None = None,
    numerics: str = "strict",
    fault: Fault | None = None,
) -> ir.Value:
    """The operation `name` on operands of `dtype` (select: that of the two values; its condition is bool).

    `numerics` is "strict" or "fast". `fault` is called with the mask of lanes that divide an integer by zero, or MIN by
    -1. No operation of the table has attributes; `attrs` is there for callers that pass on an operator's.
    """
    if not supports(name, dtype):
        raise ValueError(f"no scalar operation {name!r} on {dtype}: ask supports() first")
    operands = [Lanes(b, value, numerics == "strict") for value in args]
    x, y, signed = operands[0], operands[-1], dtype.startswith("i")
    if name == "select":
        return where(*operands).value
    if name in COMPARISONS:
        return compare(x, y, COMPARISONS[name], signed).value
    if dtype in ("f32", "f64"):
        return (FLOAT_UNARY[name](x) if name in FLOAT_UNARY else FLOAT_BINARY[name](x, y)).value
    if dtype == "bool":
        return (~x if name == "logical_not" else BOOL_BINARY[name](x, y)).value
    if name in INTEGER_DIVISION:
        return INTEGER_DIVISION[name](x, y, signed, fault).value
    return (INTEGER_UNARY[name](x, signed) if name in INTEGER_UNARY else INTEGER_BINARY[name](x, y, signed)).value


def compare(x: Lanes, y: Lanes, predicate: str, signed: bool) -> Lanes:
    """x predicate y: ordered for floats (but != holds for NaN), unsigned for unsigned integers and bool."""
    if x.is_float or signed:
        return x.compare(predicate, y)
    return x.new(x.b.icmp_unsigned(predicate, x.value, y.value))
