"""Dynamic dims of a model's inputs as symbols."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import Any

from onnx import TensorShapeProto, ValueInfoProto

from graphc.errors import ModelError
from graphc.ir.symbolic import Dim, Expr, as_symbol, symbol


class Symbols:
    """Names for dynamic dims: equal dim_params are one symbol, a dim without a size or a name gets one of its own."""

    def __init__(self, dynamic: Mapping[str, Mapping[int, Any]] | None) -> None:
        self._dynamic = dynamic or {}
        self._by_param: dict[str, Expr] = {}
        self._taken = {
            s.name for axes in self._dynamic.values() for d in axes.values() if (s := _given_symbol(d)) is not None
        }

    def check_names(self, inputs: set[str]) -> None:
        """Raises ModelError where `dynamic` names what isn't an input."""
        unknown = sorted(set(self._dynamic) - inputs)
        if unknown:
            raise ModelError("dynamic= names no input", seen=", ".join(unknown), expected=", ".join(sorted(inputs)))

    def shape(self, info: ValueInfoProto) -> tuple[Dim, ...]:
        """The shape of an input, with `dynamic` in place of what the file says."""
        given = self._dynamic.get(info.name, {})
        dims = info.type.tensor_type.shape.dim
        for axis in given:
            if not isinstance(axis, int) or not -len(dims) <= axis < len(dims):
                raise ModelError("dynamic= names no axis", layer=f"input {info.name!r}", seen=axis)
        chosen = {axis % len(dims): d for axis, d in given.items()}
        return tuple(
            self._chosen(chosen[i], info.name, i) if i in chosen else self._from_file(d, info.name, i)
            for i, d in enumerate(dims)
        )

    def _from_file(self, dim: TensorShapeProto.Dimension, name: str, axis: int) -> Dim:
        if dim.HasField("dim_value"):
            return int(dim.dim_value)
        if not dim.dim_param:
            return symbol(self._fresh(f"{name}_{axis}"))
        if dim.dim_param not in self._by_param:
            self._by_param[dim.dim_param] = symbol(self._fresh(dim.dim_param))
        return self._by_param[dim.dim_param]

    def _chosen(self, dim: Any, name: str, axis: int) -> Dim:
        if isinstance(dim, int) and not isinstance(dim, bool) and dim >= 0:
            return dim
        found = _given_symbol(dim)
        if found is None:
            raise ModelError(
                "dynamic= gives no dim", layer=f"input {name!r}", seen=f"{dim!r} for axis {axis}",
                expected='graphc.Dim("name", low, high), a name, or an int',
            )  # fmt: skip
        return symbol(found.name, found.low, found.high)

    def _fresh(self, hint: str) -> str:
        """A name that a symbol may have, not taken yet."""
        base = "".join(c if c.isascii() and c.isalnum() else "_" for c in hint)
        if not base or base[0].isdigit() or keyword.iskeyword(base) or base in ("min", "max"):
            base = f"d_{base}"
        name, n = base, 1
        while name in self._taken:
            name, n = f"{base}_{n}", n + 1
        self._taken.add(name)
        return name


def _given_symbol(dim: Any) -> Any:
    """The Symbol that a dim of `dynamic=` is or names; None where it is neither."""
    if isinstance(dim, str) and dim.isidentifier():
        return as_symbol(symbol(dim))
    return as_symbol(dim) if isinstance(dim, Expr) else None
