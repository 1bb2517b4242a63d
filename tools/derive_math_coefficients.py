"""Derives the polynomials of `graphc_llvm.math` by Remez exchange and prints that package's `coefficients.py`.

    python tools/derive_math_coefficients.py > backends/graphc_llvm/math/coefficients.py

Each entry of `TARGETS` states a function, an interval, a weight (the error that counts is weight * difference) and the
error that strict and fast numerics ask for; the smallest degree that reaches it is taken. Coefficients are rounded to
the working precision one at a time and the rest fitted again, so that rounding costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp

mp.mp.dps = 70
MANTISSA = {"f32": 24, "f64": 53}
Function = Callable[[mp.mpf], mp.mpf]


@dataclass(frozen=True)
class Target:
    """One function to approximate on [low, high]; `extra` is how many bits below half an ulp its error must lie, for
    strict and for fast numerics."""

    name: str
    function: Function
    low: float
    high: float
    weight: Function
    extra: tuple[float, float]
    dtypes: tuple[str, ...] = ("f32", "f64")


def round_to(value: mp.mpf, bits: int) -> mp.mpf:
    """`value` rounded to a mantissa of `bits`, exponent unbounded."""
    if value == 0:
        return mp.mpf(0)
    with mp.workprec(bits):
        return +value


class Grid:
    """The function and its weight, sampled once where the exchange looks for extrema."""

    def __init__(self, target: Target, points: int) -> None:
        middle, half = (mp.mpf(target.high) + target.low) / 2, (mp.mpf(target.high) - target.low) / 2
        self.t = [middle - half * mp.cos(mp.pi * (2 * i + 1) / (2 * points)) for i in range(points)]
        self.weight = [target.weight(t) for t in self.t]
        self.value = [target.function(t) for t in self.t]

    def error(self, coefficients: list[mp.mpf]) -> list[mp.mpf]:
        """The weighted difference at each point."""
        lowest_last = coefficients[::-1]
        return [
            w * (v - mp.polyval(lowest_last, t)) for t, w, v in zip(self.t, self.weight, self.value, strict=True)
        ]


def remez(grid: Grid, degree: int) -> tuple[list[mp.mpf], mp.mpf]:
    """The coefficients of the polynomial with the smallest largest error on the grid, and that error."""
    count, size = degree + 2, len(grid.t)
    reference = [round((size - 1) * i / (count - 1)) for i in range(count)]
    for _ in range(40):
        rows = [[grid.t[i] ** p for p in range(degree + 1)] + [(-1) ** k / grid.weight[i]]
                for k, i in enumerate(reference)]  # fmt: skip
        *coefficients, levelled = mp.lu_solve(mp.matrix(rows), mp.matrix([grid.value[i] for i in reference]))
        errors = grid.error(coefficients)
        largest = max(abs(e) for e in errors)
        if largest <= abs(levelled) * mp.mpf("1.01"):
            return coefficients, largest
        reference = extrema(errors, count)
    raise RuntimeError(f"no convergence at degree {degree}")


def extrema(errors: list[mp.mpf], count: int) -> list[int]:
    """`count` grid indices of alternating error extrema, the largest ones."""
    peaks: list[int] = []
    for i, error in enumerate(errors):
        if peaks and (errors[peaks[-1]] > 0) == (error > 0):
            if abs(error) > abs(errors[peaks[-1]]):
                peaks[-1] = i
        else:
            peaks.append(i)
    while len(peaks) > count:
        peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
    if len(peaks) < count:
        raise RuntimeError(f"only {len(peaks)} of {count} extrema: a finer grid is needed")
    return peaks


def fit(target: Target, bits: int, bound: mp.mpf) -> tuple[list[mp.mpf], mp.mpf]:
    """The lowest-degree polynomial, coefficients rounded to `bits`, whose weighted error is under `bound`."""
    probe = Grid(target, 1000)
    degree = 1
    while remez(probe, degree)[1] > bound:
        degree += 1
    return round_one_by_one(probe, degree, bits)


def round_one_by_one(grid: Grid, degree: int, bits: int) -> tuple[list[mp.mpf], mp.mpf]:
    """Coefficients rounded to `bits`, lowest first, those that are left refitted each time (weighted least squares)."""
    columns = [[w * t**p for t, w in zip(grid.t, grid.weight, strict=True)] for p in range(degree + 1)]
    target = [w * v for w, v in zip(grid.weight, grid.value, strict=True)]
    gram = mp.matrix([[mp.fdot(x, y) for y in columns] for x in columns])
    right = mp.matrix([mp.fdot(x, target) for x in columns])
    rounded: list[mp.mpf] = []
    for first in range(degree + 1):
        last = first == degree
        lowest = right[first] / gram[first, first] if last else mp.lu_solve(gram[first:, first:], right[first:, 0])[0]
        rounded.append(round_to(lowest, bits))
        for row in range(degree + 1):
            right[row] -= gram[row, first] * rounded[-1]
    return rounded, max(abs(e) for e in grid.error(rounded))


def odd_tail(function: Function) -> Function:
    """t = x^2 -> (function(x) - x) / x^3."""
    return lambda t: (function(mp.sqrt(t)) - mp.sqrt(t)) / (t * mp.sqrt(t))


def odd_tail_weight(function: Function) -> Function:
    """What turns an error of `odd_tail` into a relative error of the function."""
    return lambda t: t * mp.sqrt(t) / function(mp.sqrt(t))


def erf_ratio(scale: float, middle: float) -> Function:
    """t -> erf(x) / x with t = scale x^2 - middle."""

    def function(t: mp.mpf) -> mp.mpf:
        x = mp.sqrt((t + middle) / scale)
        return mp.erf(x) / x

    return function


def erf_target(name: str, scale: float, middle: float, dtypes: tuple[str, ...]) -> Target:
    """`erf_ratio` on [-middle, middle], relative error."""
    ratio = erf_ratio(scale, middle)
    return Target(name, ratio, -middle, middle, lambda t: 1 / ratio(t), (4, 4), dtypes)


ROOT_2 = float(mp.sqrt(2))
HALF_LN2 = float(mp.log(2) / 2) * 1.001
QUARTER_PI = float((mp.pi / 4 * mp.mpf("1.03")) ** 2)

TARGETS = [
    # exp(r) = 1 + r + r^2 P(r)
    Target("exp", lambda r: (mp.exp(r) - 1 - r) / r**2, -HALF_LN2, HALF_LN2,
           lambda r: r**2 / mp.exp(r), (4, 0)),
    # log(1 + f) = f - f^2 / 2 + f^3 P(f)
    Target("log", lambda f: (mp.log1p(f) - f + f**2 / 2) / f**3, ROOT_2 / 2 - 1.0001, ROOT_2 - 0.9999,
           lambda f: f**3 / mp.log1p(f), (3, 0)),
    # sin(r) = r + r^3 P(r^2), cos(r) = 1 - r^2 / 2 + r^4 P(r^2)
    Target("sin", odd_tail(mp.sin), 0, QUARTER_PI, odd_tail_weight(mp.sin), (4, 1)),
    Target("cos", lambda z: (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2, 0, QUARTER_PI,
           lambda z: z**2 / mp.cos(mp.sqrt(z)), (4, 1)),
    # The rest of the odd functions: f(x) = x + x^3 P(x^2).
    Target("atan", odd_tail(mp.atan), 0, 1, odd_tail_weight(mp.atan), (3, 0)),
    Target("asin", odd_tail(mp.asin), 0, 0.25, odd_tail_weight(mp.asin), (3, 0)),
    Target("sinh", odd_tail(mp.sinh), 0, 1, odd_tail_weight(mp.sinh), (3, 0)),
    Target("tanh", odd_tail(mp.tanh), 0, 0.36, odd_tail_weight(mp.tanh), (3, 0)),
    # log((1 + s) / (1 - s)) = 2 s + 2/3 s^3 + s^5 P(s^2), for pow; relative to 2^-64
    Target("log_ratio", lambda t: 2 * (mp.atanh(mp.sqrt(t)) - mp.sqrt(t) - t * mp.sqrt(t) / 3) / mp.sqrt(t) ** 5,
           0, ((ROOT_2 - 1) / (ROOT_2 + 1)) ** 2 * 1.001, lambda t: mp.sqrt(t) ** 5 / (2 * mp.atanh(mp.sqrt(t))),
           (14, 14), ("f64",)),
    # erf(x) / x as a polynomial in scale x^2 - middle
    erf_target("erf_near_zero", 1, 1.125, ("f32",)),
    erf_target("erf_near_zero", 1, 1.5, ("f64",)),
    erf_target("erf", 133 / 1024, 1, ("f32",)),
    erf_target("erf", 29 / 512, 1, ("f64",)),
]  # fmt: skip


def wrapped(values: list[mp.mpf]) -> str:
    """The coefficients as source text, exact in the working precision."""
    return "".join(f"        {float(v)!r},\n" for v in values)


def main() -> None:
    """Print the generated module."""
    print('"""Polynomial coefficients, lowest power first, printed by tools/derive_math_coefficients.py: don\'t edit.')
    print("\nKeys are (function, dtype, numerics); what each polynomial stands for is said where it is used.\n"
          'The comment is the largest weighted error of the polynomial itself.\n"""\n')
    print("COEFFICIENTS: dict[tuple[str, str, str], tuple[float, ...]] = {")
    for target in TARGETS:
        for dtype in target.dtypes:
            for numerics, extra in zip(("strict", "fast"), target.extra, strict=True):
                bits = MANTISSA[dtype]
                coefficients, error = fit(target, bits, mp.mpf(2) ** (-bits - extra))
                print(f'    ("{target.name}", "{dtype}", "{numerics}"): (  # 2^{float(mp.log(error, 2)):.1f}')
                print(f"{wrapped(coefficients)}    ),", flush=True)
    print("}")


if __name__ == "__main__":
    main()
