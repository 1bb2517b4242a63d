"""Object files into this process: laid out in one block of memory, relocated, made executable.

On x86-64 this is our own linker, so that loading a compiled model needs no LLVM, whose library alone would take more memory
than most small models. What LLVM emits for us (position-independent code without thread-local data) holds only a few kinds of
relocation; any other is refused. On other machines LLVM's JITLink does it.

Source: "System V Application Binary Interface, AMD64 Architecture Processor Supplement", chapter 4, and the ELF-64 format.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import platform
import struct
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graphc.errors import ArtifactError

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_MAGIC = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian
_X86_64 = 62
_SYMBOLS, _RELOCATIONS, _NO_BITS = 2, 4, 8  # types of sections
_WRITE, _ALLOC, _EXECUTABLE = 1, 2, 4  # flags of sections
_LOCAL = 0
_UNDEFINED, _RESERVED = 0, 0xFF00
_ABSOLUTE, _RELATIVE, _CALL = 1, 2, 4  # R_X86_64_64, R_X86_64_PC32, R_X86_64_PLT32
_BY_TABLE = 42  # R_X86_64_REX_GOTPCRELX: an address loaded from a table, which may be computed instead
_MOV, _LEA = 0x8B, 0x8D
_JUMP = b"\xff\x25\x00\x00\x00\x00"  # jmp [rip + 0]: to the address that follows
_STUB = 16
_PROTECTION = {
    _EXECUTABLE: mmap.PROT_READ | mmap.PROT_EXEC,
    0: mmap.PROT_READ,
    _WRITE: mmap.PROT_READ | mmap.PROT_WRITE,
}  # fmt: skip
"""The segments of a block, in order: code, constants, variables."""


class Library:
    """Object files linked together in this process; their memory is freed when the Library is dropped.

    Who holds an address must hold the Library. While the interpreter shuts down nothing is freed any more: other threads
    may still run in it.
    """

    def __init__(self, addresses: Mapping[str, int], release: Callable[[], object]) -> None:
        self._addresses = dict(addresses)
        weakref.finalize(self, release).atexit = False

    def address(self, symbol: str) -> int:
        """The address of one of the symbols that the library was loaded for."""
        return self._addresses[symbol]


def load_objects(objects: Sequence[bytes], symbols: Iterable[str]) -> Library:
    """Link object files with each other and with the process's libraries, and make the addresses of `symbols` known.

    The objects must be made for this machine (`check_runs_here`). Raises an ArtifactError where a symbol isn't defined, or
    an object isn't what LLVM emits for us.
    """
    if platform.machine() != "x86_64":
        from graphc_llvm.jit import link_by_llvm

        addresses, release = link_by_llvm(objects, list(symbols))
        return Library(addresses, release)
    try:
        return _Linker([_read(data) for data in objects]).link(symbols)
    except (struct.error, IndexError, ValueError) as error:
        raise ArtifactError("native code is damaged", seen=str(error)) from error


@dataclass
class _Section:
    """A section of an object file; `start` is its place in the block, None: it isn't loaded."""

    name: str
    kind: int
    flags: int
    data: memoryview
    size: int
    link: int
    info: int
    alignment: int
    start: int | None = None


@dataclass
class _Symbol:
    name: str
    is_local: bool
    section: int
    value: int


@dataclass
class _Object:
    sections: list[_Section]
    symbols: list[_Symbol] = field(default_factory=list)


def _read(data: bytes) -> _Object:
    header = _HEADER.unpack_from(data)
    if not header[0].startswith(_MAGIC) or header[2] != _X86_64:
        raise ValueError("not an object file of x86-64")
    table, count, names = header[6], header[12], header[13]
    view = memoryview(data)
    raw = [_SECTION.unpack_from(data, table + i * _SECTION.size) for i in range(count)]
    strings = _contents(view, raw[names])
    sections = [
        _Section(_text(strings, s[0]), s[1], s[2], _contents(view, s), s[5], s[6], s[7], max(s[8], 1)) for s in raw
    ]
    found = _Object(sections)
    for s in sections:
        if s.kind == _SYMBOLS:
            strings = sections[s.link].data
            for name, info, _, section, value, _ in _SYMBOL.iter_unpack(s.data):
                found.symbols.append(_Symbol(_text(strings, name), info >> 4 == _LOCAL, section, value))
    return found


def _contents(view: memoryview, section: Sequence[int]) -> memoryview:
    kind, start, size = section[1], section[4], section[5]
    if kind == _NO_BITS:
        return view[:0]
    if start + size > len(view):
        raise ValueError("it ends within a section")
    return view[start : start + size]


def _text(strings: memoryview, start: int) -> str:
    raw = strings[start:].tobytes()
    return raw[: raw.index(0)].decode()


@dataclass
class _Linker:
    objects: Sequence[_Object]
    stubs: dict[str, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    size: int = 0

    def link(self, symbols: Iterable[str]) -> Library:
        self.lay_out()
        base = _map(self.size)
        try:
            known = self.defined(base)
            self.fill(base, known)
            start = 0
            for flags, end in self.ends.items():
                _protect(base + start, end - start, _PROTECTION[flags])
                start = end
            addresses = {name: _known(name, known) for name in symbols}
        except BaseException:
            _unmap(base, self.size)
            raise
        return Library(addresses, functools.partial(_unmap, base, self.size))

    def lay_out(self) -> None:
        """Gives sections their places, by what may be done with them, and functions of other libraries a jump each."""
        for flags in _PROTECTION:
            for o in self.objects:
                for s in o.sections:
                    # Unwinding tables would have to be registered, and nothing throws through this code.
                    if s.flags & _ALLOC and s.flags & (_WRITE | _EXECUTABLE) == flags and s.name != ".eh_frame":
                        s.start = -(-self.size // s.alignment) * s.alignment
                        self.size = s.start + s.size
            if flags == _EXECUTABLE:
                own = {s.name for o in self.objects for s in o.symbols if s.section != _UNDEFINED and not s.is_local}
                wanted = [s.name for o in self.objects for s in o.symbols if s.section == _UNDEFINED and s.name]
                for name in dict.fromkeys(n for n in wanted if n not in own):
                    self.stubs[name] = self.size = -(-self.size // _STUB) * _STUB
                    self.size += _STUB
            self.ends[flags] = self.size = -(-self.size // mmap.PAGESIZE) * mmap.PAGESIZE

    def defined(self, base: int) -> dict[str, int]:
        """The addresses of the global symbols. Raises ArtifactError for one that is defined twice."""
        known: dict[str, int] = {}
        for o in self.objects:
            for s in o.symbols:
                if s.section != _UNDEFINED and not s.is_local:
                    if s.name in known:
                        raise ArtifactError("native code defines a symbol twice", seen=s.name)
                    known[s.name] = base + _place(o, s)
        return known

    def fill(self, base: int, known: Mapping[str, int]) -> None:
        block = (ctypes.c_char * self.size).from_address(base)
        memory = memoryview(block).cast("B")
        for name, start in self.stubs.items():
            memory[start : start + len(_JUMP)] = _JUMP
            struct.pack_into("<Q", memory, start + len(_JUMP), _of_process(name))
        for o in self.objects:
            for s in o.sections:
                if s.start is not None and s.kind != _NO_BITS:
                    memory[s.start : s.start + s.size] = s.data
            for s in o.sections:
                if s.kind == _RELOCATIONS and (into := o.sections[s.info]).start is not None:
                    for place, info, addend in _RELOCATION.iter_unpack(s.data):
                        symbol = o.symbols[info >> 32]
                        kind = info & 0xFFFFFFFF
                        target = self.target(o, symbol, kind, base, known) + addend
                        _relocate(memory, base, into.start + place, kind, target)

    def target(self, o: _Object, symbol: _Symbol, kind: int, base: int, known: Mapping[str, int]) -> int:
        if symbol.section != _UNDEFINED:
            return base + _place(o, symbol)
        if symbol.name in known:
            return known[symbol.name]
        if kind != _CALL:
            raise ValueError(f"{symbol.name} of another library is used, but not called")
        return base + self.stubs[symbol.name]


def _place(o: _Object, symbol: _Symbol) -> int:
    start = o.sections[symbol.section].start if symbol.section < _RESERVED else None
    if start is None:
        raise ValueError(f"{symbol.name or 'a symbol'} lies in no section that is loaded")
    return start + symbol.value


def _relocate(memory: memoryview, base: int, place: int, kind: int, target: int) -> None:
    if kind == _ABSOLUTE:
        struct.pack_into("<Q", memory, place, target)
    elif kind in (_RELATIVE, _CALL, _BY_TABLE):
        if kind == _BY_TABLE:
            if memory[place - 2] != _MOV:
                raise ValueError("an address is taken from a table, but not loaded")
            memory[place - 2] = _LEA
        struct.pack_into("<i", memory, place, target - (base + place))
    else:
        raise ValueError(f"relocation {kind} is none of those that are emitted")


def _known(name: str, known: Mapping[str, int]) -> int:
    if name not in known:
        raise ArtifactError("native code can't be linked", seen=f"{name} isn't defined")
    return known[name]


@functools.cache
def _process() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _of_process(name: str) -> int:
    """The address of a function of the libraries that this process has loaded, the C library and Python among them."""
    try:
        found = ctypes.cast(getattr(_process(), name), ctypes.c_void_p).value
    except AttributeError:
        found = None
    if not found:
        raise ArtifactError("native code can't be linked", seen=f"{name} isn't defined")
    return found


def _map(size: int) -> int:
    function = _process().mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    found = function(None, max(size, mmap.PAGESIZE), protection, flags, -1, 0)
    if found in (None, ctypes.c_void_p(-1).value):
        raise _failure("no memory for native code")
    return int(found)


def _protect(address: int, size: int, protection: int) -> None:
    if size and _process().mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection):
        raise _failure("memory can't be made executable")


def _unmap(address: int, size: int) -> None:
    _process().munmap(ctypes.c_void_p(address), ctypes.c_size_t(max(size, mmap.PAGESIZE)))


def _failure(what: str) -> ArtifactError:
    code = ctypes.get_errno()
    return ArtifactError(what, seen=f"{errno.errorcode.get(code, code)}: {os.strerror(code)}")
