"""The backend: its pipeline, and a graph's way from fused loops to cubins, or to Triton's interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphc.autodiff.rematerialize import Rematerialize
from graphc.backend import CompileOptions
from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.graph import Graph, Node
from graphc.ir.text import print_graph
from graphc.lowering.arena import arena_bytes
from graphc.lowering.assemble import Assembly, assemble
from graphc.lowering.order import Order
from graphc.lowering.prepare import split_prepare
from graphc.pipeline import Pass, PassContext, PassManager, resolve_passes
from graphc_triton.alignment import with_alignment
from graphc_triton.kernels import WHO, KernelMaker, TritonKernel
from graphc_triton.segment import Code, TritonSegment
from graphc_triton.supported import refusal
from graphc_triton.target import INTERPRETER, parse_target

PIPELINE = (
    "canonicalize",
    "fold-constants",
    "lift",
    "fold-batch-norm",
    "decompose",
    "simplify-algebra",
    "channels-last",
    "canonicalize",
    "fold-constants",
    "cse",
    "join-scans",
    "hoist-sums",
    "dce",
)
"""What comes before the split and fusion."""


@dataclass(frozen=True)
class TritonBackend:
    """NVIDIA GPUs, through Triton. Compiling takes neither a GPU nor torch."""

    name: str = "triton"

    def supports(self, node: Node) -> str | None:
        """Primitives that have kernels: composites are decomposed, and fusion makes whole kernels of them again."""
        return refusal(node) if node.op.is_primitive else "it is decomposed into primitives"

    def pipeline(self, options: CompileOptions) -> Sequence[str | Pass]:
        passes: list[str | Pass] = [*PIPELINE]
        if options.precision != "f32":
            passes += ["mixed-precision", "cse", "dce"]
        passes.append(Order())
        if options.memory_budget is not None:
            passes.append(Rematerialize(options.memory_budget, lambda graph: _arena(graph, options)))
        return passes

    def compile(self, graph: Graph, options: CompileOptions, context: PassContext) -> TritonSegment:
        """Kernels for `options.target`: "sm_80", "sm_90", ..., or "interpreter"; None: the GPU here, else sm_90."""
        target = parse_target(options.target)
        prepare, main, weights = split_prepare(graph)
        fuse = PassManager(resolve_passes(["fuse"]), verify=options.verify)
        for part in (prepare, main):
            fuse.run(part, context)
        maker = KernelMaker(options.numerics)
        planned = _assemble_all([(prepare, 0), (main, len(prepare.outputs))], maker)
        kernels = {k.key: k for s in planned for k in s.kernels}
        stages = {
            "prepare": print_graph(prepare),
            "fused": print_graph(main),
            "loops": "\n".join(f"// {k.template} {k.key[:12]}\n{k.loops}" for k in kernels.values()),
            "triton": "\n\n".join(k.source for k in kernels.values()),
        }
        cubins = {}
        if target != INTERPRETER:
            from graphc_triton.compile import compile_kernels

            cubins = compile_kernels(list(kernels.values()), target, options.numerics == "strict")
        codes = [Code(s.program, tuple(s.kernels), tuple(s.constants)) for s in planned]
        return TritonSegment(graph, codes[1], codes[0], tuple(weights), cubins, target, stages)

    def store(self, segment: TritonSegment, key: str) -> None:
        """Nothing to keep: Triton has a cache of its own, of the kernels, which take the time."""

    def restore(self, key: str, graph: Graph, options: CompileOptions) -> TritonSegment | None:
        return None


BACKEND = TritonBackend()


def _arena(graph: Graph, options: CompileOptions) -> int:
    """The bytes of intermediates that the program of a graph would need, after the same fusion."""
    prepare, main, _ = split_prepare(graph)
    resolve_passes(["fuse"])[0].run(main, PassContext(options.numerics, options.precision, options.target))
    return arena_bytes(main, len(prepare.outputs), {})


def _assemble_all(parts: Sequence[tuple[Graph, int]], maker: KernelMaker) -> list[Assembly[TritonKernel]]:
    """The programs of the parts; raises UnsupportedOpError with the reasons of all of them."""
    found: list[Assembly[TritonKernel]] = []
    problems: list[Unsupported] = []
    for graph, prepared in parts:
        try:
            made = assemble(graph, prepared, maker, WHO)
            found.append(replace(made, kernels=with_alignment(made.program, made.kernels)))
        except UnsupportedOpError as e:
            problems += e.unsupported
    if problems:
        raise UnsupportedOpError(WHO, problems)
    return found
