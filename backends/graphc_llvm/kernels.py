"""From a node of the fused graph to a kernel: lowered, emitted by the template that fits, compiled once for equal
bodies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import inf

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import Dim, nonnegative, substitute
from graphc.lowering.loop_body import Body, LoopBody
from graphc.lowering.lower import lower
from graphc.lowering.own_names import with_own_names
from graphc.lowering.reports import kernel_name, nonempty
from graphc_llvm import (
    attention_blocks,
    attention_gradient_blocks,
    attention_gradient_kernel,
    attention_gradient_products,
    attention_kernel,
    attention_products,
    contraction,
    gemm,
    nest,
    sorting,
    strassen,
    strassen_kernel,
    winograd_kernel,
)
from graphc_llvm.cache import Cache, cached_code
from graphc_llvm.choices import PREDICTED, Choices
from graphc_llvm.instance import estimated_seconds
from graphc_llvm.jit import compile_object
from graphc_llvm.kernel_walks import walk_of_nest, walk_of_product, walk_of_winograd
from graphc_llvm.shared_axes import shared
from graphc_llvm.sources import sources_digest
from graphc_llvm.target import Target
from graphc_llvm.walk import Walk

DOUBTFUL = 5e-6, 4e-4
"""Estimated seconds of a kernel between which a second thread may gain or lose."""


@dataclass(frozen=True)
class Kernel:
    """LLVM IR of one kernel, and what a call of it takes; see `program.KernelStep`.

    key: stands for the code (body, target, numerics, and the code generator itself); symbol: the function's name;
    loops: the text of the lowered body; walk: how it goes over its operands, in its own symbols, where that is known;
    threads: that share it, at most; 0: as many as its work is worth.
    """

    key: str
    symbol: str
    name: str
    template: str
    text: str
    loops: str
    dims: tuple[Dim, ...]
    work: Dim = 0
    scratch: Dim = 0
    flops: Dim = 0
    bytes: Dim = 0
    nonempty: tuple[Dim, ...] = ()
    walk: Walk | None = None
    threads: int = 0


@dataclass
class KernelMaker:
    """Makes the kernels of one compilation; equal bodies are emitted once.

    choices: who decides what could be done in several ways; threads: that programs will have, where that is decided, too.
    """

    target: Target
    numerics: str
    choices: Choices = PREDICTED
    threads: int = 1

    def __post_init__(self) -> None:
        self.made: dict[str, Kernel] = {}

    def __call__(self, node: Node) -> Kernel:
        """The kernel of a fusion; raises UnsupportedOpError with the reason where there is none."""
        if node.op.name == "sort":
            return self.sort(node)
        if node.op.name != "fusion":
            reason = "it can be part of no fused loop"
            raise UnsupportedOpError("the llvm backend", [Unsupported(node.op.name, ", ".join(node.origin), reason)])
        graph, own, given = with_own_names(node)
        products = attention_products.find_products(graph, self.target)
        if products is not None:
            return _at(given, self.attention(products, own))
        gradient = attention_gradient_products.find_gradient(graph, self.target)
        if gradient is not None:
            return _at(given, self.attention_gradient(gradient, own))
        convolution = winograd_kernel.as_convolution(graph)
        body = shared(lower(convolution or graph, node["kind"], kernel_name(graph)))
        text = nest.kernel_symbol(body)  # stands for the body's text, and the ranges of its symbols
        key = self.key(f"winograd {text}" if convolution else text)
        if key not in self.made:
            made = self.winograd(graph, body, key, own) if convolution else self.emit(node, body, key, own)
            self.made[key] = replace(made, threads=self.sharing(node, made))
        return _at(given, self.made[key])

    def sort(self, node: Node) -> Kernel:
        """One kernel serves all shapes of a dtype."""
        dtype, descending = node.operands[0].type.dtype, node["descending"]
        text = f"sort {dtype} {'descending' if descending else 'ascending'}"
        key = self.key(text)
        symbol = f"kernel_{key[:32]}"
        if key not in self.made:
            self.made[key] = Kernel(key, symbol, "sort", "sort", sorting.emit(dtype, descending, symbol), text, ())
        moved = sum((v.type.bytes for v in (*node.operands, *node.results)), 0)
        return replace(
            self.made[key],
            dims=sorting.dims(node),
            work=sorting.rows(node),
            scratch=sorting.scratch_bytes(node),
            bytes=moved,
        )

    def attention(self, products: attention_products.Products, symbols: Mapping[str, Dim]) -> Kernel:
        """The kernel of two products with a softmax between them."""
        halves = products.scores.body, products.result.body
        rows = "with rows" if products.rows else ""
        key = self.key(f"attention {rows} {' '.join(map(nest.kernel_symbol, halves))}")
        if key not in self.made:
            infos = [nest.kernel_info(half, self.target) for half in halves]
            dims = sorted({name for info in infos for name in info.dims})
            symbol = f"kernel_{key[:32]}"
            text = attention_kernel.emit(products, symbol, dims, self.target, self.numerics)
            loops = f"{halves[0]}// a softmax of each row, then\n{halves[1]}"
            work, scratch = attention_blocks.work_items(products), attention_blocks.scratch_bytes(products, self.numerics)
            given = tuple(symbols[name] for name in dims)
            some = () if nonnegative(products.keys - 1) else (products.keys,)
            sizes = work, scratch, products.flops, attention_blocks.moved_bytes(products), some
            self.made[key] = Kernel(key, symbol, "attention", "attention", text, loops, given, *sizes)
        return self.made[key]

    def attention_gradient(self, g: attention_gradient_products.Gradient, symbols: Mapping[str, Dim]) -> Kernel:
        """The kernel of an attention's gradient, from the weights computed again to the sums."""
        parts = [c.body for c in g.contractions]
        key = self.key(f"attention gradient {' '.join(map(nest.kernel_symbol, parts))}")
        if key not in self.made:
            dims = sorted({name for part in parts for name in nest.kernel_info(part, self.target).dims})
            symbol = f"kernel_{key[:32]}"
            text = attention_gradient_kernel.emit(g, symbol, dims, self.target, self.numerics)
            loops = "// then\n".join(map(str, parts))
            work, scratch = attention_gradient_blocks.work_items(g), attention_gradient_blocks.scratch_bytes(g)
            given = tuple(symbols[name] for name in dims)
            name = "attention_gradient"
            self.made[key] = Kernel(key, symbol, name, name, text, loops, given, work, scratch, g.flops, g.moved)
        return self.made[key]

    def key(self, text: str) -> str:
        """What stands for the code that this compilation makes of `text`."""
        return hashlib.sha256(f"{text} {self.target.key} {self.numerics} {sources_digest()}".encode()).hexdigest()

    def winograd(self, graph: Graph, body: Body, key: str, symbols: Mapping[str, Dim]) -> Kernel:
        """The kernel of a fusion with a `winograd_conv`, given it and its body as a convolution."""
        c = contraction.match(body, self.target) if isinstance(body, LoopBody) else None
        if c is None or not winograd_kernel.is_packed(c):
            reason = "its weights aren't packed, or channels are too few, as only the pass `winograd` sees to"
            raise UnsupportedOpError("the llvm backend", [Unsupported("winograd_conv", body.name, reason)])
        info = nest.kernel_info(body, self.target)
        w = winograd_kernel.plan(graph, c, self.target)
        symbol = f"kernel_{key[:32]}"
        text = winograd_kernel.emit(w, symbol, info.dims, self.target, self.numerics)
        loops = f"// The sum is taken by Winograd's F(4x4, 3x3), in place of this one over 6x6 positions.\n{body}"
        dims = tuple(symbols[name] for name in info.dims)
        sizes = w.work_items, w.scratch_bytes, w.flops, info.bytes
        return Kernel(key, symbol, body.name, "winograd", text, loops, dims, *sizes, walk=walk_of_winograd(w))

    def emit(self, node: Node, body: Body, key: str, symbols: Mapping[str, Dim]) -> Kernel:
        product = contraction.match(body, self.target) if isinstance(body, LoopBody) else None
        if product is None:
            place = self.choices.choose(node, "vector axis", range(nest.vector_axes(body, self.target)))
            info = nest.kernel_info(body, self.target, place)
            key, dims = self.varied(key, f"vector axis {place}" if place else ""), tuple(symbols[n] for n in info.dims)
            text = nest.emit_kernel(body, self.target, self.numerics, place)
            sizes = info.work_items, info.scratch_bytes, info.flops, info.bytes
            walk = walk_of_nest(body, self.target, place)
            return Kernel(key, info.symbol, body.name, "nest", text, str(body), dims, *sizes, nonempty(body), walk)
        info = nest.kernel_info(body, self.target)
        dims = tuple(symbols[name] for name in info.dims)
        product, by_strassen, variant = self.product(node, product)
        key = self.varied(key, variant)
        if by_strassen is not None:
            text = strassen_kernel.emit(by_strassen, info.symbol, self.target, self.numerics)
            loops = f"// By seven products of half the size in place of eight (Strassen).\n{body}"
            sizes = by_strassen.work_items, by_strassen.scratch_bytes, by_strassen.flops, info.bytes
            return Kernel(key, info.symbol, body.name, "strassen", text, loops, dims, *sizes)
        text = gemm.emit(product, info.symbol, self.target, self.numerics)
        sizes = gemm.work_items(product), gemm.scratch_bytes(product), product.flops, info.bytes
        walk = walk_of_product(product)
        return Kernel(key, info.symbol, body.name, "gemm", text, str(body), dims, *sizes, walk=walk)

    def product(
        self, node: Node, c: contraction.Contraction
    ) -> tuple[contraction.Contraction, strassen.Strassen | None, str]:
        """(the product with its tiles and blocks, how Strassen's algorithm cuts it, what isn't as predicted)."""
        predicted = strassen.plan(c, self.target) if self.numerics == "fast" else None
        forced = predicted or (strassen.plan(c, self.target, inf) if self.numerics == "fast" else None)
        by_strassen = int(predicted is not None)
        options = (by_strassen,) if forced is None else (by_strassen, 1 - by_strassen)
        if self.choices.choose(node, "strassen", options):
            return c, forced, "" if predicted else "strassen"
        vectors = c.width // self.target.lanes(c.dtype.bytes)
        heights = contraction.tile_heights(c.row_count, c.tile_rows, vectors, self.target)
        found = replace(c, tile_rows=self.choices.choose(node, "tile rows", heights))
        found = replace(found, block_depth=self.choices.choose(node, "block depth", gemm.block_depths(c)))
        as_predicted = found == c and predicted is None
        return found, None, "" if as_predicted else f"direct {found.tile_rows} {found.block_depth}"

    def sharing(self, node: Node, kernel: Kernel) -> int:
        """How many threads share a kernel, at most; 0: as many as its work is worth, which is in doubt for few kernels."""
        if self.threads == 1 or not isinstance(kernel.flops, int) or not isinstance(kernel.bytes, int):
            return 0
        low, high = DOUBTFUL
        doubtful = low < estimated_seconds(kernel.flops, kernel.bytes) < high
        return self.choices.choose(node, "threads", (0, 1, self.threads)) if doubtful else 0

    def varied(self, key: str, variant: str) -> str:
        """The key of a kernel that isn't as predicted."""
        return self.key(f"{key} {variant}") if variant else key


def _at(symbols: Mapping[str, Dim], kernel: Kernel) -> Kernel:
    """A kernel whose sizes are told in a model's own symbols."""
    sizes = {k: substitute(getattr(kernel, k), symbols) for k in ("work", "scratch", "flops", "bytes")}
    lists = {k: tuple(substitute(d, symbols) for d in getattr(kernel, k)) for k in ("dims", "nonempty")}
    return replace(kernel, **sizes, **lists)


class KernelCompiler:
    """Compiles kernels in a thread of its own, so that LLVM, which lets go of the GIL, works while Python writes the next.

    Object code comes from the cache where it is there. A context manager: leaving it ends the thread.
    """

    def __init__(self, target: Target, cache: Cache | None) -> None:
        self._target, self._cache = target, cache
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="graphc-llvm")
        self._objects: dict[str, Future[bytes]] = {}

    def __enter__(self) -> KernelCompiler:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, kernel: Kernel) -> Kernel:
        """Has a kernel compiled, if it isn't yet; the kernel."""
        if kernel.key not in self._objects:
            self._objects[kernel.key] = self._pool.submit(self._compile, kernel)
        return kernel

    def objects(self) -> dict[str, bytes]:
        """The object code of every kernel that was added, by key."""
        return {key: code.result() for key, code in self._objects.items()}

    def _compile(self, kernel: Kernel) -> bytes:
        code = cached_code(kernel.key, self._cache)
        if code is None:
            code = compile_object(kernel.text, self._target)
            if self._cache is not None:
                self._cache.put(f"kernel {kernel.key}", code)
        return code
