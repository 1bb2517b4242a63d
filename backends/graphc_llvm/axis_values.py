"""Index arithmetic at one place of a kernel: expressions over axes and dims whose values are known there."""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ir

from graphc.ir.symbolic import Atom, Dim, Extremum, FloorDiv, Symbol, nonnegative
from graphc.lowering.loop_body import Axis
from graphc_llvm.contraction import Affine
from graphc_llvm.emit import binary, i64


class AxisValues:
    """The values (i64) of symbols by name, in `env`, which loops set as they go; expressions are emitted where asked for."""

    def __init__(self, b: ir.IRBuilder) -> None:
        self.b = b
        self.env: dict[str, ir.Value] = {}

    def dim(self, e: Dim) -> ir.Value:
        """The value of an expression whose symbols are in `env`."""
        if isinstance(e, int):
            return i64(e)
        total: ir.Value = i64(0)
        for monomial, coefficient in e.terms:
            term: ir.Value = i64(coefficient)
            for atom in monomial:
                term = self.b.mul(term, self.atom(atom))
            total = self.b.add(total, term)
        return total

    def atom(self, atom: Atom) -> ir.Value:
        if isinstance(atom, Symbol):
            return self.env[atom.name]
        if isinstance(atom, Extremum):
            values = [self.dim(a) for a in atom.arguments]
            result = values[0]
            for v in values[1:]:
                result = binary(self.b, f"s{atom.kind}", result, v)
            return result
        divide = self.b.udiv if isinstance(atom, FloorDiv) else self.b.urem
        if not nonnegative(atom.numerator):
            raise ValueError(f"{atom} may be negative")
        return divide(self.dim(atom.numerator), self.dim(atom.divisor))

    def sum(self, affine: Affine, axes: Sequence[Axis], constant: Dim = 0) -> ir.Value:
        """The part of an affine address that the axes contribute, plus a constant."""
        total = self.dim(constant)
        for axis in axes:
            coefficient = affine.of(axis.name)
            if coefficient == 0:
                continue
            total = self.b.add(total, self.b.mul(self.env[axis.name], self.dim(coefficient)))
        return total

    def unravel(self, index: ir.Value, axes: Sequence[Axis]) -> None:
        """Sets the axes' values from their row-major linear index."""
        for i, axis in reversed(list(enumerate(axes))):
            if i == 0:
                self.env[axis.name] = index
                return
            extent = self.dim(axis.extent)
            self.env[axis.name] = self.b.urem(index, extent)
            index = self.b.udiv(index, extent)
