"""The backend: passes of graphc's, kernels in C, one shared library a compilation."""

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphc.backend import CompileOptions
from graphc.errors import GraphcError
from graphc.host import Function, HostSegment, compile_for_host
from graphc.ir.graph import Graph, Node
from graphc.lowering.kernel import SourceKernel, fusion_kernel
from graphc.pipeline import PassContext
from graphc_c.emit import PRELUDE, WHO, emit, sort_kernel

PIPELINE = (
    "canonicalize", "fold-constants", "lift", "fold-batch-norm", "decompose", "simplify-algebra", "canonicalize",
    "fold-constants", "cse", "dce",
)  # fmt: skip


@dataclass(frozen=True)
class CBackend:
    """CPUs, through a C compiler: $CC, or cc."""

    name: str = "c"

    def supports(self, node: Node) -> str | None:
        return None if node.op.is_primitive else "it is decomposed into primitives"

    def pipeline(self, options: CompileOptions) -> Sequence[str]:
        return PIPELINE

    def compile(self, graph: Graph, options: CompileOptions, context: PassContext) -> HostSegment:
        return compile_for_host(graph, options, context, make_kernel, build, WHO)

    def store(self, segment: HostSegment, key: str) -> None:
        """Nothing is kept between processes."""

    def restore(self, key: str, graph: Graph, options: CompileOptions) -> HostSegment | None:
        return None


def make_kernel(node: Node) -> SourceKernel:
    return sort_kernel(node) if node.op.name == "sort" else fusion_kernel(node, emit, WHO)


def build(kernels: Sequence[SourceKernel]) -> Sequence[Function]:
    """The kernels as functions of a library that is loaded, and then needs its file no more."""
    if not kernels:
        return []
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernels.c"), Path(folder, "kernels.so")
        source.write_text("\n".join([PRELUDE, *(k.source for k in kernels)]))
        command = [os.environ.get("CC", "cc"), "-O3", "-std=gnu11", "-fwrapv", "-fno-math-errno", "-ffp-contract=off"]
        command += ["-w", "-shared", "-fPIC", str(source), "-o", str(library), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise GraphcError("the C compiler failed", seen=done.stderr, expected="a GNU-like compiler as $CC or cc")
        loaded = ctypes.CDLL(str(library))
    functions = [loaded[k.symbol] for k in kernels]
    for f in functions:
        f.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        f.restype = ctypes.c_int
    return functions


BACKEND = CBackend()
