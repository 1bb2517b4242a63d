"""Runs one kernel on NumPy arrays that lie misaligned between guard bytes."""

import ctypes

import numpy as np

from graphc.ir.symbolic import evaluate
from graphc_llvm.jit import compile_object, load_objects
from graphc_llvm.nest import emit_kernel, kernel_info
from graphc_llvm.target import host_target

GUARD = 192
"""Bytes on either side of an array that must not change; more than two vectors."""


class Kernel:
    """The compiled kernel of a body; calling it gives the status."""

    def __init__(self, body, target=None, numerics="strict"):
        target = target or host_target()
        self.body = body
        self.text = emit_kernel(body, target, numerics)
        self.info = kernel_info(body, target)
        self.library = load_objects([compile_object(self.text, target)], [self.info.symbol])
        longs = (ctypes.c_int64, ctypes.c_int64)
        self.function = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3, *longs)(
            self.library.address(self.info.symbol)
        )

    def __call__(self, inputs, outputs, dims=None, pieces=1):
        """Writes `outputs` and returns the status; the work items are done in `pieces` calls, the last ones first."""
        dims = dims or {}
        memory = [guarded(x) for x in [*inputs, *outputs]]
        pointers = (ctypes.c_void_p * max(1, len(memory)))(*[view.ctypes.data for _, view in memory])
        values = (ctypes.c_int64 * max(1, len(self.info.dims)))(*[dims[n] for n in self.info.dims])
        scratch = np.full(evaluate(self.info.scratch_bytes, dims) + 64 + GUARD, 0xAB, np.uint8)
        base = scratch.ctypes.data + -scratch.ctypes.data % 64
        n = evaluate(self.info.work_items, dims)
        status = 0
        for k in reversed(range(pieces)):
            status = status or self.function(
                ctypes.addressof(pointers), ctypes.addressof(values), base, n * k // pieces, n * (k + 1) // pieces
            )
        for (raw, view), original in zip(memory, [*inputs, *outputs], strict=True):
            start = view.ctypes.data - raw.ctypes.data
            assert (raw[:start] == 0xAB).all() and (raw[start + view.nbytes :] == 0xAB).all(), "wrote outside of a buffer"
            if any(original is o for o in outputs):
                original[...] = view
            else:
                np.testing.assert_array_equal(as_bytes(view), as_bytes(original), "an input was written")
        return status


def guarded(x):
    """(bytes with guards, a copy of x within them at an address that is a multiple of its element's size only)."""
    raw = np.full(x.nbytes + 2 * GUARD, 0xAB, np.uint8)
    start = GUARD - raw.ctypes.data % 64 + (64 if raw.ctypes.data % 64 else 0) - x.itemsize
    view = np.frombuffer(raw.data, x.dtype, x.size, offset=start).reshape(x.shape)
    view[...] = x
    return raw, view


def as_bytes(x):
    """The bytes of an array, which compare equal where NaNs do."""
    return np.frombuffer(x.tobytes(), np.uint8)
