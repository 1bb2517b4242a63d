"""Index expressions as text of languages like C, whose division doesn't round down."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.ir.symbolic import Atom, Dim, Extremum, FloorDiv, Symbol


@dataclass(frozen=True)
class Spelling:
    """The functions of two arguments that stand for floor division, remainder, minimum and maximum."""

    floordiv: str = "floordiv"
    mod: str = "mod"
    minimum: str = "min"
    maximum: str = "max"

    def __call__(self, e: Dim) -> str:
        """The expression; an operand as it stands, since a sum or product is parenthesized."""
        if isinstance(e, int):
            return str(e) if e >= 0 else f"({e})"
        terms = []
        for monomial, coefficient in e.terms:
            factors = [self._atom(a) for a in monomial]
            if coefficient != 1 or not factors:
                factors.insert(0, str(coefficient) if coefficient >= 0 else f"({coefficient})")
            terms.append("*".join(factors))
        text = " + ".join(terms)
        return text if text.isidentifier() else f"({text})"

    def _atom(self, a: Atom) -> str:
        if isinstance(a, Symbol):
            return a.name
        if isinstance(a, Extremum):
            name = self.minimum if a.kind == "min" else self.maximum
            text = self(a.arguments[0])
            for x in a.arguments[1:]:
                text = f"{name}({text}, {self(x)})"
            return text
        return f"{self.floordiv if isinstance(a, FloorDiv) else self.mod}({self(a.numerator)}, {self(a.divisor)})"
