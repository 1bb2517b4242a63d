"""Runs programs on an NVIDIA GPU: one CUDA graph a set of dims, launched with one call.

Where the way depends on data, there is a graph for each stretch without a choice, and the host reads the condition in between.

Parameters are packed once, into memory that the driver reads when the graph is made. All buffers lie in one allocation with
offsets of our own: inputs, outputs, the arena, constants, the status words.
"""

from __future__ import annotations

import ctypes
import itertools
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.errors import GraphcError
from graphc.lowering.program import Program
from graphc_triton.compile import Cubin
from graphc_triton.interpret import status_error
from graphc_triton.kernels import TritonKernel
from graphc_triton.plan import Copy, Fault, Launch, Loop, Place, Plan, Work, make_plan

ALIGNMENT = 256
"""Bytes, of every buffer."""

DEFAULT_SHARED = 48 * 1024
"""Bytes of dynamic shared memory that a function may have without asking."""

KEPT_GRAPHS = 16
"""CUDA graphs, each with its memory, that a dynamic program keeps: of the dims that it met last."""


class Driver:
    """The calls of the CUDA driver API, through cuda-bindings, with a context on the first GPU."""

    def __init__(self) -> None:
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError as e:
            raise GraphcError(
                "there is no NVIDIA driver",
                seen=str(e),
                expected="libcuda.so.1, or the target to be compiled for alone",
            ) from e
        from cuda.bindings import driver

        self.api = driver
        self.call("cuInit", 0)
        device = self.call("cuDeviceGet", 0)
        self.context = self.call("cuDevicePrimaryCtxRetain", device)
        self.call("cuCtxSetCurrent", self.context)
        self.stream = self.call("cuStreamCreate", 1)  # non-blocking

    def enter(self) -> None:
        """Makes the context this thread's."""
        self.call("cuCtxSetCurrent", self.context)

    def call(self, name: str, *arguments: Any) -> Any:
        """A driver call's result; raises GraphcError with the call and the driver's name of the error."""
        status, *results = getattr(self.api, name)(*arguments)
        if int(status) != 0:
            raise GraphcError(f"{name} failed", seen=str(status))
        return results[0] if len(results) == 1 else tuple(results)


@dataclass
class Parameters:
    """Kernel parameters, packed: `values` 8 bytes each, `pointers` to them."""

    values: ctypes.Array[ctypes.c_int64]
    pointers: ctypes.Array[ctypes.c_void_p]

    @classmethod
    def pack(cls, arguments: Sequence[int]) -> Parameters:
        """Pointers and i64 sizes; all are 8 bytes."""
        values = (ctypes.c_int64 * max(len(arguments), 1))(*(_signed(a) for a in arguments))
        start = ctypes.addressof(values)
        return cls(values, (ctypes.c_void_p * len(values))(*(start + 8 * i for i in range(len(values)))))

    @property
    def address(self) -> int:
        return ctypes.addressof(self.pointers)


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x


@dataclass(frozen=True)
class Stretch:
    """Launches and copies without a choice between them, each with its parameters, as a CUDA graph."""

    work: tuple[tuple[Launch | Copy, Parameters], ...]
    graph: Any


@dataclass(frozen=True)
class Repeated:
    """What is run while the host reads the expected condition."""

    loop: Loop
    parts: tuple[Part, ...]


Part = Stretch | Repeated | Fault


@dataclass
class Instance:
    """A program at certain dims: its plan, its memory, what it runs."""

    plan: Plan
    bases: list[int]
    memory: Any
    parts: tuple[Part, ...] = ()


class CudaProgram:
    """A program with its code loaded and its constants on the GPU."""

    def __init__(
        self,
        program: Program,
        kernels: Sequence[TritonKernel],
        cubins: Mapping[str, tuple[Cubin, ...]],
        constants: Sequence[np.ndarray],
        driver: Driver,
    ) -> None:
        self.driver = driver
        driver.enter()
        self.program, self.kernels = program, kernels
        self.cubins = [cubins[k.key] for k in kernels]
        self.functions = [[self._load(c) for c in found] for found in self.cubins]
        sizes = [np.asarray(c).nbytes for c in constants]
        offsets, total = _offsets(sizes)
        memory = self.driver.call("cuMemAlloc", total)
        self.constants = [int(memory) + o for o in offsets]
        for array, address in zip(constants, self.constants, strict=True):
            self._send(np.ascontiguousarray(array), address)
        self.instances: dict[tuple[tuple[str, int], ...], Instance] = {}
        weakref.finalize(self, _release, driver, memory, self.instances)

    def run(self, inputs: Sequence[np.ndarray], dims: Mapping[str, int]) -> tuple[np.ndarray, ...]:
        """The outputs in fresh memory. Raises NumericError where a kernel reports a status."""
        self.driver.enter()
        instance = self.instance(dims)
        for array, address in zip(inputs, instance.bases, strict=False):
            self._send(array, address)
        self._run(instance.parts, instance)
        return self._receive(instance)

    def _run(self, parts: Sequence[Part], instance: Instance, seconds: list[float] | None = None) -> None:
        """Runs parts in order; with `seconds`, launches one by one, and adds the time of each to that of its step."""
        for part in parts:
            match part:
                case Fault():
                    self._clear(instance)
                    raise part.error()
                case Repeated():
                    trips = 0
                    while trips < part.loop.trips and self._read(part.loop.condition, instance) == part.loop.expected:
                        self._run(part.parts, instance, seconds)
                        trips += 1
                case Stretch() if seconds is None:
                    self.driver.call("cuGraphLaunch", part.graph, self.driver.stream)
                case Stretch():
                    for item, parameters in part.work:
                        start = time.perf_counter()
                        self._enqueue(item, parameters, instance)
                        self.driver.call("cuStreamSynchronize", self.driver.stream)
                        seconds[item.step] += time.perf_counter() - start

    def _read(self, place: Place, instance: Instance) -> bool:
        """A bool of the device, once everything before it is done."""
        flag = np.zeros(1, np.uint8)
        self.driver.call("cuMemcpyDtoHAsync", flag.ctypes.data, _address(instance.bases, place), 1, self.driver.stream)
        self.driver.call("cuStreamSynchronize", self.driver.stream)
        return bool(flag[0])

    def profile(self, inputs: Sequence[np.ndarray], dims: Mapping[str, int]) -> list[float]:
        """Seconds of each step of one run, launched one by one."""
        self.driver.enter()
        instance = self.instance(dims)
        for array, address in zip(inputs, instance.bases, strict=False):
            self._send(array, address)
        seconds = [0.0] * len(self.program.steps)
        self._run(instance.parts, instance, seconds)
        self._receive(instance)
        return seconds

    def instance(self, dims: Mapping[str, int]) -> Instance:
        """The program at these dims: memory, parameters and graph are made at first use."""
        key = tuple(sorted(dims.items()))
        if key in self.instances:
            self.instances[key] = self.instances.pop(key)  # the least recently used is first
            return self.instances[key]
        while len(self.instances) >= KEPT_GRAPHS:
            _free(self.driver, self.instances.pop(next(iter(self.instances))))
        found = self.instances[key] = self._make(make_plan(self.program, self.kernels, dims), dims)
        return found

    def _make(self, plan: Plan, dims: Mapping[str, int]) -> Instance:
        inputs = [int(np.prod(t.concrete(dims), dtype=np.int64)) * t.dtype.bytes for t in self.program.inputs]
        outputs = [
            int(np.prod(s, dtype=np.int64)) * t.dtype.bytes
            for s, t in zip(plan.shapes, self.program.outputs, strict=True)
        ]
        for _, o in self.program.in_place:
            outputs[o] = 0
        status = 4 * max(len(plan.statuses), 1)
        offsets, total = _offsets([*inputs, *outputs, plan.arena + plan.between, status])
        memory = self.driver.call("cuMemAlloc", total)
        *given, own = (int(memory) + o for o in offsets)
        for i, o in self.program.in_place:
            given[len(inputs) + o] = given[i]
        instance = Instance(plan, [*given, *self.constants, own], memory)
        self._clear(instance)
        instance.parts = tuple(self._parts(plan.work, instance))
        return instance

    def _parts(self, work: Sequence[Work], instance: Instance) -> Iterator[Part]:
        for together, items in itertools.groupby(work, lambda w: isinstance(w, Launch | Copy)):
            if together:
                yield self._stretch([w for w in items if isinstance(w, Launch | Copy)], instance)
                continue
            for w in items:
                if isinstance(w, Loop):
                    yield Repeated(w, tuple(self._parts(w.work, instance)))
                elif isinstance(w, Fault):
                    yield w

    def _stretch(self, work: Sequence[Launch | Copy], instance: Instance) -> Stretch:
        """The CUDA graph of a stretch: what a stream would do, recorded."""
        packed = []
        for item in work:
            arguments = item.arguments if isinstance(item, Launch) else ()
            values = [_address(instance.bases, a) if isinstance(a, Place) else a for a in arguments]
            # Triton's functions take two pointers more: global and profile scratch, which ours don't use.
            packed.append((item, Parameters.pack([*values, 0, 0])))
        call, stream = self.driver.call, self.driver.stream
        call("cuStreamBeginCapture", stream, self.driver.api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        for item, parameters in packed:
            self._enqueue(item, parameters, instance)
        graph = call("cuStreamEndCapture", stream)
        made = call("cuGraphInstantiate", graph, 0)
        call("cuGraphDestroy", graph)
        return Stretch(tuple(packed), made)

    def _enqueue(self, item: Launch | Copy, parameters: Parameters, instance: Instance) -> None:
        call, stream = self.driver.call, self.driver.stream
        if isinstance(item, Copy):
            target, source = (_address(instance.bases, p) for p in (item.target, item.source))
            call("cuMemcpyDtoDAsync", target, source, item.bytes, stream)
            return
        cubin = self.cubins[item.kernel][item.function]
        function = self.functions[item.kernel][item.function]
        block = 32 * cubin.warps
        call("cuLaunchKernel", function, item.grid, 1, 1, block, 1, 1, cubin.shared, stream, parameters.address, 0)

    def _load(self, cubin: Cubin) -> Any:
        if cubin.scratch:
            raise GraphcError(f"{cubin.symbol} wants scratch memory of Triton's own", seen=cubin.scratch, expected=0)
        module = self.driver.call("cuModuleLoadData", cubin.code)
        function = self.driver.call("cuModuleGetFunction", module, cubin.symbol.encode())
        if cubin.shared > DEFAULT_SHARED:
            attribute = self.driver.api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self.driver.call("cuFuncSetAttribute", function, attribute, cubin.shared)
        return function

    def _send(self, array: np.ndarray, address: int) -> None:
        if array.nbytes:
            self.driver.call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self.driver.stream)

    def _clear(self, instance: Instance) -> None:
        """Forgets what kernels reported."""
        size = 4 * max(len(instance.plan.statuses), 1)
        self.driver.call("cuMemsetD8Async", instance.bases[-1], 0, size, self.driver.stream)

    def _receive(self, instance: Instance) -> tuple[np.ndarray, ...]:
        """The outputs, once the stream is done; raises what a status word says, and clears it."""
        call, stream, plan = self.driver.call, self.driver.stream, instance.plan
        first = len(self.program.inputs)
        outputs = []
        for n, (shape, type) in enumerate(zip(plan.shapes, self.program.outputs, strict=True)):
            array = np.empty(shape, type.dtype.numpy)
            if array.nbytes:
                call("cuMemcpyDtoHAsync", array.ctypes.data, instance.bases[first + n], array.nbytes, stream)
            outputs.append(array)
        status = np.zeros(len(plan.statuses), np.int32)
        if plan.statuses:
            call("cuMemcpyDtoHAsync", status.ctypes.data, instance.bases[-1], status.nbytes, stream)
        call("cuStreamSynchronize", stream)
        for step, code in zip(plan.statuses, status, strict=True):
            if code:
                self._clear(instance)
                raise status_error(step, int(code))
        return tuple(outputs)


def _free(driver: Driver, instance: Instance) -> None:
    _free_graphs(driver, instance.parts)
    driver.call("cuMemFree", instance.memory)


def _free_graphs(driver: Driver, parts: Sequence[Part]) -> None:
    for part in parts:
        if isinstance(part, Stretch):
            driver.call("cuGraphExecDestroy", part.graph)
        elif isinstance(part, Repeated):
            _free_graphs(driver, part.parts)


def _release(driver: Driver, memory: Any, instances: dict[tuple[tuple[str, int], ...], Instance]) -> None:
    """Gives back what a program had on the GPU."""
    driver.enter()
    for instance in instances.values():
        _free(driver, instance)
    driver.call("cuMemFree", memory)


def _address(bases: Sequence[int], place: Place) -> int:
    return bases[place.base] + place.offset


def _offsets(sizes: Sequence[int]) -> tuple[list[int], int]:
    """(where buffers lie one behind another, aligned; bytes of all)."""
    found, total = [], 0
    for size in sizes:
        found.append(total)
        total += -(-size // ALIGNMENT) * ALIGNMENT
    return found, max(total, ALIGNMENT)
