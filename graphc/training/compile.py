"""`compile_training`: from a model, a loss and an optimizer to a training step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from graphc.backend import Backend, CompileOptions, Numerics, Precision, Verify
from graphc.collector import paused_collector
from graphc.driver import check_dynamic, compile_graph, import_training
from graphc.errors import GraphcError, ShapeError
from graphc.ir.symbolic import Dim, Expr
from graphc.ir.types import TensorType, dtype_of
from graphc.ir.verifier import verify as verify_graph
from graphc.training.build import build_step
from graphc.training.entries import entries_of
from graphc.training.hyperparameters import COUNT, SEED, Optional, check_value
from graphc.training.losses import loss_of
from graphc.training.losses.loss import Loss
from graphc.training.optimizers.optimizer import Optimizer
from graphc.training.recipe import Group, Metric, Penalty, Recipe
from graphc.training.step import TrainingStep
from graphc.training.trainable import Trainable


@paused_collector()
def compile_training(
    model: Any,
    *,
    loss: str | Loss | None,
    optimizer: Optimizer,
    example_inputs: Sequence[Any],
    backend: str | Backend = "llvm",
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    groups: Sequence[Group] = (),
    frozen: Sequence[str] = (),
    penalty: Penalty | None = None,
    metrics: Mapping[str, Metric] | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    accumulate: int = 1,
    average: float | None = None,
    loss_scale: float | Literal["dynamic"] | None = None,
    memory_budget: int | None = None,
    seed: int = 0,
    precision: Precision = "f32",
    numerics: Numerics = "fast",
    target: str | None = None,
    threads: int | None = None,
    verify: Verify = "off",
    cache: bool = True,
) -> TrainingStep:
    """A step that trains `model`: forward, loss, backward and update as one compiled program.

    model: what `graphc.compile` takes; a torch module in train() mode as it is.
    loss: its name ("cross_entropy", "mse", ...), a Loss, or None: the model's first output is the loss.
    optimizer: graphc.Adam(1e-3), ...; its rate may be a schedule, of the number of updates made.
    example_inputs: the model's inputs, then the loss's targets; their shapes and dtypes count, not their values.
    dynamic: the axes of inputs that are dynamic, {"x": {0: Dim("batch", 1, 64)}}; targets are called target0, target1, ...
        and have the first input's dynamic first axis if theirs is of the same size.
    groups: parameters with an optimizer of their own; the first group whose patterns fit takes a parameter.
    frozen: patterns of parameters that stay as they are.
    penalty: a term of the loss that depends on parameters, as graphc.training.regularization makes them.
    metrics: numbers computed in the same run, by name; see `TrainingStep.metrics`.
    clip_value, clip_norm: bounds on each element of the gradients, and on the norm of all.
    accumulate: an update is made after so many batches, of the mean of their gradients.
    average: the decay of moving averages of the parameters (0.999), which `inference(average=True)` takes.
    loss_scale: by what the loss is multiplied for the backward pass; "dynamic" finds it, and leaves out an update whose
        gradients aren't finite. The default for precision "f16" is "dynamic".
    memory_budget: bytes that intermediates may take at once, parameters and optimizer state aside: the backward pass computes
        values again so far as that needs; `explain()` tells what. Raises GraphcError, with the least possible, where it can't.
    seed: of the model's random numbers: equal seeds, equal bits.
    The rest is as in `graphc.compile`. Raises GraphcError and its kinds: ModelError, UnsupportedOpError with the layers that
    can't be trained, ShapeError where loss and model don't fit.
    """
    chosen = loss_of(loss)
    for what, listed in (("frozen", frozen), ("groups", groups)):
        if isinstance(listed, str) or not isinstance(listed, Iterable):  # a text's letters would be patterns
            raise GraphcError(f"{what} is a list", seen=repr(listed))
    check_dynamic(dynamic)
    if not isinstance(example_inputs, list | tuple):
        expected = "a tuple: the model's inputs, then the loss's targets"
        raise GraphcError("no example inputs", seen=type(example_inputs).__name__, expected=expected)
    if not isinstance(backend, str) and not (hasattr(backend, "name") and hasattr(backend, "compile")):
        expected = "an installed backend's name, or a backend: a step is one program of one"
        raise GraphcError("this is no backend of a training step", seen=repr(backend), expected=expected)
    check_value("seed", seed, SEED)
    check_value("memory_budget", memory_budget, Optional(COUNT))
    if loss_scale is None and precision == "f16":
        loss_scale = "dynamic"
    recipe = Recipe(
        chosen, optimizer, tuple(groups), tuple(frozen), penalty, metrics or {}, clip_norm, clip_value, accumulate,
        average, loss_scale,
    )  # fmt: skip
    count = chosen.targets if chosen is not None else 0
    if len(example_inputs) < count:
        raise GraphcError("example inputs lack the targets", seen=len(example_inputs), expected=f"at least {count}")
    inputs, targets = example_inputs[: len(example_inputs) - count], example_inputs[len(example_inputs) - count :]
    axes = dict(dynamic or {})
    of_targets = [axes.pop(f"target{i}", {}) for i in range(count)]
    trainable = import_training(model, example_inputs=inputs, dynamic=axes or None)
    if trainable.data != len(inputs) and all(hasattr(x, "shape") for x in inputs):  # what is nested, a frontend takes apart
        expected = f"{trainable.data} ({', '.join(v.name for v in trainable.data_inputs)}), then {count} targets"
        raise ShapeError("example inputs aren't as many as the model's", seen=len(inputs), expected=expected)
    arrays = [_target(f"target{i}", t) for i, t in enumerate(targets)]
    types = [_target_type(t, own, inputs, trainable) for t, own in zip(arrays, of_targets, strict=True)]
    options = CompileOptions(
        backend if isinstance(backend, str) else backend.name, precision, numerics, target, threads, verify, cache,
        memory_budget=memory_budget,
    )  # fmt: skip
    entries = entries_of(trainable, recipe, seed)
    programs = []
    for update in (True, False)[: 1 if accumulate == 1 else 2]:
        step = build_step(trainable, recipe, entries, types, update=update)
        verify_graph(step.graph)
        given = () if isinstance(backend, str) else (backend,)
        programs.append((step, compile_graph(step.graph, options, given=given)))
    return TrainingStep(trainable, recipe, entries, programs)


def _target(name: str, example: Any) -> np.ndarray:
    if isinstance(example, np.ndarray):
        return example
    try:
        return np.from_dlpack(example)
    except (AttributeError, BufferError, RuntimeError, TypeError) as error:
        raise ShapeError(f"example of {name} is no array that can be read", seen=error) from error


def _target_type(
    array: np.ndarray, dynamic: Mapping[int, Any], inputs: Sequence[Any], trainable: Trainable
) -> TensorType:
    shape: list[Dim] = list(array.shape)
    first = trainable.data_inputs[0].type.shape[:1] if trainable.data else ()
    if first and isinstance(first[0], Expr) and shape and not dynamic and shape[0] == len(inputs[0]):
        shape[0] = first[0]
    for axis, dim in dynamic.items():
        if not -len(shape) <= axis < len(shape):
            raise GraphcError("dynamic= names no axis of a target", seen=axis, expected=f"rank {len(shape)}")
        shape[axis] = dim
    return TensorType(dtype_of(array), tuple(shape))
