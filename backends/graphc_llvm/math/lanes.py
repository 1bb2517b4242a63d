"""`Lanes`: a scalar or vector LLVM value with Python's operators, in which the functions of this package are written.

Python numbers take the type of the other operand. Nothing is contracted or reassociated: an `a * b + c` rounds twice,
`fma(a, b, c)` once. Comparisons of floats are ordered (false for NaN), of integers signed; they give lanes of i1.
"""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir

from graphc_llvm import emit
from graphc_llvm.math.coefficients import COEFFICIENTS

MANTISSA_BITS = {emit.F32: 23, emit.F64: 52}
EXPONENT_BIAS = {emit.F32: 127, emit.F64: 1023}


@dataclass(frozen=True, eq=False)
class Lanes:
    """A value with the builder that extends it; `strict` says which polynomials its functions use."""

    b: ir.IRBuilder
    value: ir.Value
    strict: bool = True

    @property
    def type(self) -> ir.Type:
        """The LLVM type, a scalar or a vector."""
        return self.value.type

    @property
    def element(self) -> ir.Type:
        """The LLVM type of one lane."""
        return emit.scalar_of(self.value.type)

    @property
    def is_float(self) -> bool:
        """Whether the lanes are floating-point numbers."""
        return emit.is_float(self.value.type)

    @property
    def is_f64(self) -> bool:
        """Whether the lanes are f64."""
        return bool(self.element == emit.F64)

    @property
    def mantissa_bits(self) -> int:
        """Explicit bits of the significand: 23 or 52."""
        return MANTISSA_BITS[self.element]

    @property
    def bias(self) -> int:
        """The exponent bias: 127 or 1023."""
        return EXPONENT_BIAS[self.element]

    def new(self, value: ir.Value) -> Lanes:
        """`value`, with this one's builder and numerics."""
        return Lanes(self.b, value, self.strict)

    def constant(self, number: float) -> Lanes:
        """`number` in each lane."""
        return self.new(emit.constant(self.type, number))

    def like(self, element: ir.Type) -> ir.Type:
        """The type with as many lanes of another element type."""
        return ir.VectorType(element, self.type.count) if isinstance(self.type, ir.VectorType) else element

    def lift(self, other: Lanes | float) -> ir.Value:
        """The LLVM value of an operand; a number takes this one's type."""
        return other.value if isinstance(other, Lanes) else emit.constant(self.type, other)

    # Arithmetic.

    def __add__(self, other: Lanes | float) -> Lanes:
        return self.new((self.b.fadd if self.is_float else self.b.add)(self.value, self.lift(other)))

    def __radd__(self, other: float) -> Lanes:
        return self.constant(other) + self

    def __sub__(self, other: Lanes | float) -> Lanes:
        return self.new((self.b.fsub if self.is_float else self.b.sub)(self.value, self.lift(other)))

    def __rsub__(self, other: float) -> Lanes:
        return self.constant(other) - self

    def __mul__(self, other: Lanes | float) -> Lanes:
        return self.new((self.b.fmul if self.is_float else self.b.mul)(self.value, self.lift(other)))

    def __rmul__(self, other: float) -> Lanes:
        return self.constant(other) * self

    def __truediv__(self, other: Lanes | float) -> Lanes:
        return self.new(self.b.fdiv(self.value, self.lift(other)))

    def __rtruediv__(self, other: float) -> Lanes:
        return self.constant(other) / self

    def __neg__(self) -> Lanes:
        return self.new(self.b.fneg(self.value) if self.is_float else self.b.neg(self.value))

    def __and__(self, other: Lanes | int) -> Lanes:
        return self.new(self.b.and_(self.value, self.lift(other)))

    def __or__(self, other: Lanes | int) -> Lanes:
        return self.new(self.b.or_(self.value, self.lift(other)))

    def __xor__(self, other: Lanes | int) -> Lanes:
        return self.new(self.b.xor(self.value, self.lift(other)))

    def __invert__(self) -> Lanes:
        return self.new(self.b.not_(self.value))

    def __lshift__(self, other: Lanes | int) -> Lanes:
        return self.new(self.b.shl(self.value, self.lift(other)))

    def __rshift__(self, other: Lanes | int) -> Lanes:
        """The arithmetic shift."""
        return self.new(self.b.ashr(self.value, self.lift(other)))

    def logical_shift_right(self, other: Lanes | int) -> Lanes:
        """The shift that fills with zeros."""
        return self.new(self.b.lshr(self.value, self.lift(other)))

    # Comparisons.

    def compare(self, predicate: str, other: Lanes | float) -> Lanes:
        """`predicate` is one of == != < <= > >=; with NaN only != holds."""
        right = self.lift(other)
        if not self.is_float:
            return self.new(self.b.icmp_signed(predicate, self.value, right))
        if predicate == "!=":
            return self.new(self.b.fcmp_unordered(predicate, self.value, right))
        return self.new(self.b.fcmp_ordered(predicate, self.value, right))

    def __lt__(self, other: Lanes | float) -> Lanes:
        return self.compare("<", other)

    def __le__(self, other: Lanes | float) -> Lanes:
        return self.compare("<=", other)

    def __gt__(self, other: Lanes | float) -> Lanes:
        return self.compare(">", other)

    def __ge__(self, other: Lanes | float) -> Lanes:
        return self.compare(">=", other)

    def equals(self, other: Lanes | float) -> Lanes:
        """Lane by lane ==."""
        return self.compare("==", other)

    def is_nan(self) -> Lanes:
        """Lanes that are NaN."""
        return self.new(self.b.fcmp_unordered("uno", self.value, self.value))

    # Bits.

    def bits(self) -> Lanes:
        """The bits of a float as an integer of its width."""
        return self.new(self.b.bitcast(self.value, self.like(ir.IntType(8 * emit.size_of(self.type)))))

    def as_float(self) -> Lanes:
        """The float whose bits this integer holds; the inverse of `bits`."""
        return self.new(self.b.bitcast(self.value, self.like(emit.F64 if self.element == emit.I64 else emit.F32)))

    def to_float(self, element: ir.Type) -> Lanes:
        """A signed integer converted to a float of type `element`."""
        return self.new(self.b.sitofp(self.value, self.like(element)))

    # Named functions of one operand.

    def intrinsic(self, name: str) -> Lanes:
        """`llvm.<name>` of these lanes: "fabs", "sqrt", "floor" …"""
        return self.new(emit.unary(self.b, name, self.value))

    def abs(self) -> Lanes:
        """The float without its sign bit."""
        return self.intrinsic("fabs")

    def with_sign_of(self, other: Lanes) -> Lanes:
        """The magnitude of this float, the sign bit of `other`."""
        return self.new(emit.binary(self.b, "copysign", self.value, other.value))

    def at_most(self, bound: float) -> Lanes:
        """The smaller of this float and `bound`; NaN stays NaN."""
        return where(self > bound, bound, self)

    def at_least(self, bound: float) -> Lanes:
        """The larger of this float and `bound`; NaN stays NaN."""
        return where(self < bound, bound, self)


def fma(x: Lanes, y: Lanes | float, z: Lanes | float) -> Lanes:
    """x * y + z, rounded once."""
    return x.new(emit.fma(x.b, x.value, x.lift(y), x.lift(z)))


def where(condition: Lanes, x: Lanes | float, y: Lanes | float) -> Lanes:
    """x in the lanes where `condition` holds, y elsewhere; at least one of them isn't a plain number."""
    model = x if isinstance(x, Lanes) else y
    assert isinstance(model, Lanes)
    return model.new(model.b.select(condition.value, model.lift(x), model.lift(y)))


def coefficients(name: str, x: Lanes) -> tuple[float, ...]:
    """The coefficients of the polynomial `name` for the type and numerics of x, lowest power first."""
    return COEFFICIENTS[name, "f64" if x.is_f64 else "f32", "strict" if x.strict else "fast"]


def polynomial(t: Lanes, terms: tuple[float, ...]) -> Lanes:
    """The polynomial with the given coefficients at t, |t| <= 1.

    The lowest powers, on which the accuracy depends, go by Horner's rule; the rest, where they are many, as two
    interleaved chains, half as long.
    """
    lowest = 4
    if len(terms) < lowest + 5:
        return horner(t, terms)
    square, rest = t * t, terms[lowest:]
    total = fma(t, horner(square, rest[1::2]), horner(square, rest[0::2]))
    for term in terms[lowest - 1 :: -1]:
        total = fma(total, t, term)
    return total


def horner(t: Lanes, terms: tuple[float, ...]) -> Lanes:
    """The polynomial by Horner's rule; at least two coefficients."""
    total = fma(t, terms[-1], terms[-2])
    for term in terms[-3::-1]:
        total = fma(total, t, term)
    return total


def power_of_two(n: Lanes) -> Lanes:
    """2^n for integers n given as a float; n in [1 - bias, bias]."""
    # Adding 1.5 * 2^mantissa_bits leaves n + bias in the low bits; the shift drops the rest.
    biased = n + (1.5 * 2.0**n.mantissa_bits + n.bias)
    return (biased.bits() << n.mantissa_bits).as_float()
