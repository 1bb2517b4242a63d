"""Scalar functions applied element by element: result i depends on element i of each operand, all of one shape."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.graph import Node, Value
from graphc.ir.opdef import NOT_DIFFERENTIABLE, Attribute, Infer, Inference, NotDifferentiable, OpDef, Sample, Vjp
from graphc.ir.types import DTYPES, TensorType, bool_
from graphc.ir.types import FLOATS as FLOAT_TYPES
from graphc.ops import scalar_functions as scalar
from graphc.ops.common import ALL, FLOATS, INTEGERS, NUMBERS, check_dtype, check_same_dtype, in_f64, widened

Function = Callable[..., Any]
Samples = Callable[[], Iterable[Sample]]
Array = np.ndarray
BOOL = ("bool",)
INTEGERS_ONLY = NotDifferentiable("it computes on integers")
ELEMENTWISE = frozenset({"elementwise"})


# Samples: ordinary values where the function is smooth, kinks and special values apart.


def _samples(*ranges: tuple[float, float]) -> Samples:
    """Operands drawn from open ranges, in rank 2, rank 0 and with zero size; then all pairs of special values."""

    def samples() -> Iterable[Sample]:
        rng = np.random.default_rng(7)
        for shape in ((2, 5), (), (0, 3)):
            yield Sample(tuple(rng.uniform(low, high, shape) for low, high in ranges))
        special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -2.5]
        grid = np.meshgrid(*[special] * len(ranges), indexing="ij")
        yield Sample(tuple(g.reshape(-1) for g in grid), differentiable=False)

    return samples


def _integer_samples(count: int, *, nonzero: bool = False) -> Samples:
    """All pairs of small and extreme values in i32, i64, i8 and u8; `nonzero` leaves out x / 0 and MIN / -1.

    Then rank 0 and zero size.
    """

    def samples() -> Iterable[Sample]:
        for dtype in (np.int32, np.int64, np.int8, np.uint8):
            info = np.iinfo(dtype)
            values = np.array([info.min, info.max, 1, 2, 3, 5, info.max // 2] + [0] + [-1, -3] * (info.min < 0), dtype)
            grid = [g.reshape(-1) for g in np.meshgrid(*[values] * count, indexing="ij")]
            keep = np.full(grid[0].shape, True)
            if nonzero:
                overflows = (grid[0] == info.min) & (grid[1].astype(np.int64) == -1)
                keep = (grid[1] != 0) & ~overflows
            yield Sample(tuple(g[keep] for g in grid), differentiable=False)
        for shape in ((), (0, 3)):
            yield Sample((np.full(shape, 3),) * count, differentiable=False)

    return samples


def _bool_samples(count: int) -> Samples:
    def samples() -> Iterable[Sample]:
        grid = np.meshgrid(*[[False, True]] * count, indexing="ij")
        yield Sample(tuple(g.reshape(-1) for g in grid))
        yield Sample((np.array(True),) * count)
        yield Sample((np.zeros((2, 0), bool),) * count)

    return samples


def _both(*families: Samples) -> Samples:
    return lambda: [s for f in families for s in f()]


# Declarations


def _infer_same(dtypes: Sequence[str], result: Callable[[TensorType], TensorType]) -> Infer:
    def infer(inference: Inference, types: Sequence[TensorType], _: Mapping[str, Any]) -> tuple[TensorType, ...]:
        check_dtype(types[0], dtypes)
        check_same_dtype(types)
        return (result(types[0].with_shape(inference.same_shape(types, "operands"))),)

    return infer


def _declare(
    name: str, operands: tuple[str, ...], function: Function, vjp: Vjp | NotDifferentiable, doc: str, samples: Samples,
    dtypes: tuple[str, ...], *, to_bool: bool = False, commutative: bool = False,
) -> OpDef:  # fmt: skip
    def reference(arrays: Sequence[Array], _: Mapping[str, Any]) -> tuple[Array, ...]:
        return (np.asarray(function(*arrays), np.bool_ if to_bool else arrays[0].dtype),)

    return OpDef(
        name=name, operands=operands, doc=doc, samples=samples, dtypes=dtypes, vjp=vjp, reference=widened(reference),
        infer=_infer_same(dtypes, lambda t: t.with_dtype(bool_) if to_bool else t),
        traits=ELEMENTWISE | ({"commutative"} if commutative else set()),
    )  # fmt: skip


def _unary(
    name: str, function: Function, gradient: Callable[..., Value | None] | NotDifferentiable, doc: str,
    samples: Samples, dtypes: tuple[str, ...] = FLOATS, **options: bool,
) -> OpDef:  # fmt: skip
    """`gradient(b, g, x, y)` gives the cotangent of x from that of y."""
    if isinstance(gradient, NotDifferentiable):
        return _declare(name, ("x",), function, gradient, doc, samples, dtypes, **options)

    def vjp(b: Builder, node: Node, g: Sequence[Value]) -> Sequence[Value | None]:
        return (gradient(b, g[0], node.operands[0], node.result),)

    return _declare(name, ("x",), function, vjp, doc, samples, dtypes, **options)


def _binary(
    name: str, function: Function, gradient: Callable[..., Sequence[Value]] | NotDifferentiable, doc: str,
    samples: Samples, dtypes: tuple[str, ...] = NUMBERS, **options: bool,
) -> OpDef:  # fmt: skip
    """`gradient(b, g, x, y, z)` gives the cotangents of x and y from that of z."""
    if isinstance(gradient, NotDifferentiable):
        return _declare(name, ("x", "y"), function, gradient, doc, samples, dtypes, **options)

    def vjp(b: Builder, node: Node, g: Sequence[Value]) -> Sequence[Value | None]:
        return gradient(b, g[0], *node.operands, node.result)

    return _declare(name, ("x", "y"), function, vjp, doc, samples, dtypes, **options)


# What the gradients below are written with: (b, values) -> value.


def _mul(b: Builder, *xs: Value) -> Value:
    result = xs[0]
    for x in xs[1:]:
        result = b.op("mul", result, x)
    return result


def _div(b: Builder, x: Value, y: Value) -> Value:
    return b.op("div", x, y)


def _sub(b: Builder, x: Value, y: Value) -> Value:
    return b.op("sub", x, y)


def _neg(b: Builder, x: Value) -> Value:
    return b.op("neg", x)


def _square(b: Builder, x: Value) -> Value:
    return b.op("mul", x, x)


def _times(b: Builder, c: float, x: Value) -> Value:
    return b.op("mul", b.full_like(c, x), x)


def _plus(b: Builder, c: float, x: Value) -> Value:
    return b.op("add", b.full_like(c, x), x)


def _one_minus(b: Builder, x: Value) -> Value:
    return b.op("sub", b.full_like(1, x), x)


def _zero_where(b: Builder, condition: Value, x: Value) -> Value:
    return b.op("select", condition, b.full_like(0, x), x)


def _flat(b: Builder, g: Value, x: Value, y: Value) -> None:
    """The gradient of a step function: none, as y doesn't move with x (second derivatives of abs and mod need it)."""


def _max_min_gradient(b: Builder, g: Value, x: Value, y: Value, z: Value) -> Sequence[Value]:
    """All to the operand that was chosen; halves on a tie."""
    half = b.op("select", b.op("eq", x, y), _times(b, 0.5, g), g)
    return _zero_where(b, b.op("ne", x, z), half), _zero_where(b, b.op("ne", y, z), half)


def _pow_gradient(b: Builder, g: Value, x: Value, y: Value, z: Value) -> Sequence[Value]:
    """y * x**(y-1), and z * log(x); zero at y = 0 and at x = 0, where the formulas say 0 * inf."""
    zero = b.full_like(0, x)
    dx = _zero_where(b, b.op("eq", y, zero), _mul(b, g, y, b.op("pow", x, _plus(b, -1, y))))
    at_zero = b.op("eq", x, zero)
    log = b.op("log", b.op("select", at_zero, b.full_like(1, x), x))
    return dx, _zero_where(b, at_zero, _mul(b, g, z, log))


def _rem_gradient(truncation: str) -> Callable[..., Sequence[Value]]:
    def gradient(b: Builder, g: Value, x: Value, y: Value, z: Value) -> Sequence[Value]:
        quotient = b.op(truncation, _div(b, _sub(b, x, z), y))
        return g, _neg(b, _mul(b, g, quotient))

    return gradient


ANY, POSITIVE, UNIT, ABOVE_ONE = (-2.0, 2.0), (0.2, 3.0), (-0.9, 0.9), (1.1, 3.0)
AWAY = (0.55, 0.9)  # where abs, floor and round have no kink
any1, any2, positive, unit, away = _samples(ANY), _samples(ANY, ANY), _samples(POSITIVE), _samples(UNIT), _samples(AWAY)
numbers1, numbers2 = _both(any1, _integer_samples(1)), _both(any2, _integer_samples(2))
quotients = _both(_samples(ANY, (1.3, 3.0)), _samples(ANY, (-3.0, -1.3)), _integer_samples(2, nonzero=True))

UNARY = (
    _unary("neg", np.negative, lambda b, g, x, y: _neg(b, g), "-x; integers wrap.", numbers1, NUMBERS),
    _unary("abs", np.abs, lambda b, g, x, y: _mul(b, g, b.op("sign", x)), "|x|; the smallest integer stays.",
           _both(away, _integer_samples(1)), NUMBERS),
    _unary("sign", np.sign, _flat, "-1, 0 or 1; NaN for NaN.", _both(away, numbers1), NUMBERS),
    _unary("floor", np.floor, _flat, "The largest integer <= x.", away),
    _unary("ceil", np.ceil, _flat, "The smallest integer >= x.", away),
    _unary("round", np.rint, _flat, "The nearest integer, halves to even.", away),
    _unary("sqrt", np.sqrt, lambda b, g, x, y: _div(b, _times(b, 0.5, g), y), "Square root.", positive),
    _unary("rsqrt", in_f64(lambda x: 1 / np.sqrt(x)), lambda b, g, x, y: _mul(b, _times(b, -0.5, g), y, _square(b, y)),
           "1 / sqrt(x).", positive),
    _unary("exp", in_f64(np.exp), lambda b, g, x, y: _mul(b, g, y), "e**x.", any1),
    _unary("expm1", in_f64(np.expm1), lambda b, g, x, y: _mul(b, g, _plus(b, 1, y)), "e**x - 1.", any1),
    _unary("log", in_f64(np.log), lambda b, g, x, y: _div(b, g, x), "Natural logarithm.", positive),
    _unary("log1p", in_f64(np.log1p), lambda b, g, x, y: _div(b, g, _plus(b, 1, x)), "log(1 + x).", positive),
    _unary("sin", in_f64(np.sin), lambda b, g, x, y: _mul(b, g, b.op("cos", x)), "Sine.", any1),
    _unary("cos", in_f64(np.cos), lambda b, g, x, y: _neg(b, _mul(b, g, b.op("sin", x))), "Cosine.", any1),
    _unary("tan", in_f64(np.tan), lambda b, g, x, y: _mul(b, g, _plus(b, 1, _square(b, y))), "Tangent.", unit),
    _unary("asin", in_f64(np.arcsin), lambda b, g, x, y: _mul(b, g, b.op("rsqrt", _one_minus(b, _square(b, x)))),
           "Arc sine.", unit),
    _unary("acos", in_f64(np.arccos),
           lambda b, g, x, y: _neg(b, _mul(b, g, b.op("rsqrt", _one_minus(b, _square(b, x))))), "Arc cosine.", unit),
    _unary("atan", in_f64(np.arctan), lambda b, g, x, y: _div(b, g, _plus(b, 1, _square(b, x))), "Arc tangent.", any1),
    _unary("sinh", in_f64(np.sinh), lambda b, g, x, y: _mul(b, g, b.op("cosh", x)), "Hyperbolic sine.", any1),
    _unary("cosh", in_f64(np.cosh), lambda b, g, x, y: _mul(b, g, b.op("sinh", x)), "Hyperbolic cosine.", any1),
    _unary("tanh", in_f64(np.tanh), lambda b, g, x, y: _mul(b, g, _one_minus(b, _square(b, y))),
           "Hyperbolic tangent.", any1),
    _unary("asinh", in_f64(np.arcsinh), lambda b, g, x, y: _mul(b, g, b.op("rsqrt", _plus(b, 1, _square(b, x)))),
           "Inverse hyperbolic sine.", any1),
    _unary("acosh", in_f64(np.arccosh), lambda b, g, x, y: _mul(b, g, b.op("rsqrt", _plus(b, -1, _square(b, x)))),
           "Inverse hyperbolic cosine.", _samples(ABOVE_ONE)),
    _unary("atanh", in_f64(np.arctanh), lambda b, g, x, y: _div(b, g, _one_minus(b, _square(b, x))),
           "Inverse hyperbolic tangent.", unit),
    _unary("erf", in_f64(scalar.erf),
           lambda b, g, x, y: _mul(b, _times(b, 2 / np.sqrt(np.pi), g), b.op("exp", _neg(b, _square(b, x)))),
           "Error function: 2/sqrt(pi) * integral of exp(-t*t) from 0 to x.", any1),
    _unary("sigmoid", in_f64(scalar.sigmoid), lambda b, g, x, y: _mul(b, g, y, _one_minus(b, y)),
           "1 / (1 + e**-x).", any1),
    _unary("logical_not", np.logical_not, NOT_DIFFERENTIABLE, "Not x.", _bool_samples(1), BOOL),
    _unary("bitwise_not", np.invert, INTEGERS_ONLY, "Every bit flipped.", _integer_samples(1), INTEGERS),
    _unary("is_nan", np.isnan, NOT_DIFFERENTIABLE, "Whether x is NaN.", any1, to_bool=True),
    _unary("is_inf", np.isinf, NOT_DIFFERENTIABLE, "Whether x is +infinity or -infinity.", any1, to_bool=True),
)  # fmt: skip

BINARY = (
    _binary("add", np.add, lambda b, g, x, y, z: (g, g), "x + y; integers wrap.", numbers2, commutative=True),
    _binary("sub", np.subtract, lambda b, g, x, y, z: (g, _neg(b, g)), "x - y; integers wrap.", numbers2),
    _binary("mul", np.multiply, lambda b, g, x, y, z: (_mul(b, g, y), _mul(b, g, x)), "x * y; integers wrap.", numbers2,
            commutative=True),
    _binary("div", scalar.divide, lambda b, g, x, y, z: (_div(b, g, y), _neg(b, _mul(b, _div(b, g, y), z))),
            "x / y; integers truncate toward zero, and x / 0 and MIN / -1 raise.", quotients),
    _binary("rem", scalar.remainder, _rem_gradient("round"),
            "x - y * truncate(x / y), signed like x (C's fmod and %); raises where div does.", quotients),
    _binary("mod", scalar.modulo, _rem_gradient("round"),
            "x - y * floor(x / y), signed like y (Python's %); raises where div does.", quotients),
    _binary("pow", in_f64(np.power), _pow_gradient, "x ** y.", _samples(POSITIVE, ANY), FLOATS),
    _binary("max", np.maximum, _max_min_gradient, "The greater; NaN where either is NaN.", numbers2, commutative=True),
    _binary("min", np.minimum, _max_min_gradient, "The smaller; NaN where either is NaN.", numbers2, commutative=True),
    *(_binary(f"logical_{name}", f, NOT_DIFFERENTIABLE, f"x {name} y.", _bool_samples(2), BOOL, commutative=True)
      for name, f in (("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor))),
    *(_binary(f"bitwise_{name}", f, INTEGERS_ONLY, f"x {name} y, bit by bit.", _integer_samples(2), INTEGERS,
              commutative=True)
      for name, f in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor))),
    _binary("shift_left", np.left_shift, INTEGERS_ONLY,
            "x * 2**y, wrapped; 0 where y isn't in [0, bits).", _integer_samples(2), INTEGERS),
    _binary("shift_right", np.right_shift, INTEGERS_ONLY,
            "floor(x / 2**y); 0, or -1 for a negative x, where y isn't in [0, bits).", _integer_samples(2), INTEGERS),
    *(_binary(name, getattr(operator, name), NOT_DIFFERENTIABLE, f"{text}; false where either is NaN.",
              numbers2, NUMBERS, to_bool=True)
      for name, text in (("lt", "x < y"), ("le", "x <= y"), ("gt", "x > y"), ("ge", "x >= y"))),
    _binary("eq", operator.eq, NOT_DIFFERENTIABLE, "x == y; false where either is NaN.",
            _both(numbers2, _bool_samples(2)), ALL, to_bool=True, commutative=True),
    _binary("ne", operator.ne, NOT_DIFFERENTIABLE, "x != y; true where either is NaN.",
            _both(numbers2, _bool_samples(2)), ALL, to_bool=True, commutative=True),
)  # fmt: skip


# select and cast


def _infer_select(inference: Inference, types: Sequence[TensorType], _: Mapping[str, Any]) -> tuple[TensorType, ...]:
    check_dtype(types[0], BOOL, "condition")
    check_same_dtype(types[1:], "branches")
    return (types[1].with_shape(inference.same_shape(types, "operands")),)


def _select_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Sequence[Value | None]:
    condition, zero = node.operands[0], b.full_like(0, g[0])
    return None, b.op("select", condition, g[0], zero), b.op("select", condition, zero, g[0])


def _select_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(3)
    for shape in ((3, 4), (), (0, 2)):
        yield Sample((np.asarray(rng.random(shape) > 0.5), rng.normal(size=shape), rng.normal(size=shape)))
    yield Sample((np.array([True, False]), np.array([1.0, np.nan]), np.array([np.nan, np.inf])), differentiable=False)
    yield Sample((np.array([True, False]), np.array([1, 2]), np.array([3, 4])), differentiable=False)
    yield Sample((np.array([True, False]), np.array([False, True]), np.array([True, True])), differentiable=False)


def _cast_vjp(b: Builder, node: Node, g: Sequence[Value]) -> Sequence[Value | None]:
    source, target = node.operands[0].type.dtype, node["dtype"]
    return (b.cast(g[0], source) if source in FLOAT_TYPES and target in FLOAT_TYPES else None,)


def _cast_samples() -> Iterable[Sample]:
    values = np.array([0.0, -0.0, 0.4, -0.6, 1.5, 2.5, -3.5, 200.7, 7e4, 1e10, -1e10, 1e20, np.inf, -np.inf, np.nan])
    whole = np.array([0, 1, -1, 127, 128, 255, 256, 65535, 2**31, 2**63 - 1, -(2**63), 2**53 + 1])
    for dtype in DTYPES.values():
        yield Sample((values,), {"dtype": dtype}, differentiable=False)
        yield Sample((whole,), {"dtype": dtype}, differentiable=False)
        yield Sample((np.array([True, False]),), {"dtype": dtype}, differentiable=False)
        yield Sample((np.zeros((0, 2)),), {"dtype": dtype}, differentiable=False)
        yield Sample((np.array(-1.5),), {"dtype": dtype}, differentiable=False)
    yield Sample((np.random.default_rng(1).normal(size=(2, 3)),), {"dtype": DTYPES["f64"]})


def _infer_cast(_: Inference, types: Sequence[TensorType], a: Mapping[str, Any]) -> tuple[TensorType, ...]:
    return (types[0].with_dtype(a["dtype"]),)


OPERATORS = (
    *UNARY,
    *BINARY,
    OpDef(
        name="select",
        operands=("condition", "x", "y"),
        infer=_infer_select,
        reference=lambda x, _: (np.where(x[0], x[1], x[2]),),
        vjp=_select_vjp,
        samples=_select_samples,
        traits=ELEMENTWISE,
        dtypes=ALL,
        doc="x where the condition (bool) holds, else y; NaN in the branch not taken has no effect.",
    ),
    OpDef(
        name="cast",
        operands=("x",),
        attributes={"dtype": Attribute("dtype")},
        infer=_infer_cast,
        reference=lambda x, a: (scalar.cast(x[0], a["dtype"]),),
        vjp=_cast_vjp,
        samples=_cast_samples,
        traits=ELEMENTWISE,
        dtypes=ALL,
        doc=(scalar.cast.__doc__ or ""),
    ),
)
