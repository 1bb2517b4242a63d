"""A graph's way from the passes to a program and its kernels. Only compiling needs this; restoring what is cached doesn't."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

from graphc import config
from graphc.autodiff.rematerialize import Rematerialize
from graphc.backend import CompileOptions
from graphc.ir.graph import Graph
from graphc.ir.text import print_graph
from graphc.lowering.arena import arena_bytes
from graphc.lowering.assemble import assemble
from graphc.lowering.order import Order
from graphc.lowering.prepare import split_prepare
from graphc.pipeline import Pass, PassContext, PassManager, resolve_passes
from graphc_llvm.attention import FuseAttention
from graphc_llvm.attention_gradient import FuseAttentionGradient
from graphc_llvm.cache import Cache
from graphc_llvm.choices import PREDICTED, Choices
from graphc_llvm.kernels import KernelCompiler, KernelMaker
from graphc_llvm.packing import Pack
from graphc_llvm.segment import Code, Compiled
from graphc_llvm.target import check_runs_here, parse_target
from graphc_llvm.threads import available_threads
from graphc_llvm.tuning import measured
from graphc_llvm.walk import Caches, Walks
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
    "join-scans",
    "hoist-sums",
    "dce",
)
"""What comes before packing, the split and fusion."""


def pipeline(options: CompileOptions) -> Sequence[str | Pass]:
    """The passes that the backend runs, in order."""
    target = parse_target(options.target)
    choices = choices_for(options)
    passes: list[str | Pass] = [*PIPELINE]
    if options.numerics == "fast":
        passes.append(Winograd(target, choices))
    if options.precision != "f32":
        passes.append("mixed-precision")
    if options.numerics == "fast":
        passes.append(FuseAttentionGradient(target))
    passes += [FuseAttention(target), Pack(target, choices), "cse", "dce", Order()]
    if options.memory_budget is not None:
        passes.append(Rematerialize(options.memory_budget, lambda graph: _arena(graph, options)))
    return passes


def choices_for(options: CompileOptions) -> Choices:
    """Who decides in a compilation."""
    if not options.tune:
        return PREDICTED
    target = parse_target(options.target)
    check_runs_here(target)
    cache = Cache(config.cache_dir()) if options.cache else None
    return measured(replace(options, tune=False), target, _threads(options), cache, compile_program)


def _threads(options: CompileOptions) -> int:
    return options.threads or config.threads() or available_threads()


def _arena(graph: Graph, options: CompileOptions) -> int:
    """The bytes of intermediates that the program of a graph would need, after the same fusion."""
    prepare, main, _ = split_prepare(graph)
    resolve_passes(["fuse"])[0].run(main, PassContext(options.numerics, options.precision, options.target))
    found = arena_bytes(main, len(prepare.outputs), {})
    gc.collect()  # of one trial of many, whose graphs are cyclic: compilation stops the collector
    return found


def compile_program(graph: Graph, options: CompileOptions, context: PassContext) -> Compiled:
    """The program of a graph that went through the pipeline: split, fused, assembled, its kernels compiled."""
    target = parse_target(options.target)
    prepare, main, weights = split_prepare(graph)
    fuse = PassManager(resolve_passes(["fuse"]), verify=options.verify)
    for part in (prepare, main):
        fuse.run(part, context)
    choices = choices_for(options)
    once, often = (
        KernelMaker(target, options.numerics),
        KernelMaker(target, options.numerics, choices, _threads(options)),
    )
    cache = Cache(config.cache_dir()) if options.cache else None
    with KernelCompiler(target, cache) as compiler:
        planned = [
            assemble(prepare, 0, lambda node: compiler.add(once(node)), "the llvm backend"),
            assemble(main, len(prepare.outputs), lambda node: compiler.add(often(node)), "the llvm backend"),
        ]
        objects = compiler.objects()
    kernels = {k.key: k for s in planned for k in s.kernels}
    known = {w.digest: i for i, w in enumerate(context.weights)}
    codes = [
        Code(s.program, objects, tuple(None if c is None else known.get(c.digest, c) for c in s.constants))
        for s in planned
    ]
    walks = Walks(tuple(k.walk for k in planned[1].kernels), Caches(target.l2, target.l3))
    stages = {
        "prepare": print_graph(prepare),
        "fused": print_graph(main),
        "loops": "\n".join(f"// {k.template} {k.key[:12]}\n{k.loops}" for k in kernels.values()),
    }
    choices.tell(context)
    if context.notes:
        stages["choices"] = "\n".join(context.notes) + "\n"
    threads = tuple(k.threads for k in planned[1].kernels)
    code = replace(codes[1], walks=walks, threads=threads if any(threads) else ())
    return Compiled(code, codes[0], tuple(known.get(w.digest, w) for w in weights), stages)
