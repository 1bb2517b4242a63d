"""Every operator that has a conversion, by domain and name."""

from __future__ import annotations

from collections.abc import Mapping

from graphc_onnx import (
    convert_attention,
    convert_contraction,
    convert_control,
    convert_conv,
    convert_creation,
    convert_elementwise,
    convert_indexing,
    convert_loss,
    convert_movement,
    convert_norm,
    convert_pool,
    convert_quantize,
    convert_random,
    convert_recurrent,
    convert_reduce,
    convert_resize,
    convert_sequence,
)
from graphc_onnx.call import Converter

_FAMILIES = (
    convert_elementwise, convert_movement, convert_reduce, convert_contraction, convert_conv, convert_pool,
    convert_norm, convert_creation, convert_indexing, convert_recurrent, convert_control,
    convert_attention, convert_loss, convert_resize, convert_quantize, convert_random,
    convert_sequence,
)  # fmt: skip

CONVERTERS: Mapping[tuple[str, str], Converter] = {
    ("", op): converter for family in _FAMILIES for op, converter in family.CONVERTERS.items()
}
