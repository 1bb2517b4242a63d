"""What a training step keeps from call to call: named arrays, in one order for all its programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from graphc.errors import GraphcError
from graphc.ir.types import TensorType, dtype_of
from graphc.training.optimizers.optimizer import Optimizer, Slot
from graphc.training.recipe import Recipe
from graphc.training.trainable import Trainable


@dataclass(frozen=True)
class Entry:
    """An array kept from step to step: its kind, the user's name of what it belongs to, its type, its first value.

    kinds: "parameter", "state", "average" (of a parameter), "sum" (of gradients), "slot.NAME" (of the optimizer), and those of
    the step itself: "key" (seed, step), "steps" (updates made), "scale" (of the loss), "finite" (updates since it changed).
    """

    kind: str
    name: str
    initial: np.ndarray

    @property
    def type(self) -> TensorType:
        return TensorType(dtype_of(self.initial), self.initial.shape)

    @property
    def label(self) -> str:
        """Its name in checkpoints."""
        return f"{self.kind}:{self.name}" if self.name else self.kind


def entries_of(trainable: Trainable, recipe: Recipe, seed: int) -> list[Entry]:
    """Every entry of a step; slots, averages and sums of trained parameters alone."""
    chosen = optimizers_of(trainable.parameters, recipe)
    entries = [Entry("parameter", n, a) for n, a in trainable.parameters.items()]
    entries += [Entry("state", n, a) for n, a in trainable.state.items()]
    for name, optimizer in chosen.items():
        value = trainable.parameters[name]
        slots = optimizer.slots(TensorType(dtype_of(value), value.shape))
        entries += [Entry(f"slot.{slot}", name, _first(declared, value)) for slot, declared in slots.items()]
    trained = [(n, trainable.parameters[n]) for n in chosen]
    if recipe.average is not None:
        entries += [Entry("average", n, a) for n, a in trained]
    if recipe.accumulate > 1:
        entries += [Entry("sum", n, np.zeros_like(a)) for n, a in trained]
    entries.append(Entry("steps", "", np.array(0, np.int64)))
    if trainable.random:
        entries.append(Entry("key", "", np.array([seed, 0], np.int64)))
    if recipe.loss_scale == "dynamic":
        entries += [Entry("scale", "", np.array(2.0**16, np.float32)), Entry("finite", "", np.array(0, np.int64))]
    return entries


def optimizers_of(parameters: Mapping[str, np.ndarray], recipe: Recipe) -> dict[str, Optimizer]:
    """The optimizer of each trained parameter. Raises GraphcError for patterns that name none, and where none is left."""
    patterns = [*recipe.frozen, *(p for group in recipe.groups for p in group.parameters)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise GraphcError("no parameter has such a name", seen=pattern, expected=", ".join(parameters))
    chosen: dict[str, Optimizer] = {}
    for name, value in parameters.items():
        if not any(fnmatchcase(name, p) for p in recipe.frozen) and dtype_of(value).is_float:
            groups = (g.optimizer for g in recipe.groups if any(fnmatchcase(name, p) for p in g.parameters))
            chosen[name] = next(groups, recipe.optimizer)
    if not chosen:
        raise GraphcError("there is nothing to train: the model has no float parameters, or all are frozen")
    return chosen


def _first(slot: Slot, parameter: np.ndarray) -> np.ndarray:
    if slot.initial == "parameter":
        return parameter.astype(slot.dtype.numpy)
    shape = TensorType(slot.dtype, slot.shape).concrete({})
    return np.full(shape, slot.initial, slot.dtype.numpy)
