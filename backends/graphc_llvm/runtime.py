"""The runtime module: the program walker and one thread pool for the whole process, native, never unloaded.

Its functions:

- `i32 run_program(ptr context)` walks the steps of a program (executor.py).

- `i32 run_kernel(ptr kernel, ptr pointers, ptr dims, ptr scratch, i64 scratch_bytes, i64 n, i64 threads)` cuts [0, n) into
  min(n, threads) equal chunks and runs the kernel over each, on up to `threads` threads, the caller among them. `scratch`
  holds `scratch_bytes` for each chunk. Returns 0, or the first non-zero status; chunks that haven't begun by then are left out.
- `i32 parallel_for(ptr fn, ptr context, i64 n, i64 threads)` does the same with `i32 fn(ptr context, i64 begin, i64 end, i64
  worker)`; worker is below `threads`, and no two calls with the same worker run at a time.

Chunks depend on `n` and `threads` alone, never on who runs them. A call that finds the pool at work, because it is
nested in one or comes from another Python thread, runs its chunks itself. Idle workers spin for one or two
tenths of a millisecond, then sleep. Steps too short to wake a worker for are shared with those that spin: loops consist of such
steps, and wake workers when they begin (docs/adr/0014). After a fork the child starts with a pool of its own.
"""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import dataclass
from importlib import resources

from graphc.errors import GraphcError
from graphc_llvm.cache import Cache
from graphc_llvm.executor import executor_ir
from graphc_llvm.linker import Library
from graphc_llvm.own_code import load_own
from graphc_llvm.target import Target, host_target

_BY_ARCH = {  # the number of Linux's futex system call, and the intrinsic that eases a wait loop
    "x86_64": (202, "llvm.x86.sse2.pause", "()"),
    "aarch64": (98, "llvm.aarch64.hint", "(i32 1)"),
}


@dataclass(frozen=True)
class Runtime:
    """The loaded runtime; its functions by `library.address`."""

    library: Library


def runtime_ir(target: Target) -> str:
    """The runtime module as LLVM IR."""
    if target.arch not in _BY_ARCH:
        known = ", ".join(_BY_ARCH)
        raise GraphcError(
            "the llvm backend has no thread pool for this CPU", seen=target.arch, expected=f"one of {known}"
        )
    futex, pause, arguments = _BY_ARCH[target.arch]
    signature = arguments.replace(" 1", "")
    return (
        f"@futex_number = internal constant i64 {futex}\n"
        f"declare void @{pause}{signature}\n"
        f"define internal void @pause() {{ call void @{pause}{arguments} ret void }}\n"
        + resources.files("graphc_llvm").joinpath("runtime.ll").read_text(encoding="utf-8")
        + executor_ir()
    )


def runtime(cache: Cache | None = None) -> Runtime:
    """This process's runtime, loaded at the first call, which tells the cache that its code is kept in."""
    with _LOADING:  # a second pool would compete with the first for the same cores
        if not _LOADED:
            _LOADED.append(_load(cache))
        return _LOADED[0]


_LOADING = threading.Lock()
_LOADED: list[Runtime] = []


def _load(cache: Cache | None) -> Runtime:
    functions = ("run_program", "run_kernel", "parallel_for", "reset_after_fork")
    library = load_own("runtime", lambda: runtime_ir(host_target()), functions, cache)
    os.register_at_fork(after_in_child=ctypes.CFUNCTYPE(None)(library.address("reset_after_fork")))
    return Runtime(library)
