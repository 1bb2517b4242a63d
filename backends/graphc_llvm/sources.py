"""What version of the code generator this is: a digest of its sources."""

from __future__ import annotations

import functools
import hashlib
from importlib import resources

import llvmlite.binding as llvm

KERNEL_MAKERS = ("graphc_llvm", "graphc_llvm.math", "graphc.lowering")
"""The packages whose code makes kernels."""

PROGRAM_MAKERS = (*KERNEL_MAKERS, "graphc", "graphc.ir", "graphc.ops", "graphc.rewrite", "graphc_optimize")
"""The packages whose code makes programs: passes and operators' decompositions too."""


@functools.cache
def sources_digest(packages: tuple[str, ...] = KERNEL_MAKERS) -> str:
    """A digest of the packages' code: another version of it never takes from the cache what this one made."""
    h = hashlib.sha256(f"llvm {llvm.llvm_version_info}".encode())
    for package in packages:
        for file in sorted(resources.files(package).iterdir(), key=lambda f: f.name):
            if file.name.endswith((".py", ".ll")):
                h.update(file.name.encode() + b"\0" + file.read_bytes())
    return h.hexdigest()
