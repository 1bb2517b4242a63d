"""What version of the code generator this is: a digest of its sources."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

import llvmlite

KERNEL_MAKERS = ("graphc_llvm", "graphc_llvm.math", "graphc.lowering")
"""The packages whose code makes kernels."""

PROGRAM_MAKERS = (*KERNEL_MAKERS, "graphc", "graphc.ir", "graphc.ops", "graphc.rewrite", "graphc_optimize", "graphc_compress")
"""The packages whose code makes programs: passes and operators' decompositions too."""


@functools.cache
def sources_digest(packages: tuple[str, ...] = KERNEL_MAKERS) -> str:
    """A digest of the packages' code: another version of it never takes from the cache what this one made."""
    h = hashlib.sha256(f"llvmlite {llvmlite.__version__}".encode())
    for package in packages:
        spec = importlib.util.find_spec(package)  # which doesn't import it
        assert spec is not None and spec.submodule_search_locations
        for file in sorted(Path(spec.submodule_search_locations[0]).iterdir()):
            if file.suffix in (".py", ".ll"):
                h.update(file.name.encode() + b"\0" + file.read_bytes())
    return h.hexdigest()
