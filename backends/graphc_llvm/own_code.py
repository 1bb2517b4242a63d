"""The backend's own native code (thread pool, program walker, entry from Python): loaded once, compiled once for a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc_llvm.cache import Cache
from graphc_llvm.linker import Library, load_objects
from graphc_llvm.sources import sources_digest
from graphc_llvm.target import host_identity, host_target


def load_own(name: str, text: Callable[[], str], symbols: Sequence[str], cache: Cache | None) -> Library:
    """The library of a module of LLVM IR, whose object is taken from the cache or put there; None: no cache is used."""
    key = f"own {name} {host_identity()} {sources_digest()}"
    code = None if cache is None else cache.get(key)
    if code is None:
        from graphc_llvm.jit import compile_object  # LLVM's library, which nobody needs who finds all in the cache

        code = compile_object(text(), host_target())
        if cache is not None:
            cache.put(key, code)
    return load_objects([code], symbols)
