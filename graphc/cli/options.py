"""Options that several commands share: which model, compiled how, on which inputs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc.cli.report import progress
from graphc.errors import GraphcError

if TYPE_CHECKING:
    import numpy as np

    from graphc.executable import Executable
    from graphc.ir.graph import Graph

ARTIFACT = ".graphc"


def add_model(parser: argparse.ArgumentParser, *, artifacts: bool = True) -> None:
    """The model, and how to compile it."""
    what = "an ONNX file, or an artifact made by `graphc compile`" if artifacts else "an ONNX file"
    parser.add_argument("model", type=Path, help=what)
    add_compile_options(parser)
    parser.add_argument(
        "--dynamic", action="append", default=[], metavar="INPUT:AXIS=NAME[:LOW:HIGH]", type=dynamic_axis,
        help="make an input's axis a dynamic dim; may be repeated (a file's own dim_params are dynamic as they are)",
    )  # fmt: skip


def add_compile_options(parser: argparse.ArgumentParser) -> None:
    """How to compile."""
    parser.add_argument("--backend", help="an installed backend, or several with commas between them (default: llvm)")
    parser.add_argument("--threads", type=positive, help="how many to use (default: all that the process may)")
    parser.add_argument(
        "--precision", choices=("f32", "bf16", "f16"), help="of the numbers that products multiply (default: f32)"
    )
    parser.add_argument("--numerics", choices=("fast", "strict"), help="strict: no reassociation of floats")
    parser.add_argument("--target", help="the machine to compile for (default: this one)")
    parser.add_argument("--tune", action="store_true", help="measure where there is a choice, instead of predicting")
    parser.add_argument("--no-cache", action="store_true", help="neither use nor keep compiled code in the cache")


def add_dims(parser: argparse.ArgumentParser) -> None:
    """Values for dynamic dims of generated inputs."""
    parser.add_argument(
        "--dim", action="append", default=[], metavar="NAME=SIZE", type=size_of_dim,
        help="the size of a dynamic dim (default: its smallest); may be repeated",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of generated inputs (default: 0)")


def import_graph(arguments: argparse.Namespace) -> Graph:
    """The graph of the model file, without compiling it."""
    from graphc.driver import import_model

    if is_artifact(arguments):
        return executable_of(arguments).graph
    _check_is_file(arguments.model)
    with progress(arguments, f"reading {arguments.model}"):
        return import_model(arguments.model, dynamic=_by_input(arguments.dynamic))


def is_artifact(arguments: argparse.Namespace) -> bool:
    """Whether the model is a compiled one."""
    return bool(arguments.model.suffix == ARTIFACT)


def executable_of(arguments: argparse.Namespace, **overrides: Any) -> Executable:
    """The model compiled as asked for, or loaded."""
    from graphc.driver import compile, load

    _check_is_file(arguments.model)
    cache = not arguments.no_cache
    if is_artifact(arguments):
        fixed = [n for n in ("backend", "precision", "numerics", "target", "dynamic", "tune") if getattr(arguments, n)]
        if fixed:
            raise GraphcError(
                "an artifact keeps the options that it was compiled with",
                seen=", ".join(f"--{n}" for n in fixed),
                hint="compile the model again with them",
            )
        with progress(arguments, f"loading {arguments.model}"):
            return load(arguments.model, threads=arguments.threads, cache=cache)
    with progress(arguments, f"compiling {arguments.model}"):
        options = {**compile_options(arguments), **overrides}
        return compile(arguments.model, dynamic=_by_input(arguments.dynamic), **options)


def compile_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `graphc.compile` that the command line gives."""
    return {
        "backend": (arguments.backend or "llvm").split(","), "precision": arguments.precision or "f32",
        "numerics": arguments.numerics or "fast", "target": arguments.target, "threads": arguments.threads,
        "cache": not arguments.no_cache, "tune": arguments.tune,
    }  # fmt: skip


def random_inputs(graph: Graph, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Seeded inputs by name: normal floats, integers and booleans of 0 and 1, at the dims asked for."""
    import numpy as np

    dims = dims_of(graph, dict(arguments.dim))
    rng = np.random.default_rng(arguments.seed)
    found = {}
    for v in graph.inputs:
        shape = v.type.concrete(dims)
        values = rng.standard_normal(shape) if v.type.dtype.is_float else rng.integers(0, 2, shape)
        found[v.name] = np.asarray(values).astype(v.type.dtype.numpy)
    return found


def dims_of(graph: Graph, given: dict[str, int]) -> dict[str, int]:
    """A size for each dynamic dim of the inputs: as given, else the smallest, but never 0."""
    from graphc.cones import symbols_of_inputs

    symbols = symbols_of_inputs(graph)
    unknown = sorted(set(given) - set(symbols))
    if unknown:
        known = ", ".join(symbols) or "none"
        raise GraphcError("there is no such dynamic dim", seen=", ".join(unknown), expected=known)
    return {name: given.get(name, max(s.low, 1)) for name, s in symbols.items()}


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        raise GraphcError("there is no such file", seen=path)


def _by_input(entries: list[tuple[str, int, Any]]) -> dict[str, dict[int, Any]] | None:
    found: dict[str, dict[int, Any]] = {}
    for name, axis, dim in entries:
        found.setdefault(name, {})[axis] = dim
    return found or None


def dynamic_axis(text: str) -> tuple[str, int, Any]:
    """`data:0=batch:1:64` as ("data", 0, the dim)."""
    from graphc.ir.symbolic import symbol

    head, _, tail = text.partition("=")
    name, _, axis = head.rpartition(":")
    dim, *limits = tail.split(":")
    if not name or not dim or len(limits) not in (0, 2):
        raise argparse.ArgumentTypeError(f"{text!r} isn't INPUT:AXIS=NAME or INPUT:AXIS=NAME:LOW:HIGH")
    low, high = (int(x) for x in limits) if limits else (1, None)
    return name, int(axis), symbol(dim, low, high)


def size_of_dim(text: str) -> tuple[str, int]:
    name, _, size = text.partition("=")
    return name, int(size)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value
