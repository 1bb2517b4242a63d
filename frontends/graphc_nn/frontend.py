"""Models written in Python as graphs: for inference, with parameters as constants, or for training, as inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import GraphcError, ModelError
from graphc.ir.graph import Graph
from graphc.ir.symbolic import Dim, Expr
from graphc.ir.types import TensorType, dtype_of
from graphc.training.trainable import Arrays, Trainable
from graphc_nn.module import Module, Parameter, State
from graphc_nn.tensor import Tensor, Trace

Dynamic = Mapping[str, Mapping[int, Any]] | None


class NnFrontend:
    """The plugin: takes instances of `graphc_nn.Module`."""

    def import_model(self, model: Any, *, example_inputs: Any = None, dynamic: Dynamic = None) -> Graph:
        """The model for inference; inputs have the names of forward's parameters."""
        checked = _checked(model)
        return _inference(checked, _types(checked, example_inputs, dynamic), {**checked.parameters, **checked.state})

    def import_training(self, model: Any, *, example_inputs: Any = None, dynamic: Dynamic = None) -> Trainable:
        """The model for training: layers such as dropout and batch norm behave so."""
        checked = _checked(model)
        types = _types(checked, example_inputs, dynamic)
        parameters, state = checked.parameters, checked.state
        trace = _trace(checked, training=True)
        data = [trace.graph.add_input(n, t) for n, t in types.items()]
        held = dict(checked.held())
        for kind in (Parameter, State):
            for name, h in held.items():
                if isinstance(h, kind):
                    trace.held[id(h)] = trace.graph.add_input(name, TensorType(h.dtype, h.shape))
        outputs = _run(checked, trace, {v.name: Tensor(trace, v) for v in data})
        states = [h for h in held.values() if isinstance(h, State)]
        trace.graph.set_outputs([*(t.value for t in outputs), *(trace.value(s) for s in states)])
        return Trainable(
            trace.graph, len(data), parameters, state, trace.key is not None,
            lambda values: _inference(checked, types, values), lambda values: checked.load(dict(values)),
        )  # fmt: skip


FRONTEND = NnFrontend()


def _checked(model: Any) -> Module:
    if not isinstance(model, Module):
        raise ModelError("no model of graphc_nn", seen=type(model).__name__, expected="an instance of graphc_nn.Module")
    return model


def _trace(model: Module, *, training: bool) -> Trace:
    return Trace({id(m): path for path, m in model.modules()}, training)


def _inference(model: Module, types: Mapping[str, TensorType], values: Arrays) -> Graph:
    trace = _trace(model, training=False)
    data = {n: Tensor(trace, trace.graph.add_input(n, t)) for n, t in types.items()}
    for name, held in model.held():
        trace.builder.origin = (name,)
        trace.held[id(held)] = trace.builder.constant(np.ascontiguousarray(values[name]), name=name)
    trace.builder.origin = ()
    trace.graph.set_outputs([t.value for t in _run(model, trace, data)])
    for node in reversed(trace.graph.nodes):
        if node.op.name == "constant" and not node.result.uses:
            trace.graph.erase(node)
    return trace.graph


def _run(model: Module, trace: Trace, data: Mapping[str, Tensor]) -> list[Tensor]:
    made = model(**data)
    outputs = list(made) if isinstance(made, (list, tuple)) else [made]
    if not outputs or not all(isinstance(t, Tensor) for t in outputs):
        raise ModelError("forward must return tensors", layer=type(model).__name__, seen=type(made).__name__)
    return outputs


def _types(model: Module, examples: Any, dynamic: Dynamic) -> dict[str, TensorType]:
    """The inputs' types by the names of forward's parameters."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if examples is None:
        raise ModelError("a model written in Python needs example inputs", hint="pass example_inputs=(x, ...)")
    given = dict(examples) if isinstance(examples, Mapping) else dict(_named(names, examples))
    unknown = sorted(set(given) - set(names)) + sorted(set(dynamic or {}) - set(given))
    if unknown:
        raise ModelError("forward has no such input", seen=", ".join(unknown), expected=", ".join(names))
    missing = [p.name for p in parameters if p.name in names and p.default is p.empty and p.name not in given]
    if missing or not given:
        raise ModelError(
            "example inputs lack some of forward's", seen=", ".join(given), expected=", ".join(missing or names)
        )
    return {n: _type(n, given[n], (dynamic or {}).get(n, {})) for n in names if n in given}


def _named(names: list[str], examples: Sequence[Any]) -> list[tuple[str, Any]]:
    if not isinstance(examples, Sequence) or len(examples) > len(names):
        raise ModelError("example inputs don't fit forward", seen=len(examples), expected=", ".join(names))
    return list(zip(names, examples, strict=False))


def _type(name: str, example: Any, axes: Mapping[int, Any]) -> TensorType:
    if not hasattr(example, "__dlpack__"):
        raise ModelError("an example input is no array", layer=f"input {name!r}", seen=type(example).__name__)
    array = example if isinstance(example, np.ndarray) else np.from_dlpack(example)
    shape: list[Dim] = list(array.shape)
    for axis, dim in axes.items():
        if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
            raise GraphcError(
                "dynamic= names no axis", layer=f"input {name!r}", seen=axis, expected=f"rank {len(shape)}"
            )
        if not isinstance(dim, (int, Expr)):
            raise GraphcError("dynamic= gives no dim", layer=f"input {name!r}", seen=dim, expected="a graphc.Dim")
        shape[axis] = dim
    return TensorType(dtype_of(array), tuple(shape))
