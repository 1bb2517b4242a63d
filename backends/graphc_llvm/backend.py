"""The backend: programs compiled, kept and restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc import config
from graphc.backend import CompileOptions
from graphc.ir.graph import Graph, Node
from graphc.ir.tensor_data import TensorData
from graphc.ir.text import weights_of
from graphc.pipeline import Pass, PassContext
from graphc_llvm.cache import Cache
from graphc_llvm.entry import load_caller
from graphc_llvm.runtime import runtime
from graphc_llvm.segment import Compiled, LlvmSegment
from graphc_llvm.store import restore, store
from graphc_llvm.target import check_runs_here, parse_target
from graphc_llvm.threads import available_threads


@dataclass(frozen=True)
class LlvmBackend:
    """CPUs, through LLVM."""

    name: str = "llvm"
    tunes: bool = True

    def supports(self, node: Node) -> str | None:
        """Primitives only: composites are decomposed, and fusion makes whole kernels of them again."""
        return None if node.op.is_primitive else "it is decomposed into primitives"

    def pipeline(self, options: CompileOptions) -> Sequence[str | Pass]:
        from graphc_llvm.compilation import pipeline

        return pipeline(options)

    def compile(self, graph: Graph, options: CompileOptions, context: PassContext) -> LlvmSegment:
        from graphc_llvm.compilation import compile_program

        compiled = compile_program(graph, options, context)
        return _segment(compiled, graph, context.weights, options)

    def store(self, segment: LlvmSegment, key: str) -> None:
        """Keeps the segment's program; its kernels are in the cache already, under keys of their own."""
        store(segment.compiled, key, Cache(config.cache_dir()))

    def restore(self, key: str, graph: Graph, options: CompileOptions) -> LlvmSegment | None:
        compiled = restore(key, Cache(config.cache_dir()))
        if compiled is None:
            return None
        return _segment(compiled, graph, weights_of(graph), options)


BACKEND = LlvmBackend()


def _segment(compiled: Compiled, graph: Graph, weights: Sequence[TensorData], options: CompileOptions) -> LlvmSegment:
    if options.target not in (None, "host"):
        check_runs_here(parse_target(options.target))
    cache = Cache(config.cache_dir()) if options.cache else None
    runtime(cache)
    load_caller(cache)
    threads = options.threads or config.threads() or available_threads()
    return LlvmSegment(compiled, graph, weights, threads)
