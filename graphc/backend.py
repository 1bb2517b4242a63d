"""What a backend and a frontend are: the protocols that plugins implement and the driver calls."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from graphc import config
from graphc.ir.graph import Graph, Node

if TYPE_CHECKING:
    from graphc.pipeline import Pass, PassContext
    from graphc.training.trainable import Trainable

Precision = Literal["f32", "bf16", "f16"]
Numerics = Literal["fast", "strict"]
Verify = Literal["off", "sample", "full"]


@dataclass(frozen=True)
class CompileOptions:
    """How to compile: see `graphc.compile`, whose arguments these are."""

    backend: str | tuple[str, ...] = "llvm"
    precision: Precision = "f32"
    numerics: Numerics = "fast"
    target: str | None = None
    threads: int | None = None
    verify: Verify = "off"
    cache: bool = True
    targets: tuple[tuple[str, str], ...] = ()
    """(backend, its target), where there are several backends."""
    tune: bool = False
    memory_budget: int | None = None
    """Bytes for the intermediates of a training step."""

    @property
    def backend_name(self) -> str:
        """The backend's name; of several, in order, joined by commas."""
        return self.backend if isinstance(self.backend, str) else ",".join(self.backend)

    def of_part(self, backend: str) -> CompileOptions:
        """The options of the parts that one of several backends runs: its name, its own target."""
        return replace(self, backend=backend, target=dict(self.targets).get(backend), targets=())

    def key(self) -> str:
        """A digest of everything that may change the compiled code (not `verify` or `cache`; `threads` where it is tuned for)."""
        parts = {k: v for k, v in asdict(self).items() if k not in ("verify", "cache", "threads")}
        if self.tune:
            parts["threads"] = self.threads or config.threads() or len(os.sched_getaffinity(0))
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class KernelReport:
    """One kernel call of a compiled program.

    name: what it does; origin: the source layers; key: equal keys share code; flops, bytes: per run, each buffer counted
    once; arithmetic: the element type that it computes with, "" for none; footprint: bytes that it goes over again and again
    where it is a loop, 0: it goes over `bytes` once; bands: parts that it is run in, in turn with others."""

    name: str
    origin: tuple[str, ...]
    key: str
    flops: int = 0
    bytes: int = 0
    arithmetic: str = ""
    footprint: int = 0
    bands: int = 1


@dataclass(frozen=True)
class Limits:
    """What a device can do at best.

    flops: operations a second, by element type; bandwidth: (most bytes, bytes a second that data of that size is read
    with), smallest first; the last, without a bound, is main memory.
    """

    flops: Mapping[str, float]
    bandwidth: Sequence[tuple[int | None, float]]

    def seconds(self, kernel: KernelReport) -> float | None:
        """The least time that a kernel can take; None where its arithmetic has no known rate."""
        if kernel.flops and kernel.arithmetic not in self.flops:
            return None
        size = kernel.footprint or kernel.bytes
        rate = next(r for most, r in self.bandwidth if most is None or size <= most)
        return max(kernel.flops / self.flops[kernel.arithmetic] if kernel.flops else 0.0, kernel.bytes / rate)


@dataclass(frozen=True)
class KernelTime:
    """A kernel call of one run: what it did at the run's dims, and the seconds that it took.

    limits: of the device, None where the backend states none; backend: who ran it, where there are several.
    """

    kernel: KernelReport
    seconds: float
    limits: Limits | None = None
    backend: str = ""


@dataclass(frozen=True)
class MemoryReport:
    """Bytes that a run needs: `arena` for intermediates, `constants` for prepared weights, `scratch` for all threads."""

    arena: int
    constants: int
    scratch: int = 0

    @property
    def peak(self) -> int:
        """Everything but the caller's inputs and outputs."""
        return self.arena + self.constants + self.scratch


class Segment(Protocol):
    """Compiled code for a whole graph (or a part of one), immutable and thread-safe."""

    @property
    def stages(self) -> Mapping[str, str]:
        """Text of the graph and the code at named stages: "fused", "prepare", "loops", ..."""
        ...

    @property
    def kernels(self) -> Sequence[KernelReport]:
        """The kernel calls of one run, in order."""
        ...

    @property
    def direct(self) -> Callable[[tuple[Any, ...]], tuple[np.ndarray, ...] | None] | None:
        """A quick `run` for NumPy arrays that fit as they are, None where one doesn't (nothing ran); None: there is none."""
        ...

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """The outputs, in fresh memory, or in that of inputs donated to them. Inputs are checked and C-contiguous, in the
        graph's order; donated ones share memory with no other."""
        ...

    def profile(self, inputs: Sequence[np.ndarray]) -> Sequence[KernelTime]:
        """Each kernel call of one run, in the order of `kernels`, at the run's dims, with its time."""
        ...

    def memory(self, dims: Mapping[str, int]) -> MemoryReport:
        """What a run at these values of the symbols needs."""
        ...


class Backend(Protocol):
    """Turns graphs into segments. An object under the entry-point group `graphc.backends`."""

    name: str

    def supports(self, node: Node) -> str | None:
        """None if it takes the node as it is; else why not (a composite is then decomposed, a primitive refused)."""
        ...

    def pipeline(self, options: CompileOptions) -> Sequence[str | Pass]:
        """The passes that prepare a graph for `compile`, by name or as values, in order."""
        ...

    def compile(self, graph: Graph, options: CompileOptions, context: PassContext) -> Segment:
        """Lowers a graph that went through the pipeline. Raises UnsupportedOpError with all reasons at once."""
        ...

    def store(self, segment: Segment, key: str) -> None:
        """Keeps compiled code in the user's cache, under a key that stands for graph and options."""
        ...

    def restore(self, key: str, graph: Graph, options: CompileOptions) -> Segment | None:
        """The segment that was stored under `key`, with the graph's constants as its weights; None if there is none."""
        ...


class Frontend(Protocol):
    """Turns a model into a graph. An object under the entry-point group `graphc.frontends`."""

    def import_model(
        self,
        model: Any,
        *,
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
        dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    ) -> Graph:
        """The model as a verified graph. Raises ModelError or UnsupportedOpError, with the layers."""
        ...

    def import_training(
        self,
        model: Any,
        *,
        example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
        dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    ) -> Trainable:
        """The model in training mode. Raises as `import_model`. A frontend for inference alone has no such method."""
        ...


@dataclass
class CompileReport:
    """What compilation did: one entry a pass, the rules that almost applied with reasons, and the seconds of each stage.

    partition: the parts that several backends run, and the copies between them; empty for one backend.
    given_passes: whether passes given by hand replaced the backend's own, which no artifact can tell.
    """

    passes: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    cached: bool = False
    partition: dict[str, Any] = field(default_factory=dict)
    given_passes: bool = False
