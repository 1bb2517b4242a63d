"""A training step as one graph: forward, loss, backward, and the new value of everything that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphc.autodiff import gradients
from graphc.errors import GraphcError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType, f64
from graphc.ops.arithmetic import add, div, mul
from graphc.training.clipping import clip_by_norm, clip_by_value
from graphc.training.entries import Entry, optimizers_of
from graphc.training.optimizers.optimizer import Optimizer
from graphc.training.recipe import Recipe
from graphc.training.scaling import all_finite, next_scale
from graphc.training.trainable import Trainable

Key = tuple[str, str]
"""An entry's kind and name."""


@dataclass(frozen=True)
class StepGraph:
    """A graph of (data, targets, learning rates, entries read) that returns (loss, metrics, entries written).

    reads, writes: numbers of entries. What is written is donated, so that it may be written over.
    """

    graph: Graph
    reads: tuple[int, ...]
    writes: tuple[int, ...]


def build_step(
    trainable: Trainable, recipe: Recipe, entries: Sequence[Entry], targets: Sequence[TensorType], *, update: bool
) -> StepGraph:
    """The graph of one batch: with `update` the parameters follow the gradients, else these are added to the sums.

    Raises GraphcError where the loss is no float of rank 0, UnsupportedOpError for a layer without a gradient.
    """
    return _Step(trainable, recipe, entries, targets, update).run()


@dataclass
class _Step:
    trainable: Trainable
    recipe: Recipe
    entries: Sequence[Entry]
    targets: Sequence[TensorType]
    update: bool
    graph: Graph = field(init=False)
    optimizers: Mapping[str, Optimizer] = field(init=False)
    old: dict[Key, Value] = field(init=False, default_factory=dict)
    new: dict[Key, Value] = field(init=False, default_factory=dict)

    def run(self) -> StepGraph:
        self.graph = Graph("step" if self.update else "accumulate")
        self.optimizers = optimizers_of(self.trainable.parameters, self.recipe)
        data = [self.graph.add_input(v.name, v.type) for v in self.trainable.data_inputs]
        targets = [self.graph.add_input(f"target{i}", t) for i, t in enumerate(self.targets)]
        optimizers = self.recipe.optimizers if self.update else ()
        rates = [self.graph.add_input(f"rate{i}", TensorType(f64, ())) for i in range(len(optimizers))]
        reads = [i for i, e in enumerate(self.entries) if self.update or not _of_update(e)]
        for i in reads:
            e = self.entries[i]
            self.old[e.kind, e.name] = self.graph.add_input(e.label, e.type)

        outputs = self.forward(data)
        loss, objective = self.objective(outputs, targets)
        metrics = [m(self.at(n), outputs, targets) for n, m in self.recipe.metrics.items()]
        found = self.backward(objective)
        if self.update:
            self.follow(found, dict(zip(map(id, optimizers), rates, strict=True)))
        else:
            for name, gradient in found.items():
                self.new["sum", name] = add(self.at(name), self.old["sum", name], gradient)
        writes = [i for i in reads if (self.entries[i].kind, self.entries[i].name) in self.new]
        written = [self.new[self.entries[i].kind, self.entries[i].name] for i in writes]
        self.graph.set_outputs([loss, *metrics, *written])
        first_in, first_out = len(data) + len(targets) + len(rates), 1 + len(metrics)
        self.graph.donations = [(first_in + reads.index(i), first_out + k) for k, i in enumerate(writes)]
        return StepGraph(self.graph, tuple(reads), tuple(writes))

    def at(self, layer: str) -> Builder:
        return Builder(self.graph, origin=(layer,))

    def forward(self, data: Sequence[Value]) -> list[Value]:
        """Copies the model's nodes; its outputs. The state's new values and the next key are noted."""
        t = self.trainable
        given = [*data, *map(self.shown, t.parameters), *(self.old["state", n] for n in t.state)]
        if t.random:
            key = self.old["key", ""]
            given.append(key)
            b = self.at("random key")
            self.new["key", ""] = add(b, key, b.op("iota", shape=(2,), axis=0, dtype=key.type.dtype))
        mapping = dict(zip(t.graph.inputs, given, strict=True))
        self.graph.guards = list(t.graph.guards)
        for node in t.graph.nodes:
            Graph.copy_node(node, self.graph, mapping)
        for name, value in zip(t.state, t.graph.outputs[len(t.outputs) :], strict=True):
            self.new["state", name] = mapping[value]
        return [mapping[v] for v in t.outputs]

    def shown(self, name: str) -> Value:
        """A parameter in the order of its axes that the model knows."""
        entry = next(e for e in self.entries if (e.kind, e.name) == ("parameter", name))
        stored = self.old["parameter", name]
        return self.at(name).transpose(stored, entry.to_user) if entry.order else stored

    def objective(self, outputs: Sequence[Value], targets: Sequence[Value]) -> tuple[Value, Value]:
        """The loss, and what is differentiated: the loss with penalties, scaled."""
        recipe, b = self.recipe, self.at("loss")
        loss = recipe.loss(b, outputs, targets) if recipe.loss is not None else outputs[0]
        objective = self.scalar("the loss", loss)
        if recipe.penalty is not None:
            trained = {n: self.shown(n) for n in self.optimizers}
            objective = add(b, objective, b.cast(recipe.penalty(b, trained), objective.type.dtype))
        scale = self.scale(b, objective)
        return loss, objective if scale is None else mul(b, objective, scale)

    def scale(self, b: Builder, like: Value) -> Value | None:
        """By what the loss is multiplied, in the element type of `like`."""
        if self.recipe.loss_scale is None:
            return None
        if self.recipe.loss_scale == "dynamic":
            return b.cast(self.old["scale", ""], like.type.dtype)
        return b.scalar(self.recipe.loss_scale, like.type.dtype)

    @staticmethod
    def scalar(what: str, value: Value) -> Value:
        if value.type.rank or not value.type.dtype.is_float:
            raise GraphcError(f"{what} must be a float of rank 0", seen=value.type)
        return value

    def backward(self, objective: Value) -> dict[str, Value]:
        """The gradient of each trained parameter, not scaled any more."""
        b = self.at("backward")
        wrt = [self.old["parameter", n] for n in self.optimizers]
        found = gradients(b, {objective: b.full_like(1, objective)}, wrt)
        if self.recipe.loss_scale is not None:
            for i, g in enumerate(found):
                scale = self.scale(b, g)
                assert scale is not None
                found[i] = div(b, g, b.broadcast(scale, g.type.shape, ()))
        return dict(zip(self.optimizers, found, strict=True))

    def follow(self, found: Mapping[str, Value], rates: Mapping[int, Value]) -> None:
        """Emits the updates of the parameters and of all that goes with them."""
        recipe = self.recipe
        if recipe.accumulate > 1:
            total = {n: add(self.at(n), self.old["sum", n], g) for n, g in found.items()}
            found = {n: div(self.at(n), g, float(recipe.accumulate)) for n, g in total.items()}
            self.new.update({("sum", n): self.at(n).full_like(0, g) for n, g in found.items()})
        b = self.at("gradients")
        finite = all_finite(b, list(found.values())) if recipe.loss_scale == "dynamic" else None
        if recipe.clip_value is not None:
            found = dict(zip(found, clip_by_value(b, list(found.values()), recipe.clip_value), strict=True))
        if recipe.clip_norm is not None:
            found = dict(zip(found, clip_by_norm(b, list(found.values()), recipe.clip_norm), strict=True))
        steps = add(b, self.old["steps", ""], b.full_like(1, self.old["steps", ""]))
        if finite is not None:  # updates wait for it, and are chosen where they are computed: nothing is kept to choose from
            zeros = {n: b.full_like(0, g) for n, g in found.items()}
            found = {n: b.op("select", b.broadcast(finite, g.type.shape, ()), g, zeros[n]) for n, g in found.items()}
        updated: dict[Key, Value] = {("steps", ""): steps}
        for name, optimizer in self.optimizers.items():
            updated |= self.updated(name, optimizer, found[name], steps, rates[id(optimizer)])
        if finite is not None:
            for key, value in updated.items():
                chosen = b.broadcast(finite, value.type.shape, ())
                updated[key] = b.op("select", chosen, value, self.old[key])
            scale, count = next_scale(b, self.old["scale", ""], self.old["finite", ""], finite)
            updated |= {("scale", ""): scale, ("finite", ""): count}
        self.new.update(updated)

    def updated(
        self, name: str, optimizer: Optimizer, gradient: Value, steps: Value, rate: Value
    ) -> dict[Key, Value]:
        """The new values of one parameter, its slots and its average."""
        b = self.at(name)
        old, dtype = self.old["parameter", name], self.old["parameter", name].type.dtype
        slots = {k.removeprefix("slot."): v for (k, n), v in self.old.items() if n == name and k.startswith("slot.")}
        new, moved = optimizer.update(b, old, gradient, slots, b.cast(rate, dtype), b.cast(steps, dtype))
        found: dict[Key, Value] = {("parameter", name): new, **{(f"slot.{s}", name): v for s, v in moved.items()}}
        if self.recipe.average is not None:
            average, decay = self.old["average", name], self.recipe.average
            kept = mul(b, average, decay)
            found["average", name] = add(b, kept, mul(b, new, 1 - decay))
        return found


def _of_update(entry: Entry) -> bool:
    """Whether only updates read the entry."""
    return entry.kind.startswith("slot.") or entry.kind in ("average", "steps", "finite")
