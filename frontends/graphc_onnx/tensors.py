"""ONNX's stored tensors as NumPy arrays, with every size compared before memory is taken."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from graphc.errors import ModelError
from graphc_onnx.external_data import map_external
from graphc_onnx.structure import HIGHEST_RANK, check_dims


@dataclass(frozen=True, slots=True)
class Storage:
    """How ONNX stores an element type: its NumPy dtype, its bits, and the typed field used where bytes aren't."""

    dtype: np.dtype[Any]
    bits: int
    field: str


def _storage(dtype: Any, field: str, bits: int | None = None) -> Storage:
    numpy_dtype = np.dtype(dtype)
    return Storage(numpy_dtype, bits or numpy_dtype.itemsize * 8, field)


STORAGE: Mapping[int, Storage] = {
    TensorProto.FLOAT: _storage(np.float32, "float_data"),
    TensorProto.DOUBLE: _storage(np.float64, "double_data"),
    TensorProto.FLOAT16: _storage(np.float16, "int32_data"),
    TensorProto.BFLOAT16: _storage(ml_dtypes.bfloat16, "int32_data"),
    TensorProto.BOOL: _storage(np.bool_, "int32_data"),
    TensorProto.INT8: _storage(np.int8, "int32_data"),
    TensorProto.INT16: _storage(np.int16, "int32_data"),
    TensorProto.INT32: _storage(np.int32, "int32_data"),
    TensorProto.INT64: _storage(np.int64, "int64_data"),
    TensorProto.UINT8: _storage(np.uint8, "int32_data"),
    TensorProto.UINT16: _storage(np.uint16, "int32_data"),
    TensorProto.UINT32: _storage(np.uint32, "uint64_data"),
    TensorProto.UINT64: _storage(np.uint64, "uint64_data"),
    TensorProto.INT4: _storage(ml_dtypes.int4, "int32_data", 4),
    TensorProto.UINT4: _storage(ml_dtypes.uint4, "int32_data", 4),
    TensorProto.FLOAT8E4M3FN: _storage(ml_dtypes.float8_e4m3fn, "int32_data"),
    TensorProto.FLOAT8E4M3FNUZ: _storage(ml_dtypes.float8_e4m3fnuz, "int32_data"),
    TensorProto.FLOAT8E5M2: _storage(ml_dtypes.float8_e5m2, "int32_data"),
    TensorProto.FLOAT8E5M2FNUZ: _storage(ml_dtypes.float8_e5m2fnuz, "int32_data"),
}

# Kinds whose typed field holds the element's bits instead of its value.
_AS_BITS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ,
            TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ)  # fmt: skip
_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def type_name(data_type: int) -> str:
    """ONNX's name of an element type, as in "FLOAT16"."""
    known = TensorProto.DataType.values()
    return TensorProto.DataType.Name(data_type) if data_type in known else f"number {data_type}"


def storage_of(data_type: int, layer: str) -> Storage:
    """How the element type is stored; ModelError for one that graphc can't hold (strings, complex numbers …)."""
    storage = STORAGE.get(data_type)
    if storage is None:
        raise ModelError(
            "an element type isn't supported",
            layer=layer,
            seen=type_name(data_type),
            expected=", ".join(type_name(known) for known in STORAGE),
        )
    return storage


def tensor_to_numpy(
    tensor: TensorProto,
    base_dir: Path | None = None,
    *,
    layer: str | None = None,
    stored: NDArray[np.uint8] | None = None,
) -> NDArray[Any]:
    """The tensor's values, read-only where its bytes are used as they are; ModelError if data and dims don't agree.

    `base_dir` is the folder of external data, which is mapped and not copied; `layer` is how errors call the tensor;
    `stored` has its bytes where they aren't in the message.
    """
    layer = layer or f"tensor {tensor.name!r}"
    storage = storage_of(tensor.data_type, layer)
    if tensor.HasField("segment"):
        raise ModelError("a tensor is stored in segments, which no exporter does", layer=layer)
    dims = tuple(tensor.dims)
    if len(dims) > HIGHEST_RANK:
        raise ModelError("a tensor has too many dims", layer=layer, seen=len(dims), expected=f"at most {HIGHEST_RANK}")
    count = check_dims(dims, layer)
    size = (count * storage.bits + 7) // 8
    source = _where(tensor, layer)
    if source == "external_data":
        return _from_bytes(map_external(tensor, size, base_dir, layer), storage, dims)
    if source == storage.field:
        return _from_field(tensor, storage, dims, count, layer)
    if source != "raw_data":
        raise ModelError(
            f"a tensor's data isn't where {type_name(tensor.data_type)} has it",
            layer=layer,
            seen=source,
            expected=f"{storage.field} or raw_data",
        )
    data = np.frombuffer(tensor.raw_data, np.uint8) if stored is None else stored
    if len(data) != size:
        raise ModelError(
            "a tensor's data doesn't fill its dims",
            layer=layer,
            seen=f"{len(data)} bytes",
            expected=f"{size} bytes for {type_name(tensor.data_type)}{list(dims)}",
            hint="is the file complete?",
        )
    return _from_bytes(data, storage, dims)


def _where(tensor: TensorProto, layer: str) -> str:
    """The one field that holds the tensor's data; raw_data where none does, as for a tensor without elements."""
    sources = [name for name in _TYPED_FIELDS if len(getattr(tensor, name))]
    if tensor.HasField("raw_data"):
        sources.append("raw_data")
    if tensor.data_location == TensorProto.EXTERNAL:
        sources.append("external_data")
    if len(sources) > 1:
        raise ModelError("a tensor has its data in several places", layer=layer, seen=", ".join(sources))
    return sources[0] if sources else "raw_data"


def _from_bytes(data: NDArray[np.uint8], storage: Storage, dims: tuple[int, ...]) -> NDArray[Any]:
    """Little-endian bytes, as raw_data and external data have them."""
    if storage.bits == 4:
        return _unpack(data, storage, dims)
    values: NDArray[Any]
    if storage.dtype == np.bool_:
        values = data != 0  # a byte that is neither 0 nor 1 mustn't become a bool
    elif storage.dtype.kind == "V" or storage.dtype.itemsize == 1 or sys.byteorder == "little":
        values = data.view(storage.dtype)  # NumPy has no byte order for ml_dtypes' types
    else:
        values = data.view(storage.dtype.newbyteorder("<")).astype(storage.dtype, copy=False)
    return values.reshape(dims)


def _from_field(tensor: TensorProto, storage: Storage, dims: tuple[int, ...], count: int, layer: str) -> NDArray[Any]:
    field = getattr(tensor, storage.field)
    expected = (count + 1) // 2 if storage.bits == 4 else count
    if len(field) != expected:
        raise ModelError(
            "a tensor's data doesn't fill its dims",
            layer=layer,
            seen=f"{len(field)} elements in {storage.field}",
            expected=f"{expected} for {type_name(tensor.data_type)}{list(dims)}",
        )
    if storage.field in ("float_data", "double_data"):
        return np.array(field, storage.dtype).reshape(dims)
    packed = storage.bits == 4 or tensor.data_type in _AS_BITS
    stored = np.dtype(f"u{storage.dtype.itemsize}") if packed else storage.dtype
    values = np.array(field, np.uint64 if storage.field == "uint64_data" else np.int64)
    if stored != np.bool_:
        limits = np.iinfo(stored)
        if values.size and not (limits.min <= int(values.min()) and int(values.max()) <= limits.max):
            raise ModelError(
                "a tensor's values don't fit its element type",
                layer=layer,
                seen=f"{values.min()} to {values.max()}",
                expected=f"{limits.min} to {limits.max} for {type_name(tensor.data_type)}",
            )
    elements = values.astype(stored)
    if storage.bits == 4:
        return _unpack(elements, storage, dims)
    values = elements.view(storage.dtype) if packed else elements
    return values.reshape(dims)


def _unpack(data: NDArray[np.uint8], storage: Storage, dims: tuple[int, ...]) -> NDArray[Any]:
    """Two 4-bit integers a byte, the lower half first."""
    halves = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)[: int(np.prod(dims, dtype=np.int64))]
    if storage.dtype == np.dtype(ml_dtypes.int4):
        halves = (halves ^ 8).astype(np.int8) - 8
    return halves.astype(storage.dtype).reshape(dims)
