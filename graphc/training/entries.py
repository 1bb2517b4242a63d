"""What a training step keeps from call to call: named arrays, in one order for all its programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from graphc.errors import GraphcError
from graphc.ir.graph import Node, Value
from graphc.ir.types import TensorType, dtype_of
from graphc.training.optimizers.optimizer import Optimizer, Slot
from graphc.training.recipe import Recipe
from graphc.training.trainable import Trainable


@dataclass(frozen=True)
class Entry:
    """An array kept from step to step: its kind, the user's name of what it belongs to, its type, its first value.

    kinds: "parameter", "state", "average" (of a parameter), "sum" (of gradients), "slot.NAME" (of the optimizer), and those of
    the step itself: "key" (seed, step), "steps" (updates made), "scale" (of the loss), "finite" (updates since it changed).
    order: stored axis i is axis order[i] of the user's array; () where it is stored as it is. `initial` is as stored.
    """

    kind: str
    name: str
    initial: np.ndarray
    order: tuple[int, ...] = ()

    @property
    def type(self) -> TensorType:
        return TensorType(dtype_of(self.initial), self.initial.shape)

    @property
    def to_user(self) -> tuple[int, ...]:
        """User's axis i is stored axis to_user[i]."""
        return tuple(sorted(range(len(self.order)), key=self.order.__getitem__))

    def stored(self, array: np.ndarray) -> np.ndarray:
        """The user's array, as it is stored: a view."""
        return array.transpose(self.order) if self.order else array

    def shown(self, stored: np.ndarray) -> np.ndarray:
        """A stored array, as the user knows it: a view."""
        return stored.transpose(self.to_user) if self.order else stored

    @property
    def label(self) -> str:
        """Its name in checkpoints."""
        return f"{self.kind}:{self.name}" if self.name else self.kind


def entries_of(trainable: Trainable, recipe: Recipe, seed: int) -> list[Entry]:
    """Every entry of a step; slots, averages and sums of trained parameters alone."""
    chosen = optimizers_of(trainable.parameters, recipe)
    inputs = dict(zip(trainable.parameters, trainable.parameter_inputs, strict=True))
    orders = {n: _stored_order(inputs[n]) for n in trainable.parameters}
    values = {n: a.transpose(orders[n]) if orders[n] else a for n, a in trainable.parameters.items()}
    entries = [Entry("parameter", n, a, orders[n]) for n, a in values.items()]
    entries += [Entry("state", n, a) for n, a in trainable.state.items()]
    for name, optimizer in chosen.items():
        slots = optimizer.slots(TensorType(dtype_of(values[name]), values[name].shape))
        for slot, declared in slots.items():
            first = _first(declared, values[name])
            order = orders[name] if first.shape == values[name].shape else ()
            entries.append(Entry(f"slot.{slot}", name, first, order))
    if recipe.average is not None:
        entries += [Entry("average", n, values[n], orders[n]) for n in chosen]
    if recipe.accumulate > 1:
        entries += [Entry("sum", n, np.zeros_like(values[n]), orders[n]) for n in chosen]
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


def _stored_order(parameter: Value) -> tuple[int, ...]:
    """Kernels (O, I, *window) of convolutions are stored as (*window, I, O), in which their gradients are computed.

    So an update reads and writes everything in one order, and nothing is transposed at each step.
    """
    uses = parameter.uses
    convolutions = [u for u in uses if isinstance(u.user, Node) and u.user.op.name in ("conv", "conv_input_grad")]
    if not uses or len(convolutions) < len(uses):
        return ()
    if any(u.index != 1 or u.user.attributes["kernel_layout"] != "oi" for u in convolutions):  # type: ignore[union-attr]
        return ()
    return (*range(2, parameter.type.rank), 1, 0)


def _first(slot: Slot, parameter: np.ndarray) -> np.ndarray:
    if slot.initial == "parameter":
        return parameter.astype(slot.dtype.numpy)
    shape = TensorType(slot.dtype, slot.shape).concrete({})
    return np.full(shape, slot.initial, slot.dtype.numpy)
