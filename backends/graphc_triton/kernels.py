"""From a node of the fused graph to a kernel: lowered, written by the template that fits, once for equal bodies."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources

from graphc.errors import Unsupported, UnsupportedOpError
from graphc.ir.graph import Node
from graphc.ir.symbolic import Dim, Symbol, symbol
from graphc.lowering.contraction import find_contraction
from graphc.lowering.loop_body import Body, LoopBody, Reduce, Store, TileBody
from graphc.lowering.lower import lower
from graphc.lowering.reports import flops, kernel_name, nonempty
from graphc_triton import matmul, pointwise, rows
from graphc_triton.function import Function

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

    key: stands for the code (body, numerics, and the code generator itself); loops: the text of the lowered body.
    """

    key: str
    symbol: str
    name: str
    functions: tuple[Function, ...]
    loops: str
    dims: tuple[Dim, ...]
    flops: Dim
    bytes: Dim
    nonempty: tuple[Dim, ...]
    work: Dim = 1
    scratch: Dim = 0

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
        if node.op.name != "fusion":
            raise UnsupportedOpError(WHO, [Unsupported(node.op.name, _layer(node), "it can be part of no fused loop")])
        try:
            body = lower(node["body"], node["kind"], kernel_name(node["body"]))
            dims = {s.name: symbol(s.name, s.low, s.high) for s in _symbols(node)}
            key = self.key(f"{body.key()} {sorted(map(repr, _symbols(node)))}")
            if key not in self.made:
                self.made[key] = self.make(body, key, tuple(dims[n] for n in sorted(dims)))
        except UnsupportedOpError as e:
            # The layer is known here, not where the reason was found.
            raise UnsupportedOpError(WHO, [replace(u, layer=_layer(node)) for u in e.unsupported]) from None
        return self.made[key]

    def key(self, text: str) -> str:
        """What stands for the code that this compilation makes of `text`."""
        return hashlib.sha256(f"{text} {self.numerics} {sources_digest()}".encode()).hexdigest()

    def make(self, body: Body, key: str, dims: tuple[Dim, ...]) -> TritonKernel:
        """The kernel of a body."""
        functions = write(body, self.numerics == "strict")
        moved = sum((b.type.bytes for b in body.buffers if b.access != "scratch"), 0)
        return TritonKernel(
            key, functions[0].name, body.name, functions, str(body), dims, flops(body), moved, nonempty(body)
        )


def write(body: Body, strict: bool) -> tuple[Function, ...]:
    """The Triton functions of a body, to be run in order. Raises UnsupportedOpError with all reasons at once."""
    problems = [Unsupported(body.name, "", reason) for reason in reasons(body)]
    if problems:
        raise UnsupportedOpError(WHO, problems)
    name = "".join(c if c.isalnum() else "_" for c in body.name)
    if isinstance(body, TileBody) and not body.axes:
        # Nests that share nothing but the result: a kernel each.
        parts = [replace(loop, buffers=body.buffers) for loop in body.loops]
        return tuple(_nest(loop, f"{name}_{n}" if len(parts) > 1 else name, strict) for n, loop in enumerate(parts))
    if isinstance(body, TileBody):
        return (rows.emit(body, name, strict),)
    return (_nest(body, name, strict),)


def _nest(body: LoopBody, name: str, strict: bool) -> Function:
    if not body.axes_of("reduction"):
        return pointwise.emit(body, name, strict)
    contraction = find_contraction(body)
    if contraction is not None and contraction.reduce.dtype.name in ("f32", "f64"):
        return matmul.emit(contraction, name, strict)
    return rows.emit(body, name, strict)


def reasons(body: Body) -> list[str]:
    """Why a body has no kernel: all reasons."""
    nests: Sequence[LoopBody] = (body,) if isinstance(body, LoopBody) else body.loops
    found: list[str] = []
    for nest in nests:
        if nest.sequential:
            found.append("a scatter's updates run in order, which blocks don't")
        if nest.axes_of("scan"):
            found.append("a running sum goes along its axis in order, which blocks don't")
        found += [
            f"a store combines ({s.combine}) with what is there"
            for s in nest.statements
            if isinstance(s, Store) and s.combine != "set" and not nest.sequential
        ]
        if isinstance(body, TileBody) and body.axes and _mixes(nest):
            found.append("a nest of the tile has parallel and reduction axes of its own")
    if isinstance(body, TileBody) and not body.axes and any(b.access == "scratch" for b in body.buffers):
        if any(isinstance(s, Reduce) for nest in nests for s in nest.statements):
            found.append("a whole tensor is reduced, and read again, in one tile")
    return list(dict.fromkeys(found))


def _mixes(nest: LoopBody) -> bool:
    return bool(nest.axes_of("parallel")) and bool(nest.axes_of("reduction"))


def _layer(node: Node) -> str:
    return ", ".join(node.origin) or f"%{node.results[0].name}"


def _symbols(node: Node) -> list[Symbol]:
    found = {s for v in node.operands for s in v.type.symbols()} | node.symbols()
    return sorted(found, key=lambda s: s.name)


@functools.cache
def sources_digest() -> str:
    """A digest of the code that makes kernels: another version of it never takes what this one made."""
    h = hashlib.sha256()
    for package in ("graphc_triton", "graphc.lowering"):
        for file in sorted(resources.files(package).iterdir(), key=lambda f: f.name):
            if file.name.endswith(".py"):
                h.update(file.name.encode() + b"\0" + file.read_bytes())
    return h.hexdigest()
