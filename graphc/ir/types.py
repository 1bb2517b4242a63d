"""Element types and tensor types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphc.ir.symbolic import Dim, Expr, Symbol, evaluate, free_symbols, product


@dataclass(frozen=True)
class DType:
    """An element type: its name, its size in bytes, and its kind ("bool", "int", "uint" or "float")."""

    name: str
    bytes: int
    kind: str

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    @cached_property
    def numpy(self) -> np.dtype:
        """The NumPy dtype that stores it (bf16 through ml_dtypes)."""
        if self.name == "bf16":
            import ml_dtypes

            bfloat16: np.dtype = np.dtype(ml_dtypes.bfloat16)
            return bfloat16
        return np.dtype(_NUMPY[self.name])

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_bool(self) -> bool:
        return self.kind == "bool"


_NUMPY = {
    "bool": "?", "i8": "i1", "i16": "i2", "i32": "i4", "i64": "i8", "u8": "u1", "u16": "u2", "u32": "u4", "u64": "u8",
    "f16": "f2", "f32": "f4", "f64": "f8",
}  # fmt: skip

bool_ = DType("bool", 1, "bool")
i8, i16, i32, i64 = (DType(f"i{n * 8}", n, "int") for n in (1, 2, 4, 8))
u8, u16, u32, u64 = (DType(f"u{n * 8}", n, "uint") for n in (1, 2, 4, 8))
f16, bf16, f32, f64 = (
    DType("f16", 2, "float"),
    DType("bf16", 2, "float"),
    DType("f32", 4, "float"),
    DType("f64", 8, "float"),
)

DTYPES: Mapping[str, DType] = {t.name: t for t in (bool_, i8, i16, i32, i64, u8, u16, u32, u64, f16, bf16, f32, f64)}
FLOATS = (f16, bf16, f32, f64)
INTEGERS = (i8, i16, i32, i64, u8, u16, u32, u64)


def dtype_of(array: np.ndarray) -> DType:
    """The element type of an array; raises TypeError for one that graphc doesn't have."""
    name = array.dtype.name
    for t in DTYPES.values():
        if (t.name == "bf16") == (name == "bfloat16") and (name == "bfloat16" or array.dtype == t.numpy):
            return t
    raise TypeError(f"no element type for NumPy's {array.dtype}")


@dataclass(frozen=True)
class TensorType:
    """An element type and a shape of dims; `f32[batch,784]` in text, `f32[]` for rank 0."""

    dtype: DType
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(str(d).replace(' ', '') for d in self.shape)}]"

    def __repr__(self) -> str:
        return str(self)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """The number of elements."""
        return product(self.shape)

    @property
    def bytes(self) -> Dim:
        """The size of the dense tensor in bytes."""
        return self.size * self.dtype.bytes

    @property
    def is_static(self) -> bool:
        return not any(isinstance(d, Expr) for d in self.shape)

    def with_shape(self, shape: Iterable[Dim]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def symbols(self) -> frozenset[Symbol]:
        """Every symbol in the shape."""
        return frozenset().union(*[free_symbols(d) for d in self.shape if isinstance(d, Expr)])

    def concrete(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        """The shape at given values of the symbols."""
        return tuple(evaluate(d, dims) for d in self.shape)


def tensor(dtype: DType, *shape: Dim) -> TensorType:
    """TensorType(dtype, shape)."""
    return TensorType(dtype, shape)
