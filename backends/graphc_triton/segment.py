"""A compiled graph: `prepare` makes its constants at the first run, then `main` runs on the device."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from graphc.backend import KernelReport, KernelTime, MemoryReport
from graphc.interpreter import bind_dims
from graphc.ir.graph import Graph
from graphc.ir.symbolic import Expr, evaluate
from graphc.ir.tensor_data import TensorData
from graphc.kernel_reports import kernel_times, report
from graphc.lowering.program import Program
from graphc_triton.kernels import TritonKernel
from graphc_triton.plan import make_plan
from graphc_triton.target import INTERPRETER

if TYPE_CHECKING:
    from graphc_triton.launcher import Driver


@dataclass(frozen=True)
class Code:
    """One program, its kernels, and the literal arrays among its constants (None: it comes from `prepare`)."""

    program: Program
    kernels: tuple[TritonKernel, ...]
    literals: tuple[TensorData | None, ...]


class Runner(Protocol):
    """A program on a device."""

    def run(self, inputs: Sequence[np.ndarray], dims: Mapping[str, int]) -> tuple[np.ndarray, ...]:
        """The outputs in fresh memory. Raises NumericError where a kernel reports a status."""
        ...

    def profile(self, inputs: Sequence[np.ndarray], dims: Mapping[str, int]) -> Sequence[float]:
        """Seconds of each step of one run."""
        ...


@dataclass
class TritonSegment:
    """A whole graph as cubins (or as source, for the interpreter). Nothing asks for a device before the first run."""

    graph: Graph
    main: Code
    prepare: Code
    weights: tuple[TensorData, ...]
    cubins: Mapping[str, tuple[Any, ...]]
    target: str
    stages: Mapping[str, str]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def direct(self) -> Callable[[tuple[Any, ...]], tuple[np.ndarray, ...] | None] | None:
        return None

    @functools.cached_property
    def runner(self) -> Runner:
        """The program with its constants on the device."""
        arrays = [np.require(w.array, requirements="C") for w in self.weights]
        prepared = self._start(self.prepare, ()).run(arrays, {})
        return self._start(self.main, prepared)

    def _start(self, code: Code, prepared: Sequence[np.ndarray]) -> Runner:
        rest = iter(prepared)
        constants = [next(rest) if c is None else c.array for c in code.literals]
        if self.target == INTERPRETER:
            from graphc_triton.interpret import InterpretedProgram

            return InterpretedProgram(code.program, code.kernels, constants)
        from graphc_triton.launcher import CudaProgram

        return CudaProgram(code.program, code.kernels, self.cubins, constants, self.driver)

    @functools.cached_property
    def driver(self) -> Driver:
        """The GPU's driver. Raises GraphcError where there is none."""
        from graphc_triton.launcher import Driver

        return Driver()

    @functools.cached_property
    def kernels(self) -> Sequence[KernelReport]:
        return self._reports({s.name: s.low for s in self.graph.symbols().values()})

    def _reports(self, dims: Mapping[str, int]) -> list[KernelReport]:
        return [report(s, self.main.program, dims) for s in self.main.program.steps]

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        with self._lock:
            return self.runner.run(inputs, bind_dims(self.graph, [x.shape for x in inputs]))

    def profile(self, inputs: Sequence[np.ndarray]) -> Sequence[KernelTime]:
        dims = bind_dims(self.graph, [x.shape for x in inputs])
        with self._lock:
            return kernel_times(self.main.program, dims, self.runner.profile(inputs, dims))

    def memory(self, dims: Mapping[str, int]) -> MemoryReport:
        plan = make_plan(self.main.program, self.main.kernels, dims)
        sizes = [evaluate(t.bytes, {}) if isinstance(t.bytes, Expr) else t.bytes for t in self.prepare.program.outputs]
        literals = [c.array.nbytes for c in self.main.literals if c is not None]
        return MemoryReport(plan.arena, sum(sizes) + sum(literals), plan.between)
