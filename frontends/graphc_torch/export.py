"""Modules and exported programs, brought to the operators that are converted whole and functional ones below them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.distributions import Distribution
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphc.errors import ModelError
from graphc_torch.converters import takes
from graphc_torch.recurrent_ops import KeepRecurrent
from graphc_torch.symbols import given_symbol
from graphc_torch.tensors import torch_tensor

Dynamic = Mapping[str, Mapping[int, Any]]


def exported_program(
    model: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None,
    dynamic: Dynamic | None,
    *,
    training: bool = False,
) -> ExportedProgram:
    """The model as a functional program in which what has a converter is kept whole.

    training: what the model computes without gradients (torch.no_grad) is detached.
    Raises ModelError for what torch.export can't take, for dims that aren't dynamic and for missing examples.
    """
    if isinstance(model, ExportedProgram):
        program = model
    elif isinstance(model, torch.nn.Module):
        program = _export(model, example_inputs, dynamic or {}, training)
        _detach_what_has_no_gradient(program)
    else:
        raise ModelError(
            "no model of PyTorch", seen=f"{type(model).__module__}.{type(model).__qualname__}",
            expected="a torch.nn.Module or a torch.export.ExportedProgram",
        )  # fmt: skip
    table = torch.export.default_decompositions()
    # Whole, an instance norm in training hides that it writes its running statistics.
    decomposed_in_training = {torch.ops.aten.instance_norm.default} if training else set()
    for op in [op for op in table if takes(op) and op not in decomposed_in_training]:
        del table[op]
    try:
        with _quiet():
            decomposed: ExportedProgram = program.run_decompositions(table)
            return decomposed
    except Exception as error:  # torch runs the model's operators, and custom ones may raise anything
        raise ModelError("torch can't decompose the program", seen=_said(error)) from error


def _export(
    model: torch.nn.Module, example_inputs: Sequence[Any] | Mapping[str, Any] | None, dynamic: Dynamic, training: bool
) -> ExportedProgram:
    if example_inputs is None:
        raise ModelError("a torch.nn.Module needs example inputs", hint="pass example_inputs=(x, ...)")
    if isinstance(example_inputs, Mapping):
        args, kwargs = (), dict(example_inputs)
    elif isinstance(example_inputs, Sequence):
        args, kwargs = tuple(example_inputs), {}
    else:
        raise ModelError(
            "example inputs are a tuple or a mapping", seen=type(example_inputs).__name__, hint="example_inputs=(x,)"
        )
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise ModelError("example inputs don't fit forward", seen=error) from error
    _as_tensors(bound)
    given = _named(bound)
    unknown = sorted(set(dynamic) - {name for name, x in given.items() if isinstance(x, torch.Tensor)})
    if unknown:
        raise ModelError("dynamic= names no input", seen=", ".join(unknown), expected=", ".join(sorted(given)))
    dims = {name: _torch_dims(name, given[name], axes) for name, axes in dynamic.items()}
    dims = _one_object_a_name(dims)
    examples = {name: _without_ones(x, name, dims) for name, x in given.items()}
    args, kwargs = _rebound(bound, examples)
    shapes = _arranged(bound, {name: dims.get(name) for name in given})
    try:
        with torch.set_grad_enabled(training), KeepRecurrent(), _unchecked_distributions(), _quiet():
            return torch.export.export(
                model, args, kwargs, dynamic_shapes=shapes if dims else None, strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,  # conditions on sizes become guards of the graph
            )  # fmt: skip
    except Exception as error:  # the model's own code runs here, and may raise anything
        raise ModelError(
            "torch.export can't take the model", layer=type(model).__name__, seen=_said(error),
            hint="run torch.export.export on it to see where" if not dims else "are all dims of dynamic= free?",
        ) from error  # fmt: skip


@contextmanager
def _unchecked_distributions() -> Iterator[None]:
    """Without the checks that torch.distributions makes of the data of a run."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings of its own code and of what its modules do, which no user can mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The tensor attributes? .*_flat_weights")
        warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg|torch")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="copyreg|torch")
        yield


def _said(error: Exception) -> str:
    """The first lines of a message, which torch follows with advice on itself."""
    text = f"{type(error).__name__}: {error}".strip()
    return "\n".join(line for line in text.split("\n\n")[0].splitlines()[:12])


def _detach_what_has_no_gradient(program: ExportedProgram) -> None:
    """Detaches the results of regions under torch.no_grad, which decomposition puts in place."""
    graph = program.graph
    without_gradient = torch.ops.higher_order.wrap_with_set_grad_enabled
    for region in [n for n in graph.nodes if n.target is without_gradient and n.args[0] is False]:
        for result in [u for u in region.users if isinstance(u.meta.get("val"), torch.Tensor)]:
            name = result.name
            with graph.inserting_after(result):
                detached = graph.call_function(torch.ops.aten.detach.default, (result,))
            detached.meta = dict(result.meta)
            result.replace_all_uses_with(detached, delete_user_cb=lambda user, own=detached: user is not own)
            result._rename(f"{name}_inner")
            detached._rename(name)  # the signature knows outputs by their names
    program.graph_module.recompile()


# Arguments by name


def _as_tensors(bound: inspect.BoundArguments) -> None:
    """Makes tensors of the arguments that are NumPy's."""
    for name, value in list(bound.arguments.items()):
        bound.arguments[name] = pytree.tree_map(lambda x: torch_tensor(x) if isinstance(x, np.ndarray) else x, value)


def _named(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Each argument by the name that its input has: those of *args are numbered."""
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}_{i}": v for i, v in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def _arranged(bound: inspect.BoundArguments, named: Mapping[str, Any]) -> dict[str, Any]:
    """What `named` has for each argument, in the form of forward's parameters."""
    arranged: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            arranged[name] = tuple(named[f"{name}_{i}"] for i in range(len(value)))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            arranged |= {key: named[key] for key in value}
        else:
            arranged[name] = named[name]
    return arranged


def _rebound(bound: inspect.BoundArguments, named: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with `named` values, positional where they were."""
    for name, value in list(bound.arguments.items()):
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            bound.arguments[name] = tuple(named[f"{name}_{i}"] for i in range(len(value)))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            bound.arguments[name] = {key: named[key] for key in value}
        else:
            bound.arguments[name] = named[name]
    return bound.args, bound.kwargs


# Dynamic dims


def _torch_dims(name: str, x: torch.Tensor, axes: Mapping[int, Any]) -> dict[int, Any]:
    """A torch.export.Dim for each axis that `dynamic` names; a plain size stays static."""
    dims: dict[int, Any] = {}
    for axis, dim in axes.items():
        if not isinstance(axis, int) or not -x.ndim <= axis < x.ndim:
            raise ModelError("dynamic= names no axis", layer=f"input {name!r}", seen=axis, expected=f"rank {x.ndim}")
        given = given_symbol(dim)
        if given is not None:
            dims[axis % x.ndim] = torch.export.Dim(given.name, min=given.low, max=given.high)
        elif isinstance(dim, int) and not isinstance(dim, bool):
            continue
        else:
            raise ModelError(
                "dynamic= gives no dim", layer=f"input {name!r}", seen=f"{dim!r} for axis {axis}",
                expected='graphc.Dim("name", low, high), a torch.export.Dim, a name, or an int',
            )  # fmt: skip
    return dims


def _one_object_a_name(dims: Mapping[str, dict[int, Any]]) -> dict[str, dict[int, Any]]:
    """The same dims, with one object for each name: so torch knows that they are equal. ModelError for two ranges."""
    chosen: dict[str, Any] = {}
    for name, axes in dims.items():
        for dim in axes.values():
            first = chosen.setdefault(dim.__name__, dim)
            if (first.min, first.max) != (dim.min, dim.max):
                raise ModelError(
                    f"the dim {dim.__name__} has two ranges", layer=f"input {name!r}",
                    seen=f"{dim.min} to {dim.max}", expected=f"{first.min} to {first.max}",
                )  # fmt: skip
    return {name: {axis: chosen[dim.__name__] for axis, dim in axes.items()} for name, axes in dims.items()}


def _without_ones(x: Any, name: str, dims: Mapping[str, Mapping[int, Any]]) -> Any:
    """The example repeated along dynamic axes of size 1, which torch would take for constant."""
    for axis, dim in dims.get(name, {}).items():
        size = max(2, int(dim.min))
        if x.shape[axis] == 1 and size <= dim.max:
            x = x.repeat_interleave(size, dim=axis)
    return x
