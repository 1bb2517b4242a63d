"""A compiled model: call it, ask it what it does, save it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.arguments import Expected, Wrap, as_arrays, set_apart
from graphc.backend import CompileOptions, CompileReport, KernelReport, MemoryReport, Segment
from graphc.errors import GraphcError, ShapeError
from graphc.interpreter import bind_dims
from graphc.ir.graph import Graph
from graphc.ir.text import print_graph

if TYPE_CHECKING:
    from graphc.profile import Profile


class Executable:
    """An immutable, thread-safe program. Made by `graphc.compile` or `graphc.load`.

    Calling it takes the inputs in order (NumPy arrays, or anything with `__dlpack__`) and returns the outputs: one
    bare, several as a tuple, of the kind that came in. An input that the graph donates may be written over. Raises ShapeError
    where an input doesn't fit the signature."""

    def __init__(self, graph: Graph, segment: Segment, options: CompileOptions, report: CompileReport) -> None:
        self._graph = graph
        self._segment = segment
        self._options = options
        self._report = report
        self._direct = segment.direct
        self._expected = [Expected(v.name, v.type) for v in graph.inputs]

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
        expected = self.input_names
        if not isinstance(inputs, Mapping):
            raise ShapeError("inputs aren't given by name", seen=type(inputs).__name__, expected=expected)
        if set(inputs) != set(expected):
            raise ShapeError("inputs don't match the signature", seen=sorted(inputs), expected=expected)
        outputs = self(*(inputs[name] for name in expected))
        by_name = dict(zip(self.output_names, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))
        unknown = [n for n in output_names or () if n not in by_name]
        if unknown:
            raise ShapeError("there is no such output", seen=unknown, expected=list(by_name))
        return [by_name[n] for n in (output_names if output_names is not None else by_name)]

    def _arrays(self, inputs: Sequence[Any]) -> tuple[list[np.ndarray], Wrap]:
        arrays, wrap = as_arrays(inputs, self._expected)
        if self._graph.donations:
            set_apart(arrays, [i for i, _ in self._graph.donations])
        return arrays, wrap

    # What it is

    @property
    def graph(self) -> Graph:
        """The graph as it was imported. Not to be edited: the program doesn't follow."""
        return self._graph

    @property
    def segment(self) -> Segment:
        """The compiled code, which takes arrays that are known to fit."""
        return self._segment

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
        return (
            f"<graphc executable ({inputs}) -> ({outputs}), {self._options.backend_name}, {len(self.kernels)} kernels>"
        )


def check_dims(graph: Graph, inputs: Sequence[np.ndarray]) -> dict[str, int]:
    """The symbols' values for these inputs; raises ShapeError naming input and axis where they don't fit."""
    return bind_dims(graph, [x.shape for x in inputs])
