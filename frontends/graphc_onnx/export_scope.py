"""An ONNX graph being written: its nodes, the names in it, constants, and sizes computed from the shapes of inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from graphc.errors import ModelError
from graphc.ir.symbolic import Dim, Expr, Extremum, FloorDiv, Symbol, nonnegative
from graphc.ir.types import DType, TensorType, dtype_of, f64, i64
from graphc_onnx.imported import ONNX_DTYPES, Refused, Tensor
from graphc_onnx.signatures import check_types

OPSET = 23
ELEM_TYPES: Mapping[str, int] = {dtype.name: number for number, dtype in ONNX_DTYPES.items()}


@dataclass(frozen=True)
class Name:
    """A tensor of the ONNX graph. Its shape may be narrower than that of the value it stands for: it repeats then."""

    text: str
    dtype: DType
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Names:
    """What the graphs of a model share: the names taken, the constants, and the inputs that define symbols."""

    taken: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)
    """Weights that several nodes read: stored once, as they are."""
    small: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    symbols: dict[str, tuple[Name, int]] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)

    def fresh(self, hint: str) -> str:
        """A name that no tensor has yet."""
        return _fresh(hint, self.taken)

    def layer(self, hint: str) -> str:
        """A name that no node has yet; "" for none."""
        return hint and _fresh(hint, self.layers)


def _fresh(hint: str, taken: dict[str, int]) -> str:
    """The hint, numbered where it is taken; `taken` has the last number of each."""
    if hint not in taken:
        taken[hint] = 0
        return hint
    while (name := f"{hint}_{taken[hint] + 1}") in taken:
        taken[hint] += 1
    taken[name] = 0
    return name


def _check_attributes(attributes: Mapping[str, Any], double: bool) -> None:
    """Refuses what attributes can't hold: dynamic dims, and doubles, which are stored in f32."""
    for name, value in attributes.items():
        if isinstance(value, Expr):
            raise Refused(f"ONNX's {name} must not be dynamic")
        if double and isinstance(value, float) and float(np.float32(value)) != value:
            raise Refused(f"ONNX stores {name} in single precision")


class Scope:
    """The nodes of one graph, a model's or a region's; what is outside of a region can be read in it."""

    def __init__(self, names: Names, outside: Scope | None = None) -> None:
        self.names = names
        self.nodes: list[NodeProto] = []
        self.layer = ""
        self._sizes: dict[str, Name] = dict(outside._sizes) if outside is not None else {}

    def mark(self) -> tuple[int, dict[str, Name]]:
        """Where the scope is now, for `back_to`."""
        return len(self.nodes), dict(self._sizes)

    def back_to(self, mark: tuple[int, dict[str, Name]]) -> None:
        """Takes back what was emitted since."""
        del self.nodes[mark[0] :]
        self._sizes = mark[1]

    def is_shared(self, x: Name) -> bool:
        """Whether later nodes may ask for the tensor again by what it is."""
        return x in self._sizes.values()

    # Nodes

    def op(
        self, op: str, operands: Sequence[Name | None], dtype: DType, shape: Sequence[Dim], **attributes: Any
    ) -> Name:
        """The only result of a new node; refused where the operator doesn't take the operands' types."""
        return self.ops(op, operands, TensorType(dtype, tuple(shape)), **attributes)[0]

    def ops(
        self, op: str, operands: Sequence[Name | None], *results: TensorType | None, **attributes: Any
    ) -> list[Name]:
        """The results of a new node, None for one that isn't asked for."""
        _check_attributes(attributes, any(r is not None and r.dtype == f64 for r in results))
        given = [None if o is None else Tensor(TensorType(o.dtype, o.shape)) for o in operands]
        try:
            check_types(op, OPSET, "", given, self.layer)
        except ModelError as e:
            raise Refused(f"{e.what} ({e.seen})") from e
        texts = [self.names.fresh(op.lower()) if r is not None else "" for r in results]
        node = helper.make_node(
            op, ["" if o is None else o.text for o in operands], texts, self.names.layer(self.layer), **attributes
        )
        self.nodes.append(node)
        return [Name(t, r.dtype, r.shape) for t, r in zip(texts, results, strict=True) if r is not None]

    # Constants

    def constant(self, array: np.ndarray, hint: str = "constant") -> Name:
        """A constant; small ones of equal contents are one."""
        key = (dtype_of(array).name, array.shape, array.tobytes()) if array.size <= 16 else None
        if key is not None and key in self.names.small:
            text = self.names.small[key]
        else:
            text = self.names.fresh(hint)
            self.names.arrays[text] = array
            if key is not None:
                self.names.small[key] = text
        return Name(text, dtype_of(array), tuple(array.shape))

    def scalar(self, value: float | bool, dtype: DType) -> Name:
        """A constant of rank 0."""
        return self.constant(np.array(value, dtype.numpy))

    def integers(self, values: Sequence[int]) -> Name:
        """A constant i64[len]."""
        return self.constant(np.array(values, np.int64))

    def contents(self, x: Name) -> np.ndarray | None:
        """The contents of a constant that may be stored in another form."""
        return None if x.text in self.names.shared else self.names.arrays.get(x.text)

    # Sizes

    def sizes(self, dims: Sequence[Dim]) -> Name:
        """Dims as a tensor i64[len]."""
        if all(isinstance(d, int) for d in dims):
            return self.integers([d for d in dims if isinstance(d, int)])
        parts: list[Name] = []
        run: list[int] = []
        for d in (*dims, None):
            if isinstance(d, int):
                run.append(d)
                continue
            if run:
                parts.append(self.integers(run))
                run = []
            if d is not None:
                parts.append(self.size(d))
        return parts[0] if len(parts) == 1 else self.op("Concat", parts, i64, (len(dims),), axis=0)

    def size(self, d: Dim) -> Name:
        """A dim as a tensor i64[1]."""
        if isinstance(d, int):
            return self.integers([d])
        if d.text not in self._sizes:
            self._sizes[d.text] = self._sum(d)
        return self._sizes[d.text]

    def _sum(self, e: Expr) -> Name:
        total: Name | None = None
        for atoms, factor in e.terms:
            term: Name | None = self.integers([factor]) if factor != 1 or not atoms else None
            for atom in atoms:
                found = self._atom(atom)
                term = found if term is None else self.op("Mul", [term, found], i64, (1,))
            assert term is not None
            total = term if total is None else self.op("Add", [total, term], i64, (1,))
        assert total is not None
        return total

    def _atom(self, atom: Any) -> Name:
        if isinstance(atom, Symbol):
            if atom.name not in self.names.symbols:
                raise Refused(f"the dynamic dim {atom.name} is no dim of an input by itself")
            holder, axis = self.names.symbols[atom.name]
            return self.op("Shape", [holder], i64, (1,), start=axis, end=axis + 1)
        if isinstance(atom, Extremum):
            return self.op(atom.kind.capitalize(), [self.size(a) for a in atom.arguments], i64, (1,))
        numerator, divisor = self.size(atom.numerator), self.size(atom.divisor)
        if isinstance(atom, FloorDiv) and nonnegative(atom.numerator):
            return self.op("Div", [numerator, divisor], i64, (1,))
        rest = self.op("Mod", [numerator, divisor], i64, (1,))
        if not isinstance(atom, FloorDiv):
            return rest
        return self.op("Div", [self.op("Sub", [numerator, rest], i64, (1,)), divisor], i64, (1,))

    # Moving elements

    def reshape(self, x: Name, shape: Sequence[Dim]) -> Name:
        """x with another shape of as many elements."""
        shape = tuple(shape)
        if x.shape == shape:
            return x
        array = self.contents(x)
        if array is not None and all(isinstance(d, int) for d in shape):
            return self.constant(array.reshape([d for d in shape if isinstance(d, int)]), x.text)
        dynamic = [i for i, d in enumerate(shape) if isinstance(d, Expr)]
        if len(dynamic) == 1 and 0 not in shape:  # the one unknown size follows from the others
            wanted = self.integers([-1 if isinstance(d, Expr) else d for d in shape])
            return self.op("Reshape", [x, wanted], x.dtype, shape)
        return self.op("Reshape", [x, self.sizes(shape)], x.dtype, shape, allowzero=1)

    def unsqueeze(self, x: Name, axes: Sequence[int]) -> Name:
        """x with axes of size 1 at those positions of the result."""
        rest = iter(x.shape)
        shape = [1 if i in axes else next(rest) for i in range(x.rank + len(axes))]
        if self.contents(x) is not None:
            return self.reshape(x, shape)
        return self.op("Unsqueeze", [x, self.integers(axes)], x.dtype, shape) if axes else x

    def squeeze(self, x: Name, axis: int) -> Name:
        """x without an axis of size 1."""
        shape = [d for i, d in enumerate(x.shape) if i != axis]
        return self.op("Squeeze", [x, self.integers([axis])], x.dtype, shape)

    def transpose(self, x: Name, permutation: Sequence[int]) -> Name:
        """Axis i of the result is axis permutation[i] of x."""
        if list(permutation) == list(range(x.rank)):
            return x
        array = self.contents(x)
        if array is not None:
            return self.constant(np.ascontiguousarray(array.transpose(permutation)), x.text)
        shape = [x.shape[i] for i in permutation]
        return self.op("Transpose", [x], x.dtype, shape, perm=list(permutation))

    def cast(self, x: Name, dtype: DType) -> Name:
        """x with another element type."""
        return x if x.dtype == dtype else self.op("Cast", [x], dtype, x.shape, to=ELEM_TYPES[dtype.name])

    def expand(self, x: Name, shape: Sequence[Dim]) -> Name:
        """x repeated to a shape."""
        return x if x.shape == tuple(shape) else self.op("Expand", [x, self.sizes(shape)], x.dtype, shape)
