"""Torch's symbolic sizes as graphc's dims."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx
from torch.utils._sympy import functions as torch_sympy

from graphc.errors import ModelError
from graphc.ir.graph import Guard
from graphc.ir.symbolic import Dim, Expr, as_symbol, ceildiv, floordiv, maximum, minimum, mod, product, symbol
from graphc_torch.refused import Refused


class Symbols:
    """What each symbol of an exported program is called in the graph, and the dims of its size expressions."""

    def __init__(self, ranges: Mapping[Any, Any]) -> None:
        self._ranges = ranges
        self._known: dict[str, Expr] = {}

    def define(self, shape: Sequence[Any], name: str, given: Mapping[int, Any]) -> None:
        """Takes the symbols of an input's shape, called as `given` says for its axes. ModelError where that doesn't fit."""
        rank = len(shape)
        for axis, wanted in given.items():
            if not isinstance(axis, int) or not -rank <= axis < rank:
                raise ModelError("dynamic= names no axis", layer=f"input {name!r}", seen=axis, expected=f"rank {rank}")
            self._define_as(shape[axis], wanted, f"axis {axis} of input {name!r}")
        for size in shape:
            for s in size.node.expr.free_symbols if isinstance(size, torch.SymInt) else ():
                if s.name not in self._known:
                    self._known[s.name] = symbol(s.name, *self._range(s))

    def _define_as(self, size: Any, wanted: Any, where: str) -> None:
        chosen = given_symbol(wanted)
        if chosen is None:
            if isinstance(wanted, int) and (isinstance(size, torch.SymInt) or size != wanted):
                raise ModelError(
                    "dynamic= gives another size than the example has", layer=where, seen=wanted, expected=size
                )
            return
        expression = size.node.expr if isinstance(size, torch.SymInt) else size
        if not isinstance(expression, sympy.Symbol):
            raise ModelError(
                "this dim can't be named: it is no symbol of the exported program", layer=where, seen=f"{size}",
                expected=f"a dynamic dim, to be called {chosen.name}",
                hint="export the program with this dim dynamic",
            )  # fmt: skip
        low, high = self._range(expression)
        if chosen.low < low or (high is not None and (chosen.high is None or chosen.high > high)):
            raise ModelError(
                "dynamic= gives a wider range than the program was exported for", layer=where,
                seen=f"{chosen.low} to {chosen.high}", expected=f"within {low} to {high}",
            )  # fmt: skip
        known = self._known.setdefault(expression.name, symbol(chosen.name, chosen.low, chosen.high))
        if known != symbol(chosen.name, chosen.low, chosen.high):
            raise ModelError(
                "two dims that are always equal have different names",
                layer=where,
                seen=chosen.name,
                expected=str(known),
            )

    def _range(self, s: Any) -> tuple[int, int | None]:
        """The inclusive bounds that the program was exported for."""
        found = self._ranges.get(s)
        if found is None:
            return 1, None
        high = found.upper
        bounded = isinstance(high, (int, sympy.Integer)) and int(high) < 2**62
        return max(int(found.lower), 0), int(high) if bounded else None

    def dim(self, size: Any) -> Dim:
        """A size, an int or torch's symbolic one, as a dim; refused where it depends on the data of a run."""
        if isinstance(size, int) and not isinstance(size, bool):
            return size
        if not isinstance(size, torch.SymInt):
            raise Refused(f"a size that is {type(size).__name__} isn't supported")
        return self.expression(size.node.expr)

    def shape(self, shape: Any) -> tuple[Dim, ...]:
        """Every size of a shape as a dim."""
        return tuple(self.dim(d) for d in shape)

    def guards(self, node: Any) -> list[Guard]:
        """What a condition on sizes says that a run must fulfil."""
        val = node.meta["val"] if isinstance(node, fx.Node) else node
        if not isinstance(val, torch.SymBool):
            if val is True:
                return []
            raise Refused("a check of the data of a run isn't supported")
        return self.condition(val.node.expr)

    def assumptions(self, sizes: Iterable[Any]) -> list[Guard]:
        """What torch assumed of the sizes of inputs while it traced the model."""
        environments = {id(d.node.shape_env): d.node.shape_env for d in sizes if isinstance(d, torch.SymInt)}
        found = (self.condition(env.replace(g.expr)) for env in environments.values() for g in env.guards)
        return [guard for guards in found for guard in guards]

    def condition(self, e: Any) -> list[Guard]:
        """A condition of sympy's as equalities; none where it always holds."""
        if e is sympy.true:
            return []
        if isinstance(e, sympy.And):
            return [guard for a in e.args for guard in self.condition(a)]
        if not isinstance(e, sympy.core.relational.Relational):
            raise Refused(f"the condition {e} on sizes isn't supported")
        a, b = (self.expression(x) for x in e.args)
        smaller: Dim
        larger: Dim
        match e:
            case sympy.Eq():
                return [] if a == b else [Guard(a, b)]
            case sympy.Ne():
                smaller, larger = 1, maximum(a - b, b - a)
            case sympy.Le() | sympy.Lt():
                smaller, larger = a, b - (1 if isinstance(e, sympy.Lt) else 0)
            case _:
                smaller, larger = b, a - (1 if isinstance(e, sympy.Gt) else 0)
        low = minimum(smaller, larger)
        return [] if low == smaller else [Guard(low, smaller)]

    def expression(self, e: Any) -> Dim:
        """A sympy expression as a dim."""
        if isinstance(e, (int, sympy.Integer)):
            return int(e)
        if isinstance(e, sympy.Symbol):
            if e.name not in self._known:
                raise Refused("its size depends on the data of a run")
            return self._known[e.name]
        if isinstance(e, sympy.Pow) and isinstance(e.exp, sympy.Integer) and e.exp > 0:
            return product([self.expression(e.base)] * int(e.exp))
        combine = _FUNCTIONS.get(type(e))
        inner = _rounded_quotient(e)
        try:
            if combine is not None:
                return combine(*(self.expression(a) for a in e.args))
            if inner is not None:
                divide, fraction = inner
                return divide(*(self.expression(a) for a in fraction.args))
        except ValueError as error:  # a divisor that may be zero
            raise Refused(f"the size {e} isn't supported: {error}") from error
        raise Refused(f"the size {e} isn't supported")


def _rounded_quotient(e: Any) -> tuple[Callable[[Dim, Dim], Dim], Any] | None:
    """(division, quotient) of the rounding of a true quotient of integers."""
    divide = _ROUNDED.get(type(e))
    if divide is None or not isinstance(e.args[0], torch_sympy.IntTrueDiv):
        return None
    return divide, e.args[0]


def _sum(*terms: Dim) -> Dim:
    return reduce(lambda a, b: a + b, terms)


_FUNCTIONS: Mapping[Any, Callable[..., Dim]] = {
    sympy.Add: _sum,
    sympy.Mul: lambda *factors: product(factors),
    torch_sympy.FloorDiv: floordiv,
    torch_sympy.CleanDiv: floordiv,
    torch_sympy.Mod: mod,
    torch_sympy.PythonMod: mod,
    torch_sympy.ModularIndexing: lambda x, divisor, modulus: mod(floordiv(x, divisor), modulus),
    torch_sympy.Max: maximum,
    torch_sympy.Min: minimum,
}
_ROUNDED: Mapping[Any, Callable[[Dim, Dim], Dim]] = {
    torch_sympy.CeilToInt: ceildiv,
    torch_sympy.FloorToInt: floordiv,
}


@dataclass(frozen=True)
class GivenDim:
    """A name and inclusive range for a dim."""

    name: str
    low: int
    high: int | None


def given_symbol(dim: Any) -> GivenDim | None:
    """What a dim of `dynamic=` says: a graphc symbol, a torch.export.Dim or a name; None for a size or torch's hints."""
    if isinstance(dim, str) and dim.isidentifier():
        return GivenDim(dim, 1, None)
    if isinstance(dim, Expr):
        found = as_symbol(dim)
        if found is not None and (found.high is None or isinstance(found.high, int)):
            return GivenDim(found.name, found.low, found.high)
    if isinstance(dim, torch.export.Dim) and hasattr(dim, "__name__"):
        high = dim.max
        return GivenDim(dim.__name__, int(dim.min), None if high is math.inf or int(high) >= 2**62 else int(high))
    return None
