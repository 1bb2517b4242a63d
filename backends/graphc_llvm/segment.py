"""A compiled graph: `prepare` made its constants once, `run` walks the program natively."""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from graphc.backend import KernelReport, KernelTime, MemoryReport
from graphc.errors import NumericError, ShapeError
from graphc.interpreter import bind_dims
from graphc.ir.graph import Graph
from graphc.ir.mapped import file_of
from graphc.ir.tensor_data import TensorData
from graphc.kernel_reports import kernel_times, report
from graphc.lowering.memory import aligned
from graphc.lowering.program import CopyStep, KernelStep, LoopStep, Program, Step
from graphc.lowering.status import MEANING, Status
from graphc_llvm.entry import ArraySpec, Entry
from graphc_llvm.instance import KEPT_BYTES, Frame, Instance
from graphc_llvm.limits import host_limits
from graphc_llvm.linker import Library, load_objects
from graphc_llvm.runtime import runtime
from graphc_llvm.walk import Walks

KEPT_INSTANCES = 16
"""Plans, with their arenas, that a dynamic program keeps: of the dims that it met last."""

KEPT_SHAPES = 1024
"""Combinations of inputs' shapes whose dims are remembered: binding them anew takes longer than a small program."""

SHORT_RUN = 50e-6
"""Estimated seconds below which a run keeps the GIL: handing it over and back would cost a good part of the run."""

Shapes = tuple[tuple[int, ...], ...]
"""The shapes of a call's inputs."""


@dataclass(frozen=True)
class Code:
    """One program, its kernels' object code by cache key, and the arrays among its constants that aren't prepared.

    `literals[i]` is constant i, or a weight's number among the graph's (of those inside scans), or None where it is prepared.
    With `walks`, steps may run in bands. `threads[k]`: that share kernel k, 0: as many as its work is worth (none: for all).
    """

    program: Program
    objects: Mapping[str, bytes]
    literals: tuple[int | TensorData | None, ...]
    walks: Walks | None = None
    threads: tuple[int, ...] = ()


class Runner:
    """A program with its code loaded and its constants at hand; makes an instance for each set of dims it meets."""

    def __init__(
        self, code: Code, prepared: Sequence[np.ndarray], threads: int, weights: Sequence[TensorData] = ()
    ) -> None:
        self.program = code.program
        self.threads, self.walks, self.chosen_threads = threads, code.walks, code.threads
        rest = iter(prepared)
        literals = [weights[c] if isinstance(c, int) else c for c in code.literals]
        self.constants = [next(rest) if c is None else _as_bytes_view(c.array) for c in literals]
        symbols = [name for _, name in code.program.kernels]
        objects = [code.objects[key] for key, _ in code.program.kernels]
        self.library: Library | None = load_objects(objects, symbols) if symbols else None
        self.addresses = [self.library.address(s) for s in symbols] if self.library else []
        self._lock = threading.Lock()
        self._made: dict[tuple[tuple[str, int], ...], tuple[Instance, Entry]] = {}
        self._by_shapes: dict[Shapes | tuple[int, ...], tuple[Instance, Entry]] = {}  # of one input: its shape
        self.outputs = [(t.dtype.numpy, t.dtype.name == "bf16") for t in code.program.outputs]
        self.in_place = {o: i for i, o in code.program.in_place}
        self.dynamic = not all(t.is_static for t in (*code.program.inputs, *code.program.outputs))
        self.static: tuple[Instance, Entry] | None = None
        if not self.dynamic:
            with suppress(NumericError):  # what has no value says so when it is run
                self.static = self.instance({})

    def instance(self, dims: Mapping[str, int]) -> tuple[Instance, Entry]:
        """The program at these dims, planned at first use."""
        key = tuple(sorted(dims.items()))
        with self._lock:
            return self._instance(key, dims)

    def _instance(self, key: tuple[tuple[str, int], ...], dims: Mapping[str, int]) -> tuple[Instance, Entry]:
        if key not in self._made:
            made = Instance(
                self.program, dict(dims), self.addresses, self.constants, self.threads, self.walks, self.chosen_threads
            )
            self._make_room(made.frame_bytes)
            inputs = [ArraySpec(t.dtype.name, t.concrete(dims)) for t in self.program.inputs]
            outputs = [
                ArraySpec(t.dtype.name, shape) for t, shape in zip(self.program.outputs, made.shapes, strict=True)
            ]
            main = runtime().library.address("run_program")
            entry = Entry(main, inputs, outputs, hold_gil=made.seconds < SHORT_RUN)
            found = self._made[key] = made, entry
            return found
        found = self._made[key] = self._made.pop(key)  # the least recently used is first
        return found

    def _make_room(self, new: int) -> None:
        """Forgets the plans used longest ago, where there are too many or their memory and `new` bytes are too much."""
        while self._made and (
            len(self._made) >= KEPT_INSTANCES or new + sum(i.kept_bytes for i, _ in self._made.values()) > KEPT_BYTES
        ):
            gone = self._made.pop(next(iter(self._made)))
            self._by_shapes = {shapes: kept for shapes, kept in self._by_shapes.items() if kept is not gone}

    def direct(self) -> Callable[[tuple[Any, ...]], tuple[np.ndarray, ...] | None] | None:
        """`run` on arrays that fit as they are; None where one of them doesn't, or the dims are new: then nothing ran.

        The native entry checks the arrays, so Python does next to nothing: what counts for programs of microseconds.
        Where dims are dynamic, shapes that `run` has met before lead to their instance.
        There is none for bf16, which the buffer protocol doesn't know, for bool, whose bytes are checked first, and where
        inputs are written over.
        """
        types = (*self.program.inputs, *self.program.outputs)
        if self.in_place or any(t.dtype.name in ("bf16", "bool") for t in types):
            return None
        empty, ndarray, dtypes, static = np.empty, np.ndarray, [dtype for dtype, _ in self.outputs], self.static
        # Where there is one array, a tuple of one is written: to loop over it takes a fifth of a small program's time.
        one_in, only = len(self.program.inputs) == 1, dtypes[0] if len(dtypes) == 1 else None

        def run(inputs: tuple[Any, ...]) -> tuple[np.ndarray, ...] | None:
            for x in inputs:
                if type(x) is not ndarray or not x.flags.aligned:
                    return None
            found = static
            if found is None:
                found = self._by_shapes.get(inputs[0].shape if one_in and inputs else _shapes(inputs))
                if found is None:
                    return None
            instance, entry = found
            frame = instance.take_frame()
            if only is not None:
                outputs: tuple[np.ndarray, ...] = (empty(instance.shapes[0], only),)
            else:
                outputs = tuple(map(empty, instance.shapes, dtypes))
            status = entry.call(frame.context.address, inputs, outputs)
            if status > 0:
                self.fail(status, frame)
            instance.give_frame(frame)
            return None if status < 0 else outputs

        return run

    def run(self, inputs: Sequence[np.ndarray], dims: Mapping[str, int] | None) -> tuple[np.ndarray, ...]:
        """The outputs, in fresh memory or in that of inputs. Raises NumericError where a kernel reports a status."""
        instance, entry = found = self.static if self.static is not None else self.instance(dims or {})
        if self.dynamic:
            with self._lock:
                if len(self._by_shapes) >= KEPT_SHAPES:
                    self._by_shapes = {}
                if any(kept is found for kept in self._made.values()):  # another thread may have forgotten it
                    self._by_shapes[inputs[0].shape if len(inputs) == 1 else _shapes(inputs)] = found
        frame = instance.take_frame()
        try:
            outputs = tuple(
                [
                    np.empty(shape, dtype) if (taken := self._taken(o, inputs)) is None else taken
                    for o, (shape, (dtype, _)) in enumerate(zip(instance.shapes, self.outputs, strict=True))
                ]
            )
            self.call(entry, frame, inputs, outputs)
        finally:
            instance.give_frame(frame)
        return outputs

    def _taken(self, output: int, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        """The input whose memory an output takes; None where there is none, or it mustn't be written to."""
        i = self.in_place.get(output)
        return inputs[i] if i is not None and inputs[i].flags.writeable else None

    def call(self, entry: Entry, frame: Frame, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        status = entry.call(frame.context.address, tuple(map(_bits, inputs)), tuple(map(_bits, outputs)))
        if status > 0:
            self.fail(status, frame)
        if status < 0:
            raise ShapeError(
                "the program's arguments don't fit its signature", seen=[f"{a.dtype}{list(a.shape)}" for a in inputs]
            )

    def fail(self, status: int, frame: Frame) -> NoReturn:
        """Raises what a kernel's status means, with the layer."""
        step = self.program.steps[frame.numbers[frame.context.structure.error_step]]
        origin = ", ".join(step.origin) if isinstance(step, KernelStep | LoopStep) else None
        name = step.name if isinstance(step, KernelStep | LoopStep) else "copy"
        raise NumericError(f"{name} met {MEANING[Status(status)]}", layer=origin)

    def profile(self, inputs: Sequence[np.ndarray], dims: Mapping[str, int] | None) -> list[float]:
        """Seconds of each step of one run."""
        return self.timer(inputs, dims)()

    def timer(self, inputs: Sequence[np.ndarray], dims: Mapping[str, int] | None) -> Callable[[], list[float]]:
        """What runs the program on inputs, in the same memory each time, and tells the seconds of each step."""
        instance, entry = self.static if self.static is not None else self.instance(dims or {})
        outputs = tuple(
            [np.empty(shape, dtype) for shape, (dtype, _) in zip(instance.shapes, self.outputs, strict=True)]
        )
        frame = instance.new_frame()
        times = (ctypes.c_int64 * max(len(frame.numbers), 1))()
        frame.context.structure.times = ctypes.addressof(times)

        def run() -> list[float]:
            ctypes.memset(times, 0, ctypes.sizeof(times))
            self.call(entry, frame, inputs, outputs)
            seconds = [0.0] * len(self.program.steps)
            for number, time in zip(instance.numbers, times, strict=False):  # the instance owns what native code walks
                seconds[number] += time * 1e-9
            return seconds

        return run


def _shapes(inputs: Sequence[np.ndarray]) -> Shapes:
    return tuple([x.shape for x in inputs])


def _bits(array: np.ndarray) -> np.ndarray:
    """The array, or its bits where the buffer protocol has no format for its dtype."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def _as_bytes_view(array: np.ndarray) -> np.ndarray:
    """The array in aligned memory, where kernels may read at any time: a mapped file may change, or take long to read."""
    if array.ctypes.data % 64 == 0 and file_of(array) is None:
        return array
    copy = aligned(array.nbytes)
    copy[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return copy


@dataclass(frozen=True)
class Compiled:
    """What compilation makes and the cache keeps: code, and the texts of its stages.

    weights: for each input of `prepare`, the weight's number among the graph's (`weights_of`), or its own data.
    """

    main: Code
    prepare: Code
    weights: tuple[int | TensorData, ...]
    stages: Mapping[str, str]


@dataclass
class LlvmSegment:
    """A whole graph as native code."""

    compiled: Compiled
    graph: Graph
    weights: Sequence[TensorData]
    threads: int
    runner: Runner = field(init=False)
    _bound: dict[Shapes, dict[str, int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        given = [self.weights[w] if isinstance(w, int) else w for w in self.compiled.weights]
        prepared = _prepared(Runner(self.compiled.prepare, (), self.threads, self.weights), given)
        self.runner = Runner(self.compiled.main, prepared, self.threads, self.weights)

    @property
    def stages(self) -> Mapping[str, str]:
        return self.compiled.stages

    @functools.cached_property
    def kernels(self) -> Sequence[KernelReport]:
        dims = {s.name: s.low for s in self.graph.symbols().values()}
        return [report(step, self.compiled.main.program, dims) for step in self.compiled.main.program.steps]

    @functools.cached_property
    def direct(self) -> Callable[[tuple[Any, ...]], tuple[np.ndarray, ...] | None] | None:
        return None if self.graph.guards and not self.runner.dynamic else self.runner.direct()

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return self.runner.run(inputs, self._dims(inputs))

    def profile(self, inputs: Sequence[np.ndarray]) -> Sequence[KernelTime]:
        dims = self._dims(inputs)
        seconds = self.runner.profile(inputs, dims)
        times = kernel_times(self.compiled.main.program, dims or {}, seconds, host_limits(self.threads))
        instance, _ = self.runner.static if self.runner.static is not None else self.runner.instance(dims or {})
        return [replace(t, kernel=replace(t.kernel, bands=n)) for t, n in zip(times, instance.bands, strict=True)]

    def memory(self, dims: Mapping[str, int]) -> MemoryReport:
        return self.runner.instance(dims if self.runner.dynamic else {})[0].memory()

    def _dims(self, inputs: Sequence[np.ndarray]) -> dict[str, int] | None:
        if not self.runner.dynamic and not self.graph.guards:
            return None
        shapes = _shapes(inputs)
        dims = self._bound.get(shapes)
        if dims is None:
            if len(self._bound) >= KEPT_SHAPES:
                self._bound.clear()
            dims = self._bound[shapes] = bind_dims(self.graph, shapes)
        return dims


def _prepared(runner: Runner, weights: Sequence[TensorData]) -> list[np.ndarray]:
    """What a static program makes of weights, each in 64-byte aligned memory.

    It runs step by step, and weights of a mapped file leave memory after the last step that reads them: so set-up takes
    little more than what it makes.
    """
    program, (instance, _) = runner.program, runner.instance({})
    outputs = _side_by_side([(t.dtype.numpy, shape) for t, shape in zip(program.outputs, instance.shapes, strict=True)])
    frame = instance.new_frame()
    arrays = [w.array for w in weights]
    for i, array in enumerate((*arrays, *outputs)):
        frame.context.bases[i] = array.ctypes.data
    last_read = {base: i for i, step in enumerate(program.steps) for base in _bases_read(step)}
    run = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(runtime().library.address("run_program"))
    for i, record in enumerate(instance.table[: len(program.steps)]):
        frame.context.structure.steps, frame.context.structure.step_count = ctypes.addressof(record), 1
        status = run(frame.context.address)
        if status:
            frame.context.structure.error_step = i
            runner.fail(status, frame)
        for base in [b for b, last in last_read.items() if last == i and b < len(weights)]:
            weights[base].release()
    return outputs


def _side_by_side(arrays: Sequence[tuple[np.dtype[Any], tuple[int, ...]]]) -> list[np.ndarray]:
    """Uninitialized arrays, 64-byte aligned, in one block: the system gives large ones large pages, and those faster."""
    sizes = [int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for dtype, shape in arrays]
    starts = list(itertools.accumulate((-(-size // 64) * 64 for size in sizes), initial=0))
    block = aligned(starts[-1])
    return [
        block[start : start + size].view(dtype).reshape(shape)
        for start, size, (dtype, shape) in zip(starts, sizes, arrays, strict=False)
    ]


def _bases_read(step: Step) -> set[int]:
    """The bases that a step reads at, or writes to."""
    if isinstance(step, CopyStep):
        return {step.source.base}
    if isinstance(step, KernelStep):
        return {place.base for place in step.operands}
    return {s.source.base for s in step.slices}.union(*map(_bases_read, (*step.steps, *step.carries)))
