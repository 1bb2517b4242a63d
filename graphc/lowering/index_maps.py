"""Index maps of views: where an element of the result lies in the operand, as expressions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphc.ir.symbolic import Dim, Expr, floordiv, maximum, mod, nonnegative, product

Index = tuple[Dim, ...]
"""One expression for each axis of a tensor."""


def reshape_index(index: Sequence[Dim], shape: Sequence[Dim], to: Sequence[Dim]) -> Index:
    """The index into shape `to` of the element that is at `index` in `shape`, both row-major and of one size.

    Dims are matched in groups of equal products first, so that what a group doesn't touch needs no division; a
    one-to-one group keeps its index as it is, whatever symbol its dim is.
    """
    result: list[Dim] = []
    for here, there in _groups(shape, to):
        result += _regroup([index[i] for i in here], [shape[i] for i in here], [to[i] for i in there])
    return tuple(result)


def _groups(shape: Sequence[Dim], to: Sequence[Dim]) -> Iterator[tuple[range, range]]:
    """Runs of axes on both sides with equal products, as short as they can be found; they cover both sides."""
    i = j = 0
    while i < len(shape) or j < len(to):
        start, other = i, j
        i, j = min(i + 1, len(shape)), min(j + 1, len(to))
        while product(shape[start:i]) != product(to[other:j]):
            if i == len(shape) and j == len(to):
                break  # equal by a guard only: one group
            here, there = product(shape[start:i]), product(to[other:j])
            if j == len(to) or (i < len(shape) and _smaller(here, there)):
                i += 1
            else:
                j += 1
        if i == len(shape) and product(to[j:]) == 1:
            j = len(to)
        if j == len(to) and product(shape[i:]) == 1:
            i = len(shape)
        yield range(start, i), range(other, j)


def _smaller(a: Dim, b: Dim) -> bool:
    """Whether `a` is the one to extend: `b` has factors that `a` lacks."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    if nonnegative(b - a):
        return True
    if nonnegative(a - b):
        return False
    return not isinstance(a, Expr) or str(a) < str(b)


def _regroup(index: Sequence[Dim], shape: Sequence[Dim], to: Sequence[Dim]) -> list[Dim]:
    if 0 in shape or 0 in to:
        return [0] * len(to)  # no element, so any index will do
    here = [(i, d) for i, d in zip(index, shape, strict=True) if d != 1]
    there = [d for d in to if d != 1]
    if len(here) == 1 and len(there) == 1:
        found = [here[0][0]]
    else:
        found = [_position(here, product(there[k + 1 :]), None if k == 0 else d) for k, d in enumerate(there)]
    rest = iter(found)
    return [0 if d == 1 else next(rest) for d in to]


def _position(here: Sequence[tuple[Dim, Dim]], inner: Dim, size: Dim | None) -> Dim:
    """(linear index // inner) % size of an index that is given as (expression, dim) pairs; no remainder for None.

    What lies left of a suffix whose product divides inner * size counts modulo the rest alone; what lies right of one whose
    product divides `inner` can't carry into the quotient.
    """
    if size is not None:
        left, right, period = _cut(here, inner * size)
        here = [(mod(_linear(left), _positive(period)), period), *right]
    left, _, divisor = _cut(here, inner)
    return floordiv(_linear(left), _positive(divisor))


def _cut(
    here: Sequence[tuple[Dim, Dim]], whole: Dim
) -> tuple[Sequence[tuple[Dim, Dim]], Sequence[tuple[Dim, Dim]], Dim]:
    """(left, right, whole // product of right's dims), with the longest right whose product divides `whole`."""
    k = next(k for k in range(len(here) + 1) if _divides(product(d for _, d in here[k:]), whole))
    return here[:k], here[k:], floordiv(whole, _positive(product(d for _, d in here[k:])))


def _linear(here: Sequence[tuple[Dim, Dim]]) -> Dim:
    return linear_index([i for i, _ in here], [d for _, d in here])


def _divides(a: Dim, b: Dim) -> bool:
    if isinstance(a, int) and a < 1:
        return False
    return a == b or (nonnegative(a - 1) and mod(b, a) == 0)


def _positive(d: Dim) -> Dim:
    """The dim as a divisor: where it is 0, no element is ever asked for."""
    return d if nonnegative(d - 1) else maximum(d, 1)


def linear_index(index: Sequence[Dim], shape: Sequence[Dim]) -> Dim:
    """The row-major position of `index` in `shape`."""
    total: Dim = 0
    for i, d in zip(index, shape, strict=True):
        total = total * d + i
    return total


def inserted(index: Sequence[Dim], axes: Sequence[int], values: Sequence[Dim]) -> Index:
    """An index of the higher rank: `values` at `axes`, `index` at the others in order."""
    at = dict(zip(axes, values, strict=True))
    rest = iter(index)
    return tuple(at[i] if i in at else next(rest) for i in range(len(index) + len(axes)))
