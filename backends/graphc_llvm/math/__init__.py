"""Scalar operations and conversions as LLVM code: `emit_scalar_op` and `emit_cast`, for scalars and vectors alike."""

from graphc_llvm.math.cast import emit_cast, load_bool, store_bool
from graphc_llvm.math.table import MAX_ULP, emit_scalar_op, supports

__all__ = ["MAX_ULP", "emit_cast", "emit_scalar_op", "load_bool", "store_bool", "supports"]
