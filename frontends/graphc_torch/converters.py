"""All converters, by the names of ATen's operators: "add" for every overload, "max.dim" for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from graphc_torch import (
    convert_attention,
    convert_contraction,
    convert_conv,
    convert_creation,
    convert_elementwise,
    convert_indexing,
    convert_movement,
    convert_norm,
    convert_pool,
    convert_random,
    convert_recurrent,
    convert_reduce,
    convert_resize,
)
from graphc_torch.call import Converter

CONVERTERS: Mapping[str, Converter] = {
    **convert_attention.CONVERTERS,
    **convert_contraction.CONVERTERS,
    **convert_conv.CONVERTERS,
    **convert_creation.CONVERTERS,
    **convert_elementwise.CONVERTERS,
    **convert_indexing.CONVERTERS,
    **convert_movement.CONVERTERS,
    **convert_norm.CONVERTERS,
    **convert_pool.CONVERTERS,
    **convert_random.CONVERTERS,
    **convert_recurrent.CONVERTERS,
    **convert_reduce.CONVERTERS,
    **convert_resize.CONVERTERS,
}

IGNORED = frozenset({
    "_assert_tensor_metadata.default", "_assert_async.msg", "_assert_async.default",
    "sym_constrain_range_for_size.default", "sym_constrain_range.default",
})  # fmt: skip
"""Operators without a result, whose checks the types of inputs stand for."""

_DATA = "its size depends on the data of a run"
_RANDOM = "random numbers of this kind aren't supported"

REFUSED: Mapping[str, str] = {
    "nonzero": _DATA, "masked_select": _DATA, "_unique2": _DATA, "unique_dim": _DATA, "repeat_interleave.Tensor": _DATA,
    "multinomial": _RANDOM, "randperm": _RANDOM,
    "_local_scalar_dense": "a number read from a tensor of a run isn't supported",
}  # fmt: skip
"""Why operators can't be taken, where there is more to say than that there is no conversion."""


def find_converter(name: str) -> Converter | None:
    """The converter of an operator "name.overload", if there is one."""
    return CONVERTERS.get(name) or CONVERTERS.get(name.rpartition(".")[0])


def takes(op: Any) -> bool:
    """Whether an operator of torch has a converter, so that it isn't to be decomposed."""
    if not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten" or op._schema.is_mutable:
        return False
    return find_converter(str(op).removeprefix("aten.")) is not None
