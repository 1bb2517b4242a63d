"""Runs one kernel on NumPy arrays between forbidden pages, as misaligned as their element types allow."""

import ctypes

import numpy as np

from graphc.ir.symbolic import evaluate
from graphc.testing.guard_pages import at_guard_page
from graphc_llvm.jit import compile_object, load_objects
from graphc_llvm.nest import emit_kernel, kernel_info
from graphc_llvm.target import host_target


class Kernel:
    """The compiled kernel of a body; calling it gives the status."""

    def __init__(self, body, target=None, numerics="strict"):
        target = target or host_target()
        self.body = body
        self.text = emit_kernel(body, target, numerics)
        self.info = kernel_info(body, target)
        self.library = load_objects([compile_object(self.text, target)], [self.info.symbol])
        longs = (ctypes.c_int64, ctypes.c_int64)
        address = self.library.address(self.info.symbol)
        self.function = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3, *longs)(address)

    def __call__(self, inputs, outputs, dims=None, pieces=1, side="end"):
        """Writes `outputs` and returns the status; the work items are done in `pieces` calls, the last ones first."""
        dims = dims or {}
        memory = [at_guard_page(x, side) for x in [*inputs, *outputs]]
        pointers = (ctypes.c_void_p * max(1, len(memory)))(*[x.ctypes.data for x in memory])
        values = (ctypes.c_int64 * max(1, len(self.info.dims)))(*[dims[n] for n in self.info.dims])
        size = evaluate(self.info.scratch_bytes, dims)
        scratch = at_guard_page(np.full(size + -size % 64, 0xAB, np.uint8))
        n = evaluate(self.info.work_items, dims)
        status = 0
        for k in reversed(range(pieces)):
            part = n * k // pieces, n * (k + 1) // pieces
            done = self.function(ctypes.addressof(pointers), ctypes.addressof(values), scratch.ctypes.data, *part)
            status = status or done
        for given, x in zip(inputs, memory, strict=False):
            assert given.tobytes() == x.tobytes(), "an input was written"
        for given, x in zip(outputs, memory[len(inputs) :], strict=True):
            given[...] = x
        return status
