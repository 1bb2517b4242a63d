"""The backend's own native code (thread pool, program walker, entry from Python): loaded once, compiled once for a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc_llvm.cache import Cache
from graphc_llvm.jit import Library, compile_object, load_objects
from graphc_llvm.sources import sources_digest
from graphc_llvm.target import host_target


def load_own(name: str, text: Callable[[], str], symbols: Sequence[str], cache: Cache | None) -> Library:
    """The library of a module of LLVM IR, whose object is taken from the cache or put there; None: no cache is used."""
    target = host_target()
    key = f"own {name} {target.key} {sources_digest()}"
    code = None if cache is None else cache.get(key)
    if code is None:
        code = compile_object(text(), target)
        if cache is not None:
            cache.put(key, code)
    return load_objects([code], symbols)
