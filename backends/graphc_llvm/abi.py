"""The structures that native code and Python share: each one list of fields, giving LLVM's form and that of ctypes.

- `main` and `prepare`, the entries of a program, are `i32 entry(ptr context)`: 0, or a status (`graphc.lowering.status`) that
  stands in the context's error record too.
- A kernel is `i32 kernel(ptr pointers, ptr dims, ptr scratch, i64 begin, i64 end)`: it does the part [begin, end) of
  its range, reads its arrays' addresses from `pointers` and symbolic sizes (i64) from `dims`, has `scratch` to itself
  while it runs, and returns 0 or a status.
"""

from __future__ import annotations

import ctypes

import llvmlite.ir as ir

from graphc_llvm.emit import I32, I64, PTR, field_address, load_field

_CTYPES = {PTR: ctypes.c_void_p, I64: ctypes.c_int64, I32: ctypes.c_int32}

KERNEL_TYPE = ir.FunctionType(I32, [PTR, PTR, PTR, I64, I64])
ENTRY_TYPE = ir.FunctionType(I32, [PTR])


class Layout:
    """A structure of pointers and integers, laid out as C would: `type` is LLVM's form, `ctype` that of ctypes."""

    def __init__(self, name: str, **fields: ir.Type) -> None:
        self.type = ir.LiteralStructType(list(fields.values()))
        ctype_fields = [(field, _CTYPES[type_]) for field, type_ in fields.items()]
        self.ctype: type[ctypes.Structure] = type(name, (ctypes.Structure,), {"_fields_": ctype_fields})
        self._index = {field: index for index, field in enumerate(fields)}

    def address(self, b: ir.IRBuilder, ptr: ir.Value, field: str) -> ir.Value:
        """The address of `field` in the structure at `ptr`."""
        return field_address(b, ptr, self.type, self._index[field])

    def load(self, b: ir.IRBuilder, ptr: ir.Value, field: str) -> ir.Value:
        """The value of `field` in the structure at `ptr`."""
        return load_field(b, ptr, self.type, self._index[field], field)

    def store(self, b: ir.IRBuilder, value: ir.Value, ptr: ir.Value, field: str) -> None:
        """Set `field` of the structure at `ptr`."""
        b.store(value, self.address(b, ptr, field))


CONTEXT = Layout(
    "Context",
    buffers=PTR,  # ptr[]: the addresses of the inputs, then of the outputs, then of whatever else the program works on
    views=PTR,  # a Py_buffer for each input and output, the entry's own
    dims=PTR,  # i64[]: the values of the program's symbols
    steps=PTR,  # the program's steps (executor.ll's %Step), and how many there are
    step_count=I64,
    scratch=PTR,  # what kernels have to themselves while they run, 64-byte aligned
    times=PTR,  # i64[]: nanoseconds that each step took are added here; null: nobody asks
    error_step=I64,  # the number of the step whose kernel failed
)
"""What one call of a program works on. Each call that runs at the same time has its own."""
