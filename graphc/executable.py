"""A compiled model: call it, ask it what it does, save it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.backend import CompileOptions, CompileReport, KernelReport, MemoryReport, Segment
from graphc.errors import GraphcError, ShapeError
from graphc.interpreter import bind_dims
from graphc.ir.graph import Graph
from graphc.ir.text import print_graph
from graphc.ir.types import TensorType

if TYPE_CHECKING:
    from graphc.profile import Profile


class Executable:
    """An immutable, thread-safe program. Made by `graphc.compile` or `graphc.load`.

    Calling it takes the inputs in order (NumPy arrays, or anything with `__dlpack__`) and returns the outputs: one
    bare, several as a tuple, of the kind that came in. Raises ShapeError where an input doesn't fit the signature."""

    def __init__(self, graph: Graph, segment: Segment, options: CompileOptions, report: CompileReport) -> None:
        self._graph = graph
        self._segment = segment
        self._options = options
        self._report = report
        self._direct = segment.direct
        self._expected = [
            (v.name, v.type, v.type.dtype.numpy, tuple(v.type.shape) if v.type.is_static else None)
            for v in graph.inputs
        ]

    # Running

    def __call__(self, *inputs: Any) -> Any:
        if self._direct is not None:
            found = self._direct(inputs)
            if found is not None:
                return found[0] if len(found) == 1 else found
        arrays, wrap = self._arrays(inputs)
        outputs = self._segment.run(arrays)
        if wrap is not None:
            outputs = tuple(wrap(y) for y in outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, output_names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]:
        """The named outputs (None: all), from inputs by name: the form of onnxruntime's InferenceSession.run."""
        expected = [name for name, *_ in self._expected]
        if set(inputs) != set(expected):
            raise ShapeError("inputs don't match the signature", seen=sorted(inputs), expected=expected)
        outputs = self(*(inputs[name] for name in expected))
        by_name = dict(zip(self.output_names, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))
        unknown = [n for n in output_names or () if n not in by_name]
        if unknown:
            raise ShapeError("there is no such output", seen=unknown, expected=list(by_name))
        return [by_name[n] for n in (output_names if output_names is not None else by_name)]

    def _arrays(self, inputs: Sequence[Any]) -> tuple[list[np.ndarray], Any]:
        if len(inputs) != len(self._expected):
            names = ", ".join(name for name, *_ in self._expected)
            raise ShapeError("wrong number of inputs", seen=len(inputs), expected=f"{len(self._expected)} ({names})")
        arrays, wrap = [], None
        for x, (name, type, dtype, shape) in zip(inputs, self._expected, strict=True):
            if not isinstance(x, np.ndarray):
                x, wrap = _from_dlpack(x, name, type)
            if x.dtype != dtype or (x.shape != shape if shape is not None else x.ndim != type.rank):
                x = self._mended(x, name, type)
            flags = x.flags
            if not (flags.c_contiguous and flags.aligned and x.dtype.isnative):
                x = np.array(x, dtype, order="C")
            if dtype.kind == "b" and x.view(np.uint8).max(initial=0) > 1:  # made by a view of other bytes
                x = x.view(np.uint8) != 0
            arrays.append(x)
        return arrays, wrap

    @staticmethod
    def _mended(x: np.ndarray, name: str, type: TensorType) -> np.ndarray:
        """`x` in native byte order; raises ShapeError naming what doesn't fit."""
        if x.dtype.newbyteorder("=") != type.dtype.numpy:
            raise ShapeError(f"input {name} has the wrong dtype", seen=x.dtype, expected=type.dtype.numpy)
        fits = x.ndim == type.rank and all(
            a == b for a, b in zip(x.shape, type.shape, strict=True) if isinstance(b, int)
        )
        if not fits:
            raise ShapeError(f"input {name} has the wrong shape", seen=list(x.shape), expected=type)
        return x.astype(type.dtype.numpy)

    # What it is

    @property
    def graph(self) -> Graph:
        """The graph as it was imported. Not to be edited: the program doesn't follow."""
        return self._graph

    @property
    def options(self) -> CompileOptions:
        return self._options

    @property
    def report(self) -> CompileReport:
        """What compilation did."""
        return self._report

    @property
    def input_names(self) -> list[str]:
        return [v.name for v in self._graph.inputs]

    @property
    def output_names(self) -> list[str]:
        return [v.name for v in self._graph.outputs]

    @property
    def kernels(self) -> Sequence[KernelReport]:
        """The kernel calls of one run, in order, with the layers that they came from."""
        return self._segment.kernels

    @property
    def memory(self) -> MemoryReport:
        """Bytes that a run needs (dynamic dims at their smallest)."""
        return self.memory_at({s.name: s.low for s in self._graph.symbols().values()})

    def memory_at(self, dims: Mapping[str, int]) -> MemoryReport:
        """Bytes that a run needs at given values of the dynamic dims."""
        return self._segment.memory(dims)

    @property
    def cost(self) -> dict[str, int]:
        """Floating-point operations and bytes moved by the kernels of one run."""
        return {"flops": sum(k.flops for k in self.kernels), "bytes": sum(k.bytes for k in self.kernels)}

    @property
    def stages(self) -> list[str]:
        """The names that `text` takes."""
        return ["imported", *self._segment.stages]

    def text(self, stage: str = "imported") -> str:
        """The program's text at a stage of compilation; see `stages`."""
        if stage == "imported":
            return print_graph(self._graph)
        if stage not in self._segment.stages:
            raise GraphcError("there is no such stage", seen=stage, expected=self.stages)
        return self._segment.stages[stage]

    def explain(self) -> str:
        """What each pass did, what was refused and why, and the kernels with the layers that they came from."""
        from graphc.explain import explain

        return explain(self)

    def profile(self, *inputs: Any, runs: int = 5) -> Profile:
        """What each kernel call took on these inputs, the median of so many runs, beside what the device can do at best.

        Prints as a table; `json()` and `chrome_trace(path)` write it for tools. The kernels run one after another as in any
        other run, with a clock between them."""
        from graphc.profile import profile

        arrays, _ = self._arrays(inputs)
        return profile([self._segment.profile(arrays) for _ in range(runs + 1)][1:], self)

    # Keeping it

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the artifact (IR, weights, manifest) as one file, by rename: it is whole or absent."""
        from graphc.artifact import save

        save(self, Path(path))

    def __reduce__(self) -> tuple[Any, ...]:
        from graphc.artifact import from_bytes, to_bytes

        return from_bytes, (to_bytes(self),)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{v.name}: {v.type}" for v in self._graph.inputs)
        outputs = ", ".join(f"{v.name}: {v.type}" for v in self._graph.outputs)
        return f"<graphc executable ({inputs}) -> ({outputs}), {self._options.backend_name}, {len(self.kernels)} kernels>"


def _from_dlpack(x: Any, name: str, type: TensorType) -> tuple[np.ndarray, Any]:
    """The array behind a DLPack object, without a copy, and the function that makes results of its kind."""
    if not hasattr(x, "__dlpack__"):
        raise ShapeError(
            f"input {name} is no array",
            seen=f"{x.__class__.__name__}",
            expected=f"a NumPy array or DLPack object of {type}",
        )
    library = sys.modules.get(x.__class__.__module__.partition(".")[0])
    try:
        if type.dtype.name == "bf16" and x.dtype == getattr(library, "bfloat16", None):
            # NumPy takes no bfloat16 through DLPack: its bits go as integers.
            return np.from_dlpack(x.view(library.int16)).view(type.dtype.numpy), _maker(library)  # type: ignore[union-attr]
        return np.from_dlpack(x), _maker(library)
    except (BufferError, RuntimeError, TypeError) as error:
        raise ShapeError(
            f"input {name} can't be read in place", seen=error, expected=f"an array on the CPU, of {type}",
            hint="a tensor that requires a gradient: pass x.detach()" if getattr(x, "requires_grad", False) else None,
        ) from error  # fmt: skip


def _maker(library: Any) -> Callable[[np.ndarray], Any] | None:
    """What makes an array of the library, without a copy; None where it has no from_dlpack."""
    make: Callable[[np.ndarray], Any] | None = getattr(library, "from_dlpack", None)
    if make is None:
        return None
    return lambda y: make(y.view(np.int16)).view(library.bfloat16) if y.dtype.name == "bfloat16" else make(y)


def check_dims(graph: Graph, inputs: Sequence[np.ndarray]) -> dict[str, int]:
    """The symbols' values for these inputs; raises ShapeError naming input and axis where they don't fit."""
    return bind_dims(graph, [x.shape for x in inputs])
