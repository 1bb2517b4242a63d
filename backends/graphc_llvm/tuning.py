"""Choices that are measured (`tune=True`) instead of predicted: Winograd or not, and how wide a product's panels are.

A choice belongs to a node: a product or convolution by weights, with its types and attributes. To measure it, the node is
compiled alone, once a candidate, and run on this machine; the fastest is remembered in the user's cache, keyed by the node's
structure, the target, the threads, and the code of the code generator. Kernels' keys follow from the packed layout that was
chosen, so the same choice gives the same code wherever it came from.

A dynamic dim is measured at ASSUMED, or as near to it as its range and the node's work allow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphc.backend import CompileOptions
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import Symbol, evaluate, product
from graphc.ir.text import weights_of
from graphc.pipeline import PassContext, PassManager, resolve_passes
from graphc_llvm.cache import Cache
from graphc_llvm.choices import Fixed
from graphc_llvm.packing import Pack
from graphc_llvm.segment import Compiled, LlvmSegment
from graphc_llvm.sources import sources_digest
from graphc_llvm.target import Target
from graphc_llvm.winograd import Winograd

ASSUMED = 32
"""What a dynamic dim is measured at."""
MOST_WORK = 2e9
"""Multiply-adds of a node at its assumed sizes, at most: more than one image where they are small."""
SECONDS, RUNS = 0.05, 5
"""How long a candidate is measured, about, and how often at least."""
WORTH = 0.97
"""Of the predicted candidate's time: what another must need at most to be taken, lest noise decides."""


Measure = Callable[[Node, Fixed], float]
"""Seconds of a node by itself, compiled with these choices."""

CompileProgram = Callable[[Graph, CompileOptions, PassContext], Compiled]


@dataclass
class Measured:
    """Choices by measuring, remembered in `cache` (None: for this compilation alone)."""

    target: Target
    threads: int
    cache: Cache | None
    measure: Measure
    _known: dict[str, str] = field(default_factory=dict)

    def winograd(self, node: Node, predicted: bool) -> bool:
        ways = {"winograd": Fixed(by_winograd=True), "direct": Fixed()}
        first = "winograd" if predicted else "direct"
        return self.best(node, "algorithm", ways, first) == "winograd"

    def width(self, node: Node, widths: Sequence[int]) -> int:
        return int(self.best(node, "width", {str(w): Fixed(panel=w) for w in widths}, str(widths[0])))

    def best(self, node: Node, what: str, ways: dict[str, Fixed], predicted: str) -> str:
        """The fastest of the ways, or what is predicted where none is faster or the node can't be run by itself."""
        if len(ways) == 1 or not node.operands[1].type.is_static:
            return predicted
        key = self.key(node, what, ways)
        found = self._known.get(key) or self.recalled(key, ways)
        if found is None:
            seconds = {name: self.measure(node, way) for name, way in ways.items()}
            fastest = min(seconds, key=seconds.__getitem__)
            found = fastest if seconds[fastest] < WORTH * seconds[predicted] else predicted
            if self.cache is not None:
                self.cache.put(key, json.dumps({"choice": found, "seconds": seconds}).encode())
        self._known[key] = found
        return found

    def recalled(self, key: str, ways: dict[str, Fixed]) -> str | None:
        kept = None if self.cache is None else self.cache.get(key)
        choice = None if kept is None else json.loads(kept)["choice"]
        return choice if choice in ways else None

    def key(self, node: Node, what: str, ways: dict[str, Fixed]) -> str:
        symbols = sorted(f"{s.name}:{s.low}:{s.high}" for s in node_symbols(node))
        types = ", ".join(str(v.type) for v in node.operands)
        form = f"{node.op.name} {node.op.version} ({types}) {sorted(node.attributes.items())!r} {symbols}"
        return f"choice {what} {sorted(ways)} {form} {self.target.key} {self.threads} {sources_digest()}"


def measured(
    options: CompileOptions, target: Target, threads: int, cache: Cache | None, compile_program: CompileProgram
) -> Measured:
    """The choices of a compilation with `tune=True`; `compile_program` makes the code of what is measured.

    Before each run something else fills the caches, and the input is read: as in a network, where each layer has weights of its
    own, and its input was just computed.
    """
    elsewhere = np.empty(2 * target.l3, np.uint8)

    def measure(node: Node, fixed: Fixed) -> float:
        graph, inputs = alone(node)
        context = PassContext(numerics=options.numerics, precision=options.precision, weights=weights_of(graph))
        optimized, _ = graph.clone()
        passes = [Winograd(target, fixed), Pack(target, fixed), "cse", "dce"]
        PassManager(resolve_passes(passes)).run(optimized, context)
        segment = LlvmSegment(compile_program(optimized, options, context), graph, context.weights, threads)

        def run() -> float:
            elsewhere.fill(0)
            inputs.max()
            return sum(t.seconds for t in segment.profile([inputs]))

        return fastest_run(run)

    return Measured(target, threads, cache, measure)


def fastest_run(run: Callable[[], float]) -> float:
    """The least of several runs' seconds, after one that isn't counted."""
    run()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < RUNS or time.perf_counter() < end:
        times.append(run())
    return min(times)


def alone(node: Node) -> tuple[Graph, np.ndarray]:
    """A graph of the node alone, dynamic dims at assumed sizes, its second operand a constant; and an input for it."""
    sizes = assumed_sizes(node)
    rng = np.random.default_rng(0)
    b = Builder()
    types = [v.type for v in node.operands]
    x = b.input("x", types[0].dtype, types[0].concrete(sizes))
    w = rng.standard_normal(types[1].concrete({}), np.float32).astype(types[1].dtype.numpy)
    graph = b.returns(b.op(node.op.name, x, b.constant(w), **node.attributes))
    return graph, rng.standard_normal(x.type.concrete({}), np.float32).astype(types[0].dtype.numpy)


def assumed_sizes(node: Node) -> dict[str, int]:
    """Values of the node's symbols to measure at."""
    symbols = node_symbols(node)
    size = ASSUMED
    while True:
        sizes = {s.name: max(s.low, 1, min(size, s.high if isinstance(s.high, int) else size)) for s in symbols}
        work = evaluate(product(node.results[0].type.shape) * product(node.operands[1].type.shape[:-1]), sizes)
        if work <= MOST_WORK or size <= 1:
            return sizes
        size //= 2


def node_symbols(node: Node) -> list[Symbol]:
    found = {s.name: s for v in (*node.operands, *node.results) for s in v.type.symbols()}
    return [found[name] for name in sorted(found)]
