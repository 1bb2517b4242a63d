"""Calls from Python: a native function that takes arrays through the buffer protocol and runs a program's `main`.

The function is generated once per process. An `Entry` is a Python builtin made of it and one program's signature:
`entry.call(context_address, inputs, outputs)` checks each array (dtype, rank, sizes, C order, native byte order,
outputs writable), writes their addresses into the context's table, lets go of the GIL, runs `main` and returns its
status. That costs some hundreds of nanoseconds; the same through ctypes takes microseconds for each array.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite.ir as ir

from graphc_llvm.abi import CONTEXT, ENTRY_TYPE, Layout
from graphc_llvm.cache import Cache
from graphc_llvm.emit import (
    ELEMENT_TYPES,
    I8,
    I32,
    I64,
    PTR,
    VOID,
    declare,
    for_range,
    i32,
    i64,
    load,
    local,
    offset,
    size_of,
)  # fmt: skip
from graphc_llvm.linker import Library
from graphc_llvm.own_code import load_own

BAD_COUNT = -1
"""The status of a call with another number of arrays than the program has."""

_FORMATS = {  # what the buffer protocol calls each dtype: int64 is a C long or a long long, whichever has its size
    "f16": "ee", "bf16": "HH", "f32": "ff", "f64": "dd", "bool": "??",
    "i8": "bb", "i16": "hh", "i32": "il", "i64": "lq",
    "u8": "BB", "u16": "HH", "u32": "IL", "u64": "LQ",
}  # fmt: skip
_ANY = -(2**63)

# CPython's Py_buffer and the flags of PyObject_GetBuffer.
_VIEW = Layout(
    "Py_buffer", buf=PTR, obj=PTR, len=I64, itemsize=I64, readonly=I32, ndim=I32, format=PTR, shape=PTR, strides=PTR,
    suboffsets=PTR, internal=PTR,
)  # fmt: skip
_WRITABLE, _FORMAT, _C_CONTIGUOUS = 0x1, 0x4, 0x38

_ARRAY = Layout("Array", ndim=I64, itemsize=I64, formats=PTR, dims=PTR)
_PROGRAM = Layout("Program", main=PTR, arrays=PTR, inputs=I64, outputs=I64, symbols=I64, hold_gil=I64)
_CAPSULE = b"graphc.program"


@dataclass(frozen=True)
class ArraySpec:
    """What an argument must be: `dims` holds sizes, names of symbols (equal names, equal sizes), or None: any size.

    bf16 has no format in the buffer protocol: such arrays are passed as views of uint16.
    """

    dtype: str
    dims: tuple[int | str | None, ...]


def bad_array(status: int) -> int | None:
    """Which array (inputs first, then outputs) a call refused by returning `status`; None if it isn't about one."""
    return -2 - status if status <= -2 else None


class Entry:
    """One program's entry. `call(context_address, inputs, outputs)`, both tuples, returns main's status.

    A negative status says that the arguments don't fit and nothing ran: `BAD_COUNT`, or see `bad_array`. `main` finds
    the sizes of `symbols` in the context's `dims`, in that order. With `hold_gil` the GIL is kept while `main` runs:
    right for a program of a few microseconds. Who uses `call` must hold the Entry, the library that `main` lies in, and
    the CallContext whose address is passed: native code sees addresses only.
    """

    call: Callable[[int, tuple[Any, ...], tuple[Any, ...]], int]

    def __init__(
        self,
        main: int,
        inputs: Sequence[ArraySpec],
        outputs: Sequence[ArraySpec],
        symbols: Sequence[str] = (),
        hold_gil: bool = False,
    ) -> None:
        specs = [*inputs, *outputs]
        self._arrays = (_ARRAY.ctype * len(specs))()
        self._kept: list[object] = []
        slots = {name: -1 - index for index, name in enumerate(symbols)}
        for record, spec in zip(self._arrays, specs, strict=True):
            sizes = [slots[d] if isinstance(d, str) else _ANY if d is None else d for d in spec.dims]
            dims = (ctypes.c_int64 * len(sizes))(*sizes)
            formats = ctypes.create_string_buffer(_FORMATS[spec.dtype].encode())
            self._kept += [dims, formats]
            record.ndim, record.itemsize = len(sizes), size_of(ELEMENT_TYPES[spec.dtype])
            record.formats, record.dims = ctypes.addressof(formats), ctypes.addressof(dims)
        self._program = _PROGRAM.ctype(
            main, ctypes.addressof(self._arrays), len(inputs), len(outputs), len(symbols), hold_gil
        )
        caller = load_caller()
        capsule = _new_capsule(ctypes.addressof(self._program), _CAPSULE, None)
        self.call = _new_builtin(ctypes.addressof(caller.method), capsule, None)


class CallContext:
    """The memory of one call: a `Context` whose tables are made for a program's arrays and symbols.

    One call at a time may use it. `bases` is the length of the table of addresses: at least the number of arrays, which
    `Entry.call` writes; the rest is the caller's. The fields given by name are addresses and counts of the context.
    """

    def __init__(self, arrays: int, symbols: int = 0, bases: int | None = None, **fields: int) -> None:
        self.bases = (ctypes.c_void_p * (arrays if bases is None else bases))()
        self._views = (_VIEW.ctype * arrays)()
        self.dims = (ctypes.c_int64 * symbols)()
        self.structure = CONTEXT.ctype(
            buffers=ctypes.addressof(self.bases),
            views=ctypes.addressof(self._views),
            dims=ctypes.addressof(self.dims),
            **fields,
        )
        self.address = ctypes.addressof(self.structure)


@dataclass(frozen=True)
class _Caller:
    """The loaded native function, and the PyMethodDef that makes builtins of it."""

    library: Library
    method: ctypes.Structure


class _MethodDef(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


_METH_FASTCALL = 0x80
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_new_builtin = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
    ("PyCFunction_NewEx", ctypes.pythonapi)
)


def load_caller(cache: Cache | None = None) -> _Caller:
    """The native function, loaded at the first call, which tells the cache that its code is kept in."""
    with _LOADING:
        if not _LOADED:
            library = load_own("caller", lambda: str(_caller_module()), ["call"], cache)
            method = _MethodDef(b"call", library.address("call"), _METH_FASTCALL, b"Run the program.")
            _LOADED.append(_Caller(library, method))
        return _LOADED[0]


_LOADING = threading.Lock()
_LOADED: list[_Caller] = []


def _caller_module() -> ir.Module:
    """`PyObject* call(PyObject* capsule, PyObject** arguments, Py_ssize_t count)`: a METH_FASTCALL builtin."""
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(PTR, [PTR, PTR, I64]), "call")
    capsule, arguments, count = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    null = ir.Constant(PTR, None)

    def python(name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
        return b.call(declare(module, name, result, [value.type for value in values]), values)

    status, acquired = local(b, I32, name="status"), local(b, I64, name="acquired")
    b.store(i32(BAD_COUNT), status)
    b.store(i64(0), acquired)
    name = ir.GlobalVariable(module, ir.ArrayType(I8, len(_CAPSULE) + 1), "capsule_name")
    name.initializer = ir.Constant(name.value_type, bytearray(_CAPSULE + b"\0"))
    name.global_constant, name.linkage = True, "internal"
    program = python("PyCapsule_GetPointer", PTR, capsule, name)
    with b.if_then(b.icmp_signed("!=", count, i64(3))):
        b.ret(python("PyLong_FromLong", PTR, i64(BAD_COUNT)))
    context = python("PyLong_AsVoidPtr", PTR, load(b, arguments, PTR))
    with b.if_then(b.icmp_unsigned("==", context, null)):
        with b.if_then(b.icmp_unsigned("!=", python("PyErr_Occurred", PTR), null)):
            b.ret(null)
        b.ret(python("PyLong_FromLong", PTR, i64(BAD_COUNT)))
    release, run = b.append_basic_block("release"), b.append_basic_block("run")

    # Symbols that no array has told yet are -1.
    dims = CONTEXT.load(b, context, "dims")
    with for_range(b, i64(0), _PROGRAM.load(b, program, "symbols")) as i:
        b.store(i64(-1), offset(b, dims, i, I64))

    views, buffers = CONTEXT.load(b, context, "views"), CONTEXT.load(b, context, "buffers")
    specs = _PROGRAM.load(b, program, "arrays")
    tuples = [load(b, offset(b, arguments, index, PTR), PTR) for index in (1, 2)]
    counts = [_PROGRAM.load(b, program, field) for field in ("inputs", "outputs")]
    for objects, expected in zip(tuples, counts, strict=True):
        size = python("PyTuple_Size", I64, objects)
        with b.if_then(b.icmp_signed("<", size, i64(0))):  # not a tuple: Python's error is set
            b.ret(null)
        with b.if_then(b.icmp_signed("!=", size, expected)):
            b.branch(release)

    def refuse_if(condition: ir.Value) -> None:
        with b.if_then(condition, likely=False):
            b.branch(release)

    for objects, expected, flags in zip(tuples, counts, (0, _WRITABLE), strict=True):
        with for_range(b, i64(0), expected, name="array") as i:
            index = b.load(acquired)
            b.store(b.trunc(b.sub(i64(-2), index), I32), status)
            view, spec = offset(b, views, index, _VIEW.type), offset(b, specs, index, _ARRAY.type)
            item = python("PyTuple_GetItem", PTR, objects, i)
            failed = python("PyObject_GetBuffer", I32, item, view, i32(flags | _FORMAT | _C_CONTIGUOUS))
            with b.if_then(b.icmp_signed("!=", failed, i32(0)), likely=False):
                python("PyErr_Clear", VOID)
                b.branch(release)
            b.store(b.add(index, i64(1)), acquired)
            ndim = _ARRAY.load(b, spec, "ndim")
            refuse_if(b.icmp_signed("!=", b.sext(_VIEW.load(b, view, "ndim"), I64), ndim))
            refuse_if(b.icmp_signed("!=", _VIEW.load(b, view, "itemsize"), _ARRAY.load(b, spec, "itemsize")))
            format_, formats = _VIEW.load(b, view, "format"), _ARRAY.load(b, spec, "formats")
            refuse_if(b.icmp_unsigned("==", format_, null))
            kind = load(b, format_, I8)
            known = [b.icmp_unsigned("==", kind, load(b, offset(b, formats, k), I8)) for k in (0, 1)]
            refuse_if(b.not_(b.or_(*known)))
            refuse_if(b.icmp_unsigned("!=", load(b, offset(b, format_, 1), I8), ir.Constant(I8, 0)))
            shape, expected_dims = _VIEW.load(b, view, "shape"), _ARRAY.load(b, spec, "dims")
            with for_range(b, i64(0), ndim, name="dim") as d:
                size = load(b, offset(b, shape, d, I64), I64)
                rule = load(b, offset(b, expected_dims, d, I64), I64)
                static = b.icmp_signed(">=", rule, i64(0))
                refuse_if(b.and_(static, b.icmp_signed("!=", size, rule)))
                with b.if_then(b.not_(b.or_(static, b.icmp_signed("==", rule, i64(_ANY))))):
                    slot = offset(b, dims, b.sub(i64(-1), rule), I64)
                    bound = load(b, slot, I64)
                    refuse_if(b.and_(b.icmp_signed(">=", bound, i64(0)), b.icmp_signed("!=", bound, size)))
                    b.store(size, slot, align=8)
            b.store(_VIEW.load(b, view, "buf"), offset(b, buffers, index, PTR), align=8)
    b.branch(run)

    b.position_at_end(run)
    main = b.load(_PROGRAM.address(b, program, "main"), typ=ENTRY_TYPE.as_pointer())
    hold = b.icmp_signed("!=", _PROGRAM.load(b, program, "hold_gil"), i64(0))
    with b.if_else(hold) as (held, released):
        with held:
            b.store(b.call(main, [context]), status)
        with released:
            state = python("PyEval_SaveThread", PTR)
            b.store(b.call(main, [context]), status)
            python("PyEval_RestoreThread", VOID, state)
    b.branch(release)

    b.position_at_end(release)
    with for_range(b, i64(0), b.load(acquired), name="held") as i:
        python("PyBuffer_Release", VOID, offset(b, views, i, _VIEW.type))
    b.ret(python("PyLong_FromLong", PTR, b.sext(b.load(status), I64)))
    return module
