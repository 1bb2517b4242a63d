"""Elementwise operators as Triton expressions: one entry an operator, the scalar meaning in blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphc.ir.types import DType
from graphc.lowering.loop_body import Apply


@dataclass(frozen=True)
class Term:
    """Source of an expression; `level`: how loosely its outermost operator binds, 0 for what is no operator's."""

    text: str
    level: int = 0

    def inner(self, level: int = 0) -> str:
        """The text as an operand of what binds that tightly."""
        return self.text if self.level <= level else f"({self.text})"


LEVELS = {"-x": 1, "*": 2, "/": 2, "//": 2, "%": 2, "+": 3, "-": 3, "&": 4, "^": 5, "|": 6}
LOOSEST = 7


TYPES = {
    "bool": "tl.int1", "i8": "tl.int8", "i16": "tl.int16", "i32": "tl.int32", "i64": "tl.int64", "u8": "tl.uint8",
    "u16": "tl.uint16", "u32": "tl.uint32", "u64": "tl.uint64", "f16": "tl.float16", "bf16": "tl.bfloat16",
    "f32": "tl.float32", "f64": "tl.float64",
}  # fmt: skip

Emit = Callable[[Apply, Sequence[Term], bool], Term]
"""The expression of a statement, from its operands' and whether numerics are strict."""


def literal(x: bool | int | float) -> str:
    """A Python literal that Triton takes."""
    if isinstance(x, bool | int):
        return repr(x)
    return repr(float(x)) if np.isfinite(x) else f'float("{float(x)}")'


def emit(s: Apply, operands: Sequence[Term], strict: bool) -> Term:
    """The expression of an Apply, of which `no_form` says nothing."""
    return TABLE[s.op](s, operands, strict)


def no_form(s: Apply) -> str | None:
    """Why there is no expression for an operator, or none at its type; None: there is one."""
    if s.op not in TABLE:
        return NO_FORM
    return f"on {s.operand_dtype} {NO_FORM}" if s.op in F32_ONLY and s.operand_dtype.name != "f32" else None


def _infix(sign: str) -> Emit:
    level = LEVELS.get(sign, LOOSEST)
    left = level if sign in "+-*" else 0
    right = 2 if sign in "+-" else 0
    return lambda s, x, strict: Term(f"{x[0].inner(left)} {sign} {x[1].inner(right)}", level)


def _call(name: str) -> Emit:
    return lambda s, x, strict: Term(f"{name}({', '.join(t.text for t in x)})")


def _typed(name: str) -> Emit:
    """A call that tells the types of its operands, which literals have none of."""

    def emit(s: Apply, x: Sequence[Term], strict: bool) -> Term:
        kind = TYPES[s.operand_dtype.name]
        given = zip(s.operands, x, strict=True)
        return Term(
            f"{name}({', '.join(t.text if isinstance(o, str) else f'tl.full([], {t.text}, {kind})' for o, t in given)})"
        )

    return emit


def _by_kind(on_float: Emit, otherwise: Emit) -> Emit:
    return lambda s, x, strict: (on_float if s.operand_dtype.is_float else otherwise)(s, x, strict)


def _format(text: str, level: int = 0) -> Emit:
    return lambda s, x, strict: Term(text.format(*(t.inner() for t in x)), level)


def _sign(s: Apply, x: Sequence[Term], strict: bool) -> Term:
    if s.dtype.kind == "uint":
        return Term(f"({x[0].inner()} != 0).to({TYPES[s.dtype.name]})")
    return Term(f"device.sign({x[0].text})")


def _bitwise_not(s: Apply, x: Sequence[Term], strict: bool) -> Term:
    return Term(f"{x[0].inner()} == 0", LOOSEST) if s.dtype.is_bool else Term(f"~{x[0].inner()}", 1)


def _exact(exact: str, fast: Emit) -> Emit:
    """A correctly rounded f32 function where numerics are strict."""
    return lambda s, x, strict: (_call(exact) if strict and s.dtype.name == "f32" else fast)(s, x, strict)


def _cast(s: Apply, x: Sequence[Term], strict: bool) -> Term:
    source, target = s.operand_dtype, s.dtype
    if source == target:
        return x[0]
    if target.is_bool:
        return Term(f"{x[0].inner()} != 0", LOOSEST)
    if source.is_float and target.is_integer:
        low, high = integer_range(target)
        return Term(f"device.float_to_int({x[0].text}, {TYPES[target.name]}, {low}, {high})")
    return Term(f"{x[0].inner()}.to({TYPES[target.name]})")


def integer_range(dtype: DType) -> tuple[int, int]:
    """(smallest, largest) of an integer type."""
    info = np.iinfo(dtype.numpy)
    return int(info.min), int(info.max)


NO_FORM = "it has no form in Triton's language"

F32_ONLY = frozenset({"pow", "sinh", "cosh", "asinh", "acosh", "atanh", "tan", "atan", "asin", "acos"})
"""What is written for f32 alone."""

COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

TABLE: dict[str, Emit] = {
    "neg": _format("-{0}", 1),
    "abs": _call("tl.abs"),
    "sign": _sign,
    "floor": _by_kind(_call("tl.floor"), _format("{0}")),
    "ceil": _by_kind(_call("tl.ceil"), _format("{0}")),
    "round": _by_kind(_call("device.round_even"), _format("{0}")),
    "sqrt": _exact("tl.sqrt_rn", _call("tl.sqrt")),
    "rsqrt": _call("tl.rsqrt"),
    "exp": _call("device.exp"),
    "log": _call("tl.log"),
    "sin": _call("tl.sin"),
    "cos": _call("tl.cos"),
    "expm1": _call("device.expm1"),
    "log1p": _call("device.log1p"),
    "tan": _call("device.tan"),
    "tanh": _call("device.tanh"),
    "sinh": _call("device.sinh"),
    "cosh": _call("device.cosh"),
    "asin": _call("device.asin"),
    "acos": _call("device.acos"),
    "atan": _call("device.atan"),
    "asinh": _call("device.asinh"),
    "acosh": _call("device.acosh"),
    "atanh": _call("device.atanh"),
    "pow": _typed("device.power"),
    "shift_left": _typed("device.shift_left"),
    "shift_right": _typed("device.shift_right"),
    "erf": _call("tl.erf"),
    "sigmoid": _call("device.sigmoid"),
    "is_nan": _format("{0} != {0}", LOOSEST),
    "is_inf": _format('tl.abs({0}) == float("inf")', LOOSEST),
    "logical_not": _format("{0} == 0", LOOSEST),
    "bitwise_not": _bitwise_not,
    "add": _infix("+"),
    "sub": _infix("-"),
    "mul": _infix("*"),
    "div": _by_kind(_exact("tl.div_rn", _infix("/")), _infix("//")),
    "rem": _infix("%"),
    "mod": _typed("device.floor_remainder"),
    "max": _by_kind(_call("device.maximum"), _call("tl.maximum")),
    "min": _by_kind(_call("device.minimum"), _call("tl.minimum")),
    "select": _call("tl.where"),
    "cast": _cast,
    "logical_and": _infix("&"),
    "logical_or": _infix("|"),
    "logical_xor": _infix("^"),
    "bitwise_and": _infix("&"),
    "bitwise_or": _infix("|"),
    "bitwise_xor": _infix("^"),
    **{op: _infix(sign) for op, sign in COMPARISONS.items()},
}  # fmt: skip
