"""From a model to an executable: import, passes, backend."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from graphc import plugins
from graphc.arguments import Expected, as_arrays
from graphc.backend import Backend, CompileOptions, CompileReport, Frontend, Numerics, Precision, Segment, Verify
from graphc.collector import paused_collector
from graphc.errors import GraphcError, PluginError, ShapeError
from graphc.executable import Executable
from graphc.ir.graph import Graph, Value
from graphc.ir.text import operators_of, print_structure, weights_of
from graphc.ir.verifier import verify as verify_graph
from graphc.ops import core_operators
from graphc.partitioned import compile_parts
from graphc.pipeline import Pass, PassContext, PassManager, resolve_passes
from graphc.training.trainable import Trainable, trainable_graph
from graphc.version import __version__


@paused_collector()
def import_model(
    model: Any,
    *,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
) -> Graph:
    """The graph of a model: a path, a framework's object, or a Graph (verified and returned as it is).

    `dynamic` makes input axes symbolic: {"input": {0: Dim("batch", 1, 64)}}; a Graph has the dims that it has. Raises
    ModelError or UnsupportedOpError.
    """
    check_dynamic(dynamic)
    if isinstance(model, Graph):
        _check_own_dims(dynamic)
        if example_inputs is not None:
            check_examples(model.inputs, example_inputs)
        verify_graph(model)
        return model
    frontend = cast(Frontend, plugins.find(plugins.FRONTENDS, plugins.frontend_for(model)))
    graph = frontend.import_model(model, example_inputs=example_inputs, dynamic=dynamic)
    verify_graph(graph)
    return graph


@paused_collector()
def import_training(
    model: Any,
    *,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
) -> Trainable:
    """The model as a function of data, parameters and state; a Graph's float weights are its parameters.

    Raises ModelError or UnsupportedOpError, and GraphcError where the model's frontend imports for inference alone, and
    where `dynamic` is given with a Graph, which has the dims that it has.
    """
    check_dynamic(dynamic)
    if isinstance(model, Trainable | Graph):
        _check_own_dims(dynamic)
        trainable = model if isinstance(model, Trainable) else trainable_graph(model)
    else:
        name = plugins.frontend_for(model)
        frontend = cast(Frontend, plugins.find(plugins.FRONTENDS, name))
        if not hasattr(frontend, "import_training"):
            raise GraphcError(f"the frontend {name!r} imports models for inference alone", seen=type(model).__name__)
        trainable = frontend.import_training(model, example_inputs=example_inputs, dynamic=dynamic)
    verify_graph(trainable.graph)
    if isinstance(model, Trainable | Graph) and example_inputs is not None:
        check_examples(trainable.data_inputs, example_inputs)
    return trainable


def check_dynamic(dynamic: Any) -> None:
    """Raises GraphcError where `dynamic` isn't of the form that it has everywhere."""
    if dynamic is None or (isinstance(dynamic, Mapping) and all(isinstance(a, Mapping) for a in dynamic.values())):
        return
    expected = '{"input": {0: graphc.Dim("batch", 1, 64)}}'
    raise GraphcError("dynamic= isn't of its form", seen=repr(dynamic), expected=expected)


def _check_own_dims(dynamic: Mapping[str, Mapping[int, Any]] | None) -> None:
    """Raises GraphcError where `dynamic` asks for dims that a graph doesn't have."""
    if dynamic:
        hint = "declare it where the graph is built: b.input(name, f32, (graphc.Dim(\"batch\"), 10))"
        raise GraphcError("a graph's dims are its own", seen=f"dynamic={dynamic!r}", expected="no dynamic=", hint=hint)


def check_examples(inputs: Sequence[Value], examples: Sequence[Any] | Mapping[str, Any]) -> None:
    """Raises ShapeError unless there is an example for each input of a graph, of its type where it is an array."""
    names = ", ".join(v.name for v in inputs)
    if isinstance(examples, Mapping):
        if set(examples) != {v.name for v in inputs}:
            raise ShapeError("example inputs aren't those of the graph", seen=", ".join(map(str, examples)), expected=names)
        examples = [examples[v.name] for v in inputs]
    if len(examples) != len(inputs):
        raise ShapeError("example inputs aren't as many as the graph's", seen=len(examples), expected=f"{len(inputs)} ({names})")
    as_arrays(examples, [Expected(v.name, v.type) for v in inputs])


def run_passes(
    graph: Graph, passes: Sequence[str | Pass], *, verify: Verify = "off", numerics: Numerics = "fast"
) -> Graph:
    """A copy of `graph` after the passes, by name or as values, in order."""
    copy, _ = graph.clone()
    PassManager(resolve_passes(passes), verify=verify).run(copy, PassContext(numerics=numerics))
    return copy


@paused_collector()
def compile(
    model: Any,
    backend: str | Backend | Sequence[str | Backend] = "llvm",
    *,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    precision: Precision = "f32",
    numerics: Numerics = "fast",
    target: str | Mapping[str, str] | None = None,
    threads: int | None = None,
    passes: Sequence[str | Pass] | None = None,
    verify: Verify = "off",
    cache: bool = True,
    tune: bool = False,
) -> Executable:
    """An executable of `model`.

    model: a path to an ONNX file, a ModelProto, an nn.Module, any object that an installed frontend takes, or a Graph.
    example_inputs: what a model that must be traced is called with, by position or by name.
    dynamic: the axes of inputs that are dynamic, {"input": {0: Dim("batch", 1, 64)}}.
    backend: an installed backend's name, or a backend; what it can't do raises UnsupportedOpError, nothing falls back.
        Several: each node runs on the first that can do it; `explain()` tells the parts and the copies between them.
    precision: "f32" leaves the model's own types; with "bf16" or "f16", products (dense layers, convolutions) of f32
        multiply numbers of that type and sum in f32; everything else stays f32, in strict numerics as in fast.
    numerics: "fast" may reassociate floats; "strict" may not (NaN and infinities are honoured in both).
    target: the CPU or GPU to compile for (default: this machine); by backend, where there are several.
    threads: how many to use (default: all it may).
    passes: replaces the backend's own pipeline. verify: checks each pass against the interpreter on generated inputs.
    cache: reuse and keep compiled code in the user's cache.
    tune: where something can be done in several ways, measure them on this machine instead of predicting, and remember the
        choice in the user's cache; takes seconds more, once a layer's shape. For backends that can: llvm.
    """
    chosen = [backend] if isinstance(backend, str) or not isinstance(backend, Sequence) else list(backend)
    for b in chosen:
        if not isinstance(b, str) and not (hasattr(b, "name") and hasattr(b, "compile")):
            raise GraphcError("this is no backend", seen=repr(b), expected="an installed backend's name, or a backend")
    names = tuple(b if isinstance(b, str) else b.name for b in chosen)
    if not names or len(set(names)) < len(names):
        raise GraphcError("backends must differ, and be one at least", seen=names)
    if (len(names) > 1 and isinstance(target, str)) or (len(names) == 1 and isinstance(target, Mapping)):
        expected = "a mapping by backend for several backends, a name for one"
        raise GraphcError("the target doesn't fit the backends", seen=target, expected=expected)
    options = CompileOptions(names[0] if len(names) == 1 else names, precision, numerics, None, threads, verify, cache, tune=tune)
    if isinstance(target, Mapping):
        options = replace(options, targets=tuple(sorted(target.items())))
    elif target is not None:
        options = replace(options, target=target)
    start = time.perf_counter()
    graph = import_model(model, example_inputs=example_inputs, dynamic=dynamic)
    imported = time.perf_counter() - start
    executable = compile_graph(graph, options, passes, [b for b in chosen if not isinstance(b, str)])
    executable.report.seconds["import"] = imported
    return executable


@paused_collector()
def compile_graph(
    graph: Graph,
    options: CompileOptions,
    passes: Sequence[str | Pass] | None = None,
    given: Sequence[Backend] = (),
) -> Executable:
    """An executable of a verified graph; the graph itself is left as it is. `given`: backends that aren't installed."""
    if options.precision not in ("f32", "bf16", "f16"):
        raise GraphcError("there is no such precision", seen=options.precision, expected='"f32", "bf16" or "f16"')
    if options.numerics not in ("fast", "strict"):
        raise GraphcError("there is no such numerics mode", seen=options.numerics, expected='"fast" or "strict"')
    if options.threads is not None and not (isinstance(options.threads, int) and options.threads >= 1):
        raise GraphcError("no such number of threads", seen=repr(options.threads), expected="1 or more, or None")
    names = (options.backend,) if isinstance(options.backend, str) else options.backend
    uninstalled = {b.name: b for b in given}
    backends = [uninstalled[n] if n in uninstalled else installed_backend(n) for n in names]
    if options.tune and not any(getattr(b, "tunes", False) for b in backends):
        raise GraphcError("the backend has nothing to tune", seen=", ".join(names), hint='compile with backend="llvm"')
    report = CompileReport(given_passes=passes is not None)
    if len(backends) == 1:
        return Executable(graph, _compile_part(graph, options, backends[0], passes, report), options, report)

    reports: dict[int, CompileReport] = {}

    def compile_part(part: Graph, number: int) -> Segment:
        own = CompileReport()
        segment = _compile_part(part, options.of_part(names[number]), backends[number], passes, own)
        reports[id(segment)] = own
        return segment

    segment, reasons = compile_parts(graph, backends, compile_part)
    parts = [reports[id(made)] for _, made in segment.steps]
    report.passes = [p for r in parts for p in r.passes]
    report.refusals = [*(x for r in parts for x in r.refusals), *reasons]
    report.seconds = {stage: sum(r.seconds.get(stage, 0.0) for r in parts) for r in parts for stage in r.seconds}
    report.cached = bool(parts) and all(r.cached for r in parts)
    report.partition = segment.describe()
    return Executable(graph, segment, options, report)


def _compile_part(
    graph: Graph, options: CompileOptions, backend: Backend, passes: Sequence[str | Pass] | None, report: CompileReport
) -> Segment:
    """One backend's segment of a graph, or of a part of one, from the cache where it is there; fills the report."""
    # Code of operators from elsewhere may change without a sign of it: programs with them aren't kept.
    known = operators_of(graph).keys() <= core_operators().keys()
    cachable = options.cache and options.verify == "off" and passes is None and known
    key = cache_key(graph, options) if cachable else ""
    if cachable:
        start = time.perf_counter()
        segment = backend.restore(key, graph, options)
        if segment is not None:
            report.cached = True
            report.seconds["restore"] = time.perf_counter() - start
            return segment
    context = PassContext(
        numerics=options.numerics, precision=options.precision, target=options.target, backend=backend, weights=weights_of(graph)
    )  # fmt: skip
    start = time.perf_counter()
    optimized, _ = graph.clone()
    pipeline = resolve_passes(backend.pipeline(options) if passes is None else passes)
    if options.precision != "f32" and not any(p.name == "mixed-precision" for p in pipeline):
        hint = "the pass mixed-precision, which no pass of this pipeline is, sees to it"
        raise GraphcError(
            f"the {backend.name} backend computes in f32 here", seen=f'precision="{options.precision}"', hint=hint
        )
    if options.memory_budget is not None and not any(p.name == "rematerialize" for p in pipeline):
        raise GraphcError(f"the {backend.name} backend takes no memory budget", hint="the backends llvm and triton take one")
    PassManager(pipeline, verify=options.verify).run(optimized, context)
    report.seconds["passes"] = time.perf_counter() - start
    start = time.perf_counter()
    segment = backend.compile(optimized, options, context)
    report.seconds["backend"] = time.perf_counter() - start
    report.passes = [
        {
            "name": r.name, "graph": r.graph, "claim": r.claim.kind, "bound": r.claim.bound,
            "changed": r.changed, "seconds": r.seconds, "stats": dict(r.stats),
        }
        for r in context.records
    ]  # fmt: skip
    report.refusals = [str(r) for r in context.refusals]
    if cachable and not context.literal_like_weight and not context.unfinished:
        backend.store(segment, key)
    return segment


def installed_backend(name: str) -> Backend:
    """The backend of that name. Raises PluginError where there is none, or it isn't one."""
    found: Any = plugins.find(plugins.BACKENDS, name)
    if getattr(found, "name", None) != name or not callable(getattr(found, "compile", None)):
        raise PluginError(f"the plugin {name!r} in {plugins.BACKENDS} is no backend of that name", seen=repr(found))
    return cast(Backend, found)


def cache_key(graph: Graph, options: CompileOptions) -> str:
    """What compiled code depends on: the graph without its weights' values, operators' versions, options, our version."""
    parts = (print_structure(graph), str(operators_of(graph)), options.key(), __version__)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def load(path: str | os.PathLike[str], *, threads: int | None = None, cache: bool = True) -> Executable:
    """The executable that `save` wrote, lowered again from its IR, or found in the user's own cache.

    Raises ArtifactError for a damaged or foreign file. Nothing in the file is run.
    """
    from graphc.artifact import load as load_artifact

    return load_artifact(path, threads=threads, cache=cache)
