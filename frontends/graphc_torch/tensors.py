"""Torch's element types and tensors as graphc's, without copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch

from graphc.ir.tensor_data import TensorData
from graphc.ir.types import DTYPES, DType
from graphc_torch.refused import Refused

Memory: TypeAlias = tuple[object, ...]
"""A tensor's place in memory and how it lies there: see `same_memory`."""

TORCH_DTYPES: Mapping[torch.dtype, DType] = {
    torch.float32: DTYPES["f32"], torch.float64: DTYPES["f64"], torch.float16: DTYPES["f16"],
    torch.bfloat16: DTYPES["bf16"], torch.bool: DTYPES["bool"], torch.int8: DTYPES["i8"], torch.int16: DTYPES["i16"],
    torch.int32: DTYPES["i32"], torch.int64: DTYPES["i64"], torch.uint8: DTYPES["u8"], torch.uint16: DTYPES["u16"],
    torch.uint32: DTYPES["u32"], torch.uint64: DTYPES["u64"],
}  # fmt: skip


def dtype_of(dtype: torch.dtype) -> DType:
    """graphc's element type; refused where it has none."""
    found = TORCH_DTYPES.get(dtype)
    if found is None:
        raise Refused(f"the element type {str(dtype).removeprefix('torch.')} isn't supported")
    return found


def tensor_data(tensor: torch.Tensor) -> TensorData:
    """The contents of a dense tensor on the CPU, over its own memory where it is contiguous; other devices are copied."""
    dtype = dtype_of(tensor.dtype)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise Refused("only dense tensors with contents can be constants")
    plain = tensor.detach().cpu().resolve_neg()
    if plain.dtype == torch.bfloat16:  # NumPy has no such type of its own
        array = plain.view(torch.int16).numpy().view(dtype.numpy)
    else:
        array = plain.numpy()
    view = array.view()
    view.flags.writeable = False  # so that it is taken as it is
    return TensorData(view)


def torch_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor of an array's contents, copied."""
    copy = np.array(array, order="C")
    if copy.dtype == DTYPES["bf16"].numpy:  # NumPy's own types are all that torch knows
        return torch.from_numpy(copy.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copy)


def same_memory(tensor: torch.Tensor) -> Memory:
    """A key that tensors share if they are the same elements in memory, as tied parameters are."""
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def scalar_array(value: float | int | bool, dtype: DType) -> np.ndarray:
    """A rank-0 array; integers wrap as torch's scalars do when they are converted."""
    if dtype.is_integer and not isinstance(value, bool):
        bits = dtype.bytes * 8
        wrapped = int(value) % (1 << bits)
        if dtype.kind == "int" and wrapped >= 1 << (bits - 1):
            wrapped -= 1 << bits
        return np.array(wrapped, dtype.numpy)
    return np.array(value, dtype.numpy)
