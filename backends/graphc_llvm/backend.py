"""The backend: its pipeline, and a graph's way from fused loops to a segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc import config
from graphc.backend import CompileOptions
from graphc.ir.graph import Graph, Node
from graphc.ir.tensor_data import TensorData
from graphc.ir.text import print_graph, weights_of
from graphc.lowering.assemble import assemble
from graphc.lowering.prepare import split_prepare
from graphc.pipeline import Pass, PassContext, PassManager, resolve_passes
from graphc_llvm.attention import FuseAttention
from graphc_llvm.cache import Cache
from graphc_llvm.entry import load_caller
from graphc_llvm.kernels import KernelMaker, compile_kernels
from graphc_llvm.packing import Pack
from graphc_llvm.runtime import runtime
from graphc_llvm.segment import Code, Compiled, LlvmSegment
from graphc_llvm.store import restore, store
from graphc_llvm.target import Target, check_runs_here, parse_target
from graphc_llvm.threads import available_threads
from graphc_llvm.winograd import Winograd

PIPELINE = (
    "canonicalize",
    "fold-constants",
    "lift",
    "fold-batch-norm",
    "decompose",
    "simplify-algebra",
    "channels-last",
    "convolution-gradients",
    "canonicalize",
    "fold-constants",
    "cse",
    "dce",
)
"""What comes before packing, the split and fusion."""


@dataclass(frozen=True)
class LlvmBackend:
    """CPUs, through LLVM."""

    name: str = "llvm"

    def supports(self, node: Node) -> str | None:
        """Primitives only: composites are decomposed, and fusion makes whole kernels of them again."""
        return None if node.op.is_primitive else "it is decomposed into primitives"

    def pipeline(self, options: CompileOptions) -> Sequence[str | Pass]:
        target = parse_target(options.target)
        approximate: list[str | Pass] = [Winograd(target)] if options.numerics == "fast" else []
        if options.precision != "f32":
            approximate.append("mixed-precision")
        return (*PIPELINE, *approximate, FuseAttention(target), Pack(target), "cse", "dce")

    def compile(self, graph: Graph, options: CompileOptions, context: PassContext) -> LlvmSegment:
        target = parse_target(options.target)
        prepare, main, weights = split_prepare(graph)
        fuse = PassManager(resolve_passes(["fuse"]), verify=options.verify)
        for part in (prepare, main):
            fuse.run(part, context)
        maker = KernelMaker(target, options.numerics)
        planned = [
            assemble(part, constants, maker, "the llvm backend")
            for part, constants in ((prepare, 0), (main, len(prepare.outputs)))
        ]
        kernels = {k.key: k for s in planned for k in s.kernels}
        cache = Cache(config.cache_dir()) if options.cache else None
        objects = compile_kernels(kernels.values(), target, cache)
        known = {w.digest: i for i, w in enumerate(context.weights)}
        codes = [
            Code(s.program, objects, tuple(None if c is None else known.get(c.digest, c) for c in s.constants))
            for s in planned
        ]
        stages = {
            "prepare": print_graph(prepare),
            "fused": print_graph(main),
            "loops": "\n".join(f"// {k.template} {k.key[:12]}\n{k.loops}" for k in kernels.values()),
        }
        compiled = Compiled(codes[1], codes[0], tuple(known.get(w.digest, w) for w in weights), stages)
        return _segment(compiled, graph, context.weights, options, target)

    def store(self, segment: LlvmSegment, key: str) -> None:
        """Keeps the segment's program; its kernels are in the cache already, under keys of their own."""
        store(segment.compiled, key, Cache(config.cache_dir()))

    def restore(self, key: str, graph: Graph, options: CompileOptions) -> LlvmSegment | None:
        compiled = restore(key, Cache(config.cache_dir()))
        if compiled is None:
            return None
        return _segment(compiled, graph, weights_of(graph), options, parse_target(options.target))


BACKEND = LlvmBackend()


def _segment(
    compiled: Compiled, graph: Graph, weights: Sequence[TensorData], options: CompileOptions, target: Target
) -> LlvmSegment:
    check_runs_here(target)
    cache = Cache(config.cache_dir()) if options.cache else None
    runtime(cache)
    load_caller(cache)
    threads = options.threads or config.threads() or available_threads()
    return LlvmSegment(compiled, graph, weights, threads)
