"""Programs as JSON, for the cache: data only, nothing in it can run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.errors import ArtifactError
from graphc.ir.symbolic import Dim, Expr, free_symbols, parse_dim, symbol
from graphc.ir.types import DTYPES, TensorType
from graphc.lowering.program import ArenaBuffer, CopyStep, KernelStep, Location, LoopStep, Program, Slice, Step
from graphc_llvm.walk import Caches, Touch, Walk, Walks


def to_json(program: Program) -> dict[str, Any]:
    """A JSON value that `from_json` turns back into an equal program."""
    writer = _Writer()
    return {
        "inputs": [writer.type(t) for t in program.inputs],
        "outputs": [writer.type(t) for t in program.outputs],
        "constants": program.constants,
        "slices": program.slices,
        "buffers": [[writer.dim(b.bytes), b.first, b.last] for b in program.buffers],
        "steps": [writer.step(s) for s in program.steps],
        "kernels": list(program.kernels),
        "in_place": list(program.in_place),
        "symbols": writer.symbols,
    }


def from_json(data: Mapping[str, Any]) -> Program:
    """The program that `to_json` wrote. Raises ArtifactError on anything else."""
    try:
        reader = _Reader(data["symbols"])
        return Program(
            tuple(reader.type(t) for t in data["inputs"]),
            tuple(reader.type(t) for t in data["outputs"]),
            int(data["constants"]),
            int(data["slices"]),
            tuple(ArenaBuffer(reader.dim(size), int(first), int(last)) for size, first, last in data["buffers"]),
            tuple(reader.step(s) for s in data["steps"]),
            tuple((key, name) for key, name in data["kernels"]),
            tuple((int(i), int(o)) for i, o in data["in_place"]),
        )
    except (KeyError, TypeError, ValueError) as e:
        raise ArtifactError("a cached program is damaged", seen=str(e)) from e


def walks_to_json(walks: Walks) -> dict[str, Any]:
    """A JSON value that `walks_from_json` turns back into equal walks."""
    caches = walks.caches
    return {"kernels": list(map(_walk_to_json, walks.kernels)), "caches": [caches.own, caches.last]}


def walks_from_json(data: Mapping[str, Any]) -> Walks:
    """The walks that `walks_to_json` wrote."""
    own, last = data["caches"]
    return Walks(tuple(map(_walk_from_json, data["kernels"])), Caches(int(own), int(last)))


def _walk_to_json(walk: Walk | None) -> dict[str, Any] | None:
    if walk is None:
        return None
    writer = _Writer()
    return {
        "dims": list(walk.dims),
        "extents": list(map(writer.dim, walk.extents)),
        "blocks": [writer.dim(walk.rows), walk.block, writer.dim(walk.panels)],
        "outputs": walk.outputs,
        "touches": [
            [t.operand, writer.dim(t.low), writer.dim(t.high), *map(writer.dim, t.strides)] for t in walk.touches
        ],
        "symbols": writer.symbols,
    }


def _walk_from_json(data: Mapping[str, Any] | None) -> Walk | None:
    if data is None:
        return None
    reader = _Reader(data["symbols"])
    rows, block, panels = data["blocks"]
    touches = tuple(
        Touch(int(operand), tuple(map(reader.dim, strides)), reader.dim(low), reader.dim(high))
        for operand, low, high, *strides in data["touches"]
    )
    extents = tuple(map(reader.dim, data["extents"]))
    sizes = reader.dim(rows), int(block), reader.dim(panels), int(data["outputs"])
    return Walk(tuple(data["dims"]), extents, *sizes, touches)


class _Writer:
    def __init__(self) -> None:
        self.symbols: dict[str, list[int | None]] = {}

    def dim(self, d: Dim) -> int | str:
        if not isinstance(d, Expr):
            return d
        for s in free_symbols(d):
            if isinstance(s.high, Expr):
                raise ValueError(f"symbol {s.name} has a symbolic range")
            self.symbols[s.name] = [s.low, s.high]
        return str(d)

    def type(self, t: TensorType) -> list[Any]:
        return [t.dtype.name, *map(self.dim, t.shape)]

    def place(self, p: Location) -> list[int | None]:
        return [p.base, p.buffer]

    def step(self, s: Step) -> dict[str, Any]:
        if isinstance(s, KernelStep):
            sizes = {k: self.dim(getattr(s, k)) for k in ("work", "scratch", "flops", "bytes")}
            dims, operands = list(map(self.dim, s.dims)), list(map(self.place, s.operands))
            return {
                "kernel": s.kernel,
                "name": s.name,
                "origin": list(s.origin),
                "operands": operands,
                "dims": dims,
                "nonempty": list(map(self.dim, s.nonempty)),
                "arithmetic": s.arithmetic,
                **sizes,
            }
        if isinstance(s, CopyStep):
            return {"copy": [self.place(s.target), self.place(s.source), self.dim(s.bytes)]}
        return {
            "loop": [self.step(x) for x in s.steps],
            "name": s.name,
            "origin": list(s.origin),
            "trips": self.dim(s.trips),
            "reverse": s.reverse,
            "slices": [[x.base, self.place(x.source), self.dim(x.stride)] for x in s.slices],
            "carries": [self.step(c)["copy"] for c in s.carries],
            "condition": None if s.condition is None else self.place(s.condition),
            "expected": s.expected,
        }


class _Reader:
    def __init__(self, symbols: Mapping[str, Any]) -> None:
        self.symbols = {name: symbol(name, low, high) for name, (low, high) in symbols.items()}

    def dim(self, d: int | str) -> Dim:
        return d if isinstance(d, int) else parse_dim(d, self.symbols)

    def type(self, t: list[Any]) -> TensorType:
        return TensorType(DTYPES[t[0]], tuple(self.dim(d) for d in t[1:]))

    def place(self, p: list[Any]) -> Location:
        return Location(p[0], p[1])

    def copy(self, c: list[Any]) -> CopyStep:
        return CopyStep(self.place(c[0]), self.place(c[1]), self.dim(c[2]))

    def step(self, s: Mapping[str, Any]) -> Step:
        if "copy" in s:
            return self.copy(s["copy"])
        origin = tuple(s["origin"])
        if "loop" in s:
            slices = tuple(Slice(base, self.place(p), self.dim(stride)) for base, p, stride in s["slices"])
            inner, carries = tuple(map(self.step, s["loop"])), tuple(map(self.copy, s["carries"]))
            condition = None if s["condition"] is None else self.place(s["condition"])
            trips, reverse, expected = self.dim(s["trips"]), bool(s["reverse"]), bool(s["expected"])
            return LoopStep(s["name"], origin, inner, trips, reverse, slices, carries, condition, expected)
        operands, dims = tuple(map(self.place, s["operands"])), tuple(map(self.dim, s["dims"]))
        sizes = [self.dim(s[k]) for k in ("work", "scratch", "flops", "bytes")]
        nonempty = tuple(map(self.dim, s["nonempty"]))
        return KernelStep(int(s["kernel"]), s["name"], origin, operands, dims, *sizes, nonempty, str(s["arithmetic"]))
