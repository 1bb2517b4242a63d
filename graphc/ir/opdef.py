"""What an operator is: one frozen declaration that inference, the interpreter, autodiff, docs and tests all read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.graph import Graph, Guard, Node, Value
from graphc.ir.symbolic import Dim, Expr, bounds, minimum
from graphc.ir.tensor_data import TensorData
from graphc.ir.types import DType, TensorType

if TYPE_CHECKING:
    from graphc.ir.builder import Builder

REQUIRED: Final = object()
"""The default of an attribute that has none."""

KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "int": (int,), "float": (float,), "bool": (bool,), "str": (str,), "dtype": (DType,), "dim": (int, Expr),
    "ints": (tuple,), "floats": (tuple,), "dims": (tuple,), "tensor": (TensorData,), "graph": (Graph,),
}  # fmt: skip


@dataclass(frozen=True)
class Attribute:
    """A typed attribute: its kind (a key of KINDS) and its default."""

    kind: str
    default: Any = REQUIRED


class Inference:
    """What inference may assume: collects a guard for each equality that it can't prove."""

    def __init__(self) -> None:
        self.guards: list[Guard] = []

    def equal(self, a: Dim, b: Dim, what: str) -> Dim:
        """The dim that both must be; raises ShapeError naming `what` if they provably differ."""
        if a == b:
            return a
        low, high = bounds(a - b)
        if (low is not None and low > 0) or (high is not None and high < 0):
            raise ShapeError(f"{what} must be equal", seen=f"{a} and {b}")
        guard = Guard(a, b)
        if guard not in self.guards:
            self.guards.append(guard)
        return a if isinstance(a, int) else b

    def at_most(self, a: Dim, b: Dim, what: str) -> None:
        """Assumes a <= b (guard min(a, b) == a where that isn't provable); raises ShapeError if provably false."""
        low, _ = bounds(a - b)
        if low is not None and low > 0:
            raise ShapeError(f"{what} out of range", seen=f"{a} and {b}", expected=f"{a} <= {b}")
        if isinstance(a, int) and isinstance(b, int):
            return
        self.equal(minimum(a, b), a, what)

    def same_shape(self, types: Sequence[TensorType], what: str) -> tuple[Dim, ...]:
        """The shape that all operands must have; raises ShapeError on another rank or dim."""
        first = types[0]
        for t in types[1:]:
            if t.rank != first.rank:
                raise ShapeError(f"{what} must have the same shape", seen=" and ".join(map(str, types)))
        shape = list(first.shape)
        for t in types[1:]:
            if t.shape == first.shape:
                continue
            pairs = enumerate(zip(shape, t.shape, strict=True))
            shape = [self.equal(a, b, f"dim {i} of {what}") for i, (a, b) in pairs]
        return tuple(shape)


@dataclass(frozen=True)
class Sample:
    """Inputs for one test of an operator: operand arrays, attributes, and what to leave out.

    A conformance suite casts floating operands over the operator's dtypes; integer and bool operands stay as given.
    `differentiable=False` marks samples at kinks, or with NaN, where finite differences mean nothing.
    """

    operands: tuple[np.ndarray, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    differentiable: bool = True


class NotDifferentiable:
    """The `vjp` of an operator without a gradient (integers, comparisons); `reason` is shown in the error."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


NOT_DIFFERENTIABLE: Final = NotDifferentiable("its result is piecewise constant")

Infer = Callable[[Inference, Sequence[TensorType], Mapping[str, Any]], tuple[TensorType, ...]]
Reference = Callable[[Sequence[np.ndarray], Mapping[str, Any]], tuple[np.ndarray, ...]]
Vjp = Callable[["Builder", Node, Sequence[Value]], Sequence[Value | None]]
Decompose = Callable[["Builder", Node], Sequence[Value]]


@dataclass(frozen=True)
class OpDef:
    """An operator.

    name, version: its identity in text and artifacts; snake_case.
    operands: names; a last one "name?" may be left out, "*name" takes any number.
    results: names; a last one "*name" stands for any number.
    attributes: name -> Attribute; values are complete on every node.
    traits: "elementwise" (result i is a function of operands' element i; all shapes equal), "commutative",
        "view" (only moves elements), "terminal" (kept by DCE).
    infer: operand types and attributes to result types; raises ShapeError.
    reference: the meaning, in NumPy; dims in attributes are ints, and graphs are functions from a list of arrays to a
        list of arrays. Results have exactly the inferred types. Called with NumPy's floating-point warnings off.
    vjp: emits the cotangents of the operands from those of the results; None for an operand without one.
        Cotangents of integer and bool results are there but mean nothing.
    decompose: emits the same results from simpler operators; None for a primitive.
    samples: inputs for tests, over shapes and edges; a conformance suite casts them over `dtypes`.
    dtypes: element types that the float/integer operands may have, by name.
    doc: formula, shapes, dtypes, source.
    """

    name: str
    operands: tuple[str, ...]
    infer: Infer
    reference: Reference
    vjp: Vjp | NotDifferentiable
    samples: Callable[[], Iterable[Sample]]
    doc: str
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    results: tuple[str, ...] = ("result",)
    traits: frozenset[str] = frozenset()
    decompose: Decompose | None = None
    dtypes: tuple[str, ...] = ("f32", "f64")
    version: int = 1

    def __hash__(self) -> int:
        return hash((self.name, self.version))

    def __repr__(self) -> str:
        return f"<operator {self.name}>"

    @property
    def is_primitive(self) -> bool:
        return self.decompose is None

    def result_names(self, count: int) -> list[str]:
        """Names of `count` results; "*name" becomes name0, name1, ..."""
        fixed = [n for n in self.results if not n.startswith("*")]
        return fixed + [f"{self.results[-1].lstrip('*')}{i}" for i in range(count - len(fixed))]

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given attributes with defaults filled in, in declared order; raises TypeError on a wrong name or kind."""
        if not given.keys() <= self.attributes.keys():
            unknown = given.keys() - self.attributes.keys()
            raise TypeError(f"{self.name} has no attribute {', '.join(sorted(unknown))}")
        result = {}
        for name, declared in self.attributes.items():
            value = given.get(name, declared.default)
            if value is REQUIRED:
                raise TypeError(f"{self.name} needs attribute {name}")
            if isinstance(value, list):
                value = tuple(value)
            if declared.kind == "float" and type(value) is int:
                value = float(value)
            if not isinstance(value, KINDS[declared.kind]) or (declared.kind == "int" and isinstance(value, bool)):
                raise TypeError(f"{self.name}'s attribute {name} is of kind {declared.kind}, not {value!r}")
            result[name] = value
        return result

    @cached_property
    def _counts(self) -> tuple[int, int | None]:
        """The fewest and the most operands; None for any number."""
        low = sum(not n.startswith("*") and not n.endswith("?") for n in self.operands)
        return low, None if any(n.startswith("*") for n in self.operands) else len(self.operands)

    def check_count(self, count: int) -> None:
        """Raises TypeError unless the operator takes `count` operands."""
        low, high = self._counts
        if count < low or (high is not None and count > high):
            raise TypeError(f"{self.name} takes ({', '.join(self.operands)}), not {count} operands")
