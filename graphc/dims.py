"""Dynamic dims, as users name them."""

from __future__ import annotations

from graphc.errors import GraphcError
from graphc.ir.symbolic import Expr, symbol


def dim(name: str, low: int = 1, high: int | None = None) -> Expr:
    """A dynamic dim of that name, between `low` and `high`, both included (None: no upper bound).

    Equal names are equal sizes. Raises GraphcError for a range with nothing in it, or what is no name or size.
    """
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii():
        raise GraphcError("a dim's name isn't one", seen=repr(name), expected="letters, digits and underscores")
    bounds = [b for b in (low, high) if b is not None]
    if low is None or any(not isinstance(b, int) or isinstance(b, bool) or b < 0 for b in bounds):
        raise GraphcError(f"dim {name} has a bound that is no size", seen=f"{low!r} to {high!r}", expected="0 or more")
    if high is not None and high < low:
        raise GraphcError(f"dim {name} has an empty range", seen=f"{low} to {high}")
    return symbol(name, low, high)
