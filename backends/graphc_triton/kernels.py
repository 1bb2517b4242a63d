"""From a node of the fused graph to a kernel: lowered, written by the template that fits, once for equal bodies."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.graph import Node
from graphc.ir.symbolic import Dim, evaluate, substitute, symbol
from graphc.lowering.contraction import find_contraction
from graphc.lowering.facts import dimensions
from graphc.lowering.loop_body import Apply, Body, Load, LoopBody, Reduce, TileBody
from graphc.lowering.lower import lower
from graphc.lowering.own_names import with_own_names
from graphc.lowering.reports import flops, kernel_name, nonempty
from graphc_triton import matmul, ordered, pointwise, rows, sorting
from graphc_triton.function import Function
from graphc_triton.operations import no_form
from graphc_triton.split import split
from graphc_triton.supported import IN_ORDER

WHO = "the triton backend"

PRELUDE = '''"""{name}: written by graphc from the loops below.

{loops}"""

import triton
import triton.language as tl

from graphc_triton import device


'''


@dataclass(frozen=True)
class TritonKernel:
    """Source of the functions that one node runs, in order; see `program.KernelStep`.

    key: stands for the code (body, numerics, and the code generator itself); loops: the text of the lowered body; own: what
    its dims are called in it; between: the bytes of the buffers that the functions leave each other, behind the operands.
    """

    key: str
    symbol: str
    name: str
    functions: tuple[Function, ...]
    loops: str
    own: tuple[str, ...]
    dims: tuple[Dim, ...]
    flops: Dim
    bytes: Dim
    nonempty: tuple[Dim, ...]
    work: Dim = 1
    scratch: Dim = 0
    between: tuple[int, ...] = ()

    @property
    def source(self) -> str:
        """The module that holds the functions."""
        loops = self.loops.replace("\\", "\\\\").replace('"""', "'''")
        return PRELUDE.format(name=self.name, loops=loops) + "\n\n".join(f.source for f in self.functions)

    @property
    def template(self) -> str:
        return " ".join(dict.fromkeys(f.template for f in self.functions))


@dataclass
class KernelMaker:
    """Makes the kernels of one compilation; equal bodies are written once."""

    numerics: str

    def __post_init__(self) -> None:
        self.made: dict[str, TritonKernel] = {}

    def __call__(self, node: Node) -> TritonKernel:
        """The kernel of a fusion; raises UnsupportedOpError with the reason where there is none."""
        if node.op.name == "sort":
            return self.sort(node)
        if node.op.name != "fusion":
            raise UnsupportedOpError(WHO, [Unsupported(node.op.name, "", "it can be part of no fused loop")])
        graph, _, given = with_own_names(node)
        body = lower(graph, node["kind"])
        key = self.key(f"{body.key()} {sorted(map(repr, dimensions(body)))}")
        if key not in self.made:
            self.made[key] = self.make(body, key)
        return _at(given, replace(self.made[key], name=kernel_name(node["body"])))

    def sort(self, node: Node) -> TritonKernel:
        """The kernel of a sort, which is no loop nest."""
        text, sizes = sorting.text(node), sorting.sizes(node)
        key, moved = self.key(text), node.operands[0].type.bytes + sum((v.type.bytes for v in node.results), 0)
        if key not in self.made:
            own = tuple(str(s) for s in sizes)
            functions = (sorting.emit(node),)
            work = sorting.comparisons(node)
            self.made[key] = TritonKernel(key, "sort_kernel", "sort", functions, text, own, sizes, work, moved, ())
        return self.made[key]

    def key(self, text: str) -> str:
        """What stands for the code that this compilation makes of `text`."""
        return hashlib.sha256(f"{text} {self.numerics} {sources_digest()}".encode()).hexdigest()

    def make(self, body: Body, key: str) -> TritonKernel:
        """The kernel of a body."""
        body = replace(body, name=function_name(body))
        functions, between = write(body, self.numerics == "strict")
        moved = sum((b.type.bytes for b in body.buffers if b.access != "scratch"), 0)
        own = tuple(s.name for s in dimensions(body))
        dims = tuple(symbol(s.name, s.low, s.high) for s in dimensions(body))
        name = functions[0].name
        made = TritonKernel(key, name, name, functions, str(body), own, dims, flops(body), moved, nonempty(body))
        return replace(made, between=between)


def write(body: Body, strict: bool) -> tuple[tuple[Function, ...], tuple[int, ...]]:
    """The Triton functions of a body, to be run in order, and the bytes of what they leave each other.

    Raises UnsupportedOpError with all reasons at once.
    """
    problems = reasons(body)
    if problems:
        raise UnsupportedOpError(WHO, problems)
    name = body.name
    if isinstance(body, TileBody) and not body.axes and all(b.access != "scratch" for b in body.buffers):
        # Nests that share nothing but the result: a kernel each.
        parts = [replace(loop, buffers=body.buffers) for loop in body.loops]
        names = [f"{name}_{n}" if len(parts) > 1 else name for n in range(len(parts))]
        return tuple(_nest(loop, n, strict) for loop, n in zip(parts, names, strict=True)), ()
    if isinstance(body, TileBody):
        return (rows.emit(body, name, strict),), ()
    in_parts = None if ordered.is_ordered(body) else split(body)
    if in_parts is None:
        return (_nest(body, name, strict),), ()
    functions = _nest(in_parts.parts, f"{name}_parts", strict), _nest(in_parts.whole, name, strict)
    return functions, tuple(evaluate(t.bytes, {}) for t in in_parts.between)


def _nest(body: LoopBody, name: str, strict: bool) -> Function:
    if ordered.is_ordered(body):
        return ordered.emit(body, name, strict)
    if not body.axes_of("reduction"):
        return pointwise.emit(body, name, strict)
    contraction = find_contraction(body)
    if contraction is not None and contraction.reduce.dtype.name in ("f32", "f64"):
        return matmul.emit(contraction, name, strict)
    return rows.emit(body, name, strict)


def reasons(body: Body) -> list[Unsupported]:
    """Why a body has no kernel: all reasons."""
    nests: Sequence[LoopBody] = (body,) if isinstance(body, LoopBody) else body.loops
    found: list[Unsupported] = []
    for nest in nests:
        if isinstance(body, TileBody) and body.axes and ordered.is_ordered(nest):
            found.append(Unsupported(body.name, "", IN_ORDER))
        if isinstance(body, TileBody) and _mixes(nest):
            found.append(Unsupported(body.name, "", "a nest of the tile has parallel and reduction axes of its own"))
        applied = [s for s in nest.statements if isinstance(s, Apply)]
        found += [Unsupported(s.op, "", reason) for s in applied if (reason := no_form(s)) is not None]
    return list(dict.fromkeys(found))


def _mixes(nest: LoopBody) -> bool:
    return bool(nest.axes_of("parallel")) and bool(nest.axes_of("reduction"))


def function_name(body: Body) -> str:
    """What a body does, told from its statements alone: equal bodies are equal code, whatever graphs they came from."""
    nests = (body,) if isinstance(body, LoopBody) else body.loops
    found: dict[str, None] = {}
    statements = [s for nest in nests for s in nest.statements]
    contraction = find_contraction(body) if isinstance(body, LoopBody) else None
    if contraction is not None:
        guarded = any(isinstance(s, Load) and s.predicate for s in contraction.prologue)
        found["conv" if guarded else "matmul"] = None
        statements = list(contraction.epilogue)
    for s in statements:
        if isinstance(s, Load) and s.checked:
            found["gather"] = None
        elif isinstance(s, Reduce):
            found[s.kind if s.kind.startswith("arg") else f"reduce_{s.kind}"] = None
        elif isinstance(s, Apply) and s.op != "cast":
            found[s.op] = None
    return "_".join(list(found)[:6] or ["copy"]) + "_kernel"


def _at(symbols: Mapping[str, Dim], kernel: TritonKernel) -> TritonKernel:
    """A kernel whose sizes are told in a model's own symbols."""
    dims, nonempty = (tuple(substitute(d, symbols) for d in x) for x in (kernel.dims, kernel.nonempty))
    flops, moved = substitute(kernel.flops, symbols), substitute(kernel.bytes, symbols)
    return replace(kernel, dims=dims, nonempty=nonempty, flops=flops, bytes=moved)


@functools.cache
def sources_digest() -> str:
    """A digest of the code that makes kernels: another version of it never takes what this one made."""
    h = hashlib.sha256()
    for package in ("graphc_triton", "graphc.lowering"):
        for file in sorted(resources.files(package).iterdir(), key=lambda f: f.name):
            if file.name.endswith(".py"):
                h.update(file.name.encode() + b"\0" + file.read_bytes())
    return h.hexdigest()
