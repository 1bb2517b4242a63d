"""Choices that are measured (`tune=True`) instead of predicted; `choices.py` lists them.

A choice belongs to a node: a product or convolution by weights, or a fusion, with its types and attributes. To measure it, the
node is compiled alone, once an option, and run on this machine, the options in turns. An option is taken in place of the
predicted one where it gains more than noise does. Decisions about a node follow one another, each measured with those before it.
What is chosen is remembered in the user's cache, keyed by the node's structure, the machine, the threads, and the code of the
code generator; kernels' keys say what isn't as predicted. So the same choices give the same code wherever they came from.

A dynamic dim is measured at ASSUMED, or as near to it as its range and the node's work allow. Where the time is up that
measuring may take, the rest stays predicted, isn't remembered, and the program isn't kept: the next compilation goes on.
"""

from __future__ import annotations

import gc
import json
import logging
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphc import config
from graphc.backend import CompileOptions
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import Dim, Symbol, evaluate, product
from graphc.ir.text import weights_of
from graphc.ir.types import TensorType
from graphc.lowering.assemble import assemble
from graphc.lowering.lower import lower
from graphc.lowering.own_names import with_own_names
from graphc.lowering.reports import kernel_name
from graphc.pipeline import Pass, PassContext, PassManager, resolve_passes
from graphc_llvm.cache import Cache
from graphc_llvm.choices import Fixed
from graphc_llvm.kernels import KernelCompiler, KernelMaker
from graphc_llvm.nest import kernel_symbol
from graphc_llvm.packing import Pack
from graphc_llvm.segment import Code, Compiled, LlvmSegment, Runner
from graphc_llvm.sources import sources_digest
from graphc_llvm.target import Target, host_identity
from graphc_llvm.winograd import Winograd
from graphc_llvm.winograd_kernel import as_convolution

ASSUMED = 32
"""What a dynamic dim is measured at."""
MOST_WORK, MOST_BYTES = 2e9, 1 << 28
"""Multiply-adds of a node at its assumed sizes, and bytes of its operands and results, at most."""
ROUNDS, SECONDS = 9, 0.1
"""How often the options take turns, at least, and how long, about."""
WORTH = 0.97
"""Of the predicted option's time in the same turn: what another must stay below to be taken."""

TRIES, WAITED = 5, 1e-5
"""How often a run is tried again that had to wait for its processor, and seconds of it that are nothing."""

LOG = logging.getLogger("graphc.tuning")

Measure = Callable[[Node, str, Sequence[Fixed]], list[list[float]]]
"""For each turn the seconds that a node takes by itself, compiled with each of these choices; the last made is of that name."""

CompileProgram = Callable[[Graph, CompileOptions, PassContext], Compiled]


@dataclass
class Measured:
    """Choices by measuring on `machine`, remembered in `cache` (None: for this compilation alone).

    budget: the seconds that measuring may take; an option that was begun is finished.
    """

    machine: str
    cache: Cache | None
    measure: Measure
    budget: float
    spent: float = 0.0
    unfinished: bool = False
    _made: dict[str, Fixed] = field(default_factory=dict)
    _lines: list[str] = field(default_factory=list)

    def choose(self, node: Node, what: str, options: Sequence[int]) -> int:
        """The fastest of the options, or the first where none is faster or the node can't be run by itself."""
        if len(options) == 1 or not runs_alone(node):
            return options[0]
        form = form_of(node)
        before = self._made.get(form, Fixed())
        if what in dict(before.made):
            return before.choose(node, what, options)
        key = f"choice {what} of {list(options)} after {before.made} of {form} on {self.machine} {sources_digest()}"
        found = self.recalled(key, options)
        if found is None:
            if self.spent >= self.budget:
                self.unfinished = True
                return options[0]
            begin = time.perf_counter()
            turns = self.measure(node, what, [before.having(what, option) for option in options])
            gc.collect()  # graphs and modules are cyclic, and compilation stops the collector
            self.spent += time.perf_counter() - begin
            medians = [statistics.median(column) for column in zip(*turns, strict=True)]
            found = options[best(turns)], dict(zip(map(str, options), medians, strict=True))
            if self.cache is not None:
                self.cache.put(key, json.dumps(found).encode())
        chosen, seconds = found
        line = told(node, what, chosen, seconds)
        LOG.info("%s (%.0f of at most %.0f s)", line, self.spent, self.budget)
        self._lines.append(line)
        self._made[form] = before.having(what, chosen)
        return chosen

    def recalled(self, key: str, options: Sequence[int]) -> tuple[int, dict[str, float]] | None:
        kept = None if self.cache is None else self.cache.get(key)
        if kept is None:
            return None
        choice, seconds = json.loads(kept)
        return (choice, seconds) if choice in options else None

    def tell(self, context: PassContext) -> None:
        """Notes what was decided since the last call, and whether time was up."""
        context.notes += self._lines
        context.unfinished |= self.unfinished
        self._lines.clear()


def best(turns: Sequence[Sequence[float]]) -> int:
    """The option that is taken after such turns: the first, or the fastest of those that gain more than noise does.

    That is in three of four turns, and in the quickest runs, which other programs disturbed least.
    """
    ratios = [[turn[i] / turn[0] for turn in turns] for i in range(len(turns[0]))]
    least = [min(column) for column in zip(*turns, strict=True)]
    faster = [i for i, r in enumerate(ratios) if sorted(r)[len(r) * 3 // 4] < WORTH and least[i] < WORTH * least[0]]
    return min(faster, key=lambda i: statistics.median(ratios[i]), default=0)


def told(node: Node, what: str, chosen: int, seconds: Mapping[str, float]) -> str:
    """What was chosen for a node: `layer: what: predicted -> chosen (microseconds of each option)`."""
    predicted = next(iter(seconds))
    change = f"{chosen}, as predicted" if str(chosen) == predicted else f"{chosen} in place of {predicted}"
    times = ", ".join(f"{option}: {s * 1e6:.1f} us" for option, s in seconds.items())
    return f"{', '.join(node.origin[:1]) or node.op.name}: {what} {change} ({times})"


def measured(
    options: CompileOptions, target: Target, threads: int, cache: Cache | None, compile_program: CompileProgram
) -> Measured:
    """The choices of a compilation with `tune=True`; `compile_program` makes the code of nodes that passes ask about.

    Before each run something else fills the caches, and the inputs are read: as in a network, where each layer has weights of its
    own, and its input was just computed. What threads gain is measured without, since they mustn't fall asleep.
    """
    elsewhere = np.empty(2 * target.l3, np.uint8)

    def of_layer(node: Node, fixed: Fixed) -> tuple[Callable[[], list[float]], list[np.ndarray]]:
        graph, x = alone(node)
        context = PassContext(numerics=options.numerics, precision=options.precision, weights=weights_of(graph))
        optimized, _ = graph.clone()
        passes: list[str | Pass] = [Winograd(target, fixed), Pack(target, fixed), "cse", "dce"]
        PassManager(resolve_passes(passes)).run(optimized, context)
        segment = LlvmSegment(compile_program(optimized, options, context), graph, context.weights, threads)
        return segment.runner.timer([x], {}), [x]

    def of_fusion(node: Node, fixed: Fixed) -> tuple[Callable[[], list[float]], list[np.ndarray]]:
        graph, dims, inputs = fusion_alone(node)
        maker = KernelMaker(target, options.numerics, fixed, threads)
        with KernelCompiler(target, cache) as compiler:
            made = assemble(graph, 0, lambda n: compiler.add(maker(n)), "the llvm backend")
            code = Code(made.program, compiler.objects(), (), threads=tuple(k.threads for k in made.kernels))
        return Runner(code, (), threads).timer(inputs, dims), inputs

    def measure(node: Node, what: str, ways: Sequence[Fixed]) -> list[list[float]]:
        made = [(of_fusion if node.op.name == "fusion" else of_layer)(node, way) for way in ways]

        def run(timer: Callable[[], list[float]], inputs: list[np.ndarray]) -> float:
            def from_memory() -> None:
                elsewhere.fill(0)
                for x in inputs:
                    x.max()

            return undisturbed(timer, timer if what == "threads" else from_memory)

        return taking_turns([lambda way=way: run(*way) for way in made])  # type: ignore[misc]

    return Measured(f"{target.key} {host_identity()} {threads} threads", cache, measure, config.tune_seconds())


def taking_turns(runs: Sequence[Callable[[], float]]) -> list[list[float]]:
    """What the runs return, turn by turn, after one turn that isn't counted; another begins each."""
    for run in runs:
        run()
    turns: list[list[float]] = []
    end = time.perf_counter() + SECONDS * len(runs)
    while len(turns) < ROUNDS or time.perf_counter() < end:
        order = [(len(turns) + i) % len(runs) for i in range(len(runs))]
        found = {i: runs[i]() for i in order}
        turns.append([found[i] for i in range(len(runs))])
    return turns


def undisturbed(timer: Callable[[], list[float]], prepare: Callable[[], object]) -> float:
    """The seconds of a run, each after `prepare`, during which this thread had its processor; of the last where none had."""
    for _ in range(TRIES):
        prepare()
        begin, mine = time.perf_counter(), time.thread_time()
        seconds = sum(timer())
        if time.perf_counter() - begin < WAITED + (time.thread_time() - mine) * 1.1:
            break
    return seconds


def runs_alone(node: Node) -> bool:
    """Whether a node can be run by itself, on inputs that are made up."""
    if node.op.name == "fusion":
        return all(v.type.dtype.is_float for v in node.operands)
    return node.operands[1].type.is_static


def form_of(node: Node) -> str:
    """What a choice depends on: the node's structure, under names that models don't give."""
    if node.op.name == "fusion":
        graph, _, _ = with_own_names(node)
        convolution = as_convolution(graph)
        body = lower(convolution or graph, node["kind"], kernel_name(graph))
        return f"{'winograd ' if convolution else ''}{kernel_symbol(body)}"
    symbols = [f"{s.name}:{s.low}:{s.high}" for s in node_symbols(node)]
    types = ", ".join(str(v.type) for v in node.operands)
    return f"{node.op.name} {node.op.version} ({types}) {sorted(node.attributes.items())!r} {symbols}"


def fusion_alone(node: Node) -> tuple[Graph, dict[str, int], list[np.ndarray]]:
    """A graph of the fusion alone, whatever its sizes are; values of its symbols to measure at, and inputs for it."""
    body, _, _ = with_own_names(node)
    b = Builder()
    inputs = [b.input(f"x{i}", v.type.dtype, v.type.shape) for i, v in enumerate(body.inputs)]
    results = b.ops("fusion", *inputs, **{**node.attributes, "body": body})
    graph = b.returns(*results)
    types = [v.type for v in (*inputs, *results)]
    sizes = assumed_sizes(graph.symbols().values(), sum((t.bytes for t in types), 0), MOST_BYTES)
    rng = np.random.default_rng(0)
    return graph, sizes, [made_up(rng, v.type, sizes) for v in inputs]


def alone(node: Node) -> tuple[Graph, np.ndarray]:
    """A graph of the node alone, dynamic dims at assumed sizes, its second operand a constant; and an input for it."""
    work = product(node.results[0].type.shape) * product(node.operands[1].type.shape[:-1])
    sizes = assumed_sizes(node_symbols(node), work, MOST_WORK)
    rng = np.random.default_rng(0)
    b = Builder()
    x, w = (v.type for v in node.operands)
    given = b.input("x", x.dtype, x.concrete(sizes))
    weights = b.constant(made_up(rng, w, {}))
    graph = b.returns(b.op(node.op.name, given, weights, **node.attributes))
    return graph, made_up(rng, x, sizes)


def made_up(rng: np.random.Generator, type_: TensorType, sizes: Mapping[str, int]) -> np.ndarray:
    """Normally distributed numbers of a float type."""
    return rng.standard_normal(type_.concrete(sizes), np.float32).astype(type_.dtype.numpy)


def assumed_sizes(symbols: Collection[Symbol], work: Dim, most: float) -> dict[str, int]:
    """Values of symbols to measure at, at which `work` is at most `most` if there are such."""
    size = ASSUMED
    while True:
        sizes = {s.name: max(s.low, 1, min(size, s.high if isinstance(s.high, int) else size)) for s in symbols}
        if size <= 1 or evaluate(work, sizes) <= most:
            return sizes
        size //= 2


def node_symbols(node: Node) -> list[Symbol]:
    found = {s.name: s for v in (*node.operands, *node.results) for s in v.type.symbols()}
    return [found[name] for name in sorted(found)]
