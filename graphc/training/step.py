"""A compiled training step: it holds the parameters and all else that is kept, and moves them at each call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from graphc.arguments import Expected, as_arrays
from graphc.artifact import write_whole
from graphc.errors import ArtifactError, GraphcError
from graphc.executable import Executable
from graphc.interpreter import Watch, interpret
from graphc.ir.graph import Graph
from graphc.lowering.memory import aligned
from graphc.training.build import StepGraph
from graphc.training.entries import Entry
from graphc.training.optimizers.optimizer import Optimizer
from graphc.training.recipe import Recipe
from graphc.training.schedules import rate_at
from graphc.training.trainable import Trainable

FORMAT = "graphc training step 1"


class TrainingStep:
    """Made by `graphc.compile_training`. Calling it trains on one batch and returns the loss (before the update), rank 0.

    It takes the model's inputs and the loss's targets, as NumPy arrays or anything with `__dlpack__`. Raises ShapeError
    where they don't fit. One thread at a time may call it.
    """

    def __init__(
        self,
        trainable: Trainable,
        recipe: Recipe,
        entries: Sequence[Entry],
        programs: Sequence[tuple[StepGraph, Executable]],
    ) -> None:
        """programs: that of an update, then, where gradients are accumulated, that of the batches before it."""
        self._trainable = trainable
        self._recipe = recipe
        self._entries = entries
        self._programs = programs
        self._values = [_own(e.initial) for e in entries]
        self._number = {(e.kind, e.name): i for i, e in enumerate(entries)}
        self._batches = 0
        first, _ = programs[0]
        count = len(first.graph.inputs) - len(first.reads) - len(recipe.optimizers)
        self._expected = [Expected(v.name, v.type) for v in first.graph.inputs[:count]]
        self.metrics: Mapping[str, Any] = {}
        """Of the last batch: a number where a metric has rank 0, else an array."""
        self.rate_factor = 1.0
        """By what the learning rates are multiplied from now on: what schedules that look at the loss change."""

    def __call__(self, *batch: Any) -> np.ndarray:
        updates = (self._batches + 1) % self._recipe.accumulate == 0
        step, executable = self._programs[0 if updates else 1]
        arrays = self._inputs(batch, updates)
        outputs = executable.segment.run([*arrays, *(self._values[i] for i in step.reads)])
        self._batches += 1
        for i, value in zip(step.writes, outputs[len(outputs) - len(step.writes) :], strict=True):
            self._values[i] = value
        self.metrics = {n: y if y.ndim else y.item() for n, y in zip(self._recipe.metrics, outputs[1:], strict=False)}
        return outputs[0]

    def _inputs(self, batch: Sequence[Any], updates: bool) -> list[np.ndarray]:
        """The batch and, for an update, the learning rates."""
        arrays, _ = as_arrays(batch, self._expected)
        # A parameter may be data too, as a target: what is written over is no place to read it from.
        arrays = [x.copy() if self._is_kept(x) else x for x in arrays]
        return arrays + [np.array(rate) for rate in self.rates] if updates else arrays

    def _is_kept(self, x: np.ndarray) -> bool:
        return not x.flags.owndata and any(np.may_share_memory(x, value) for value in self._values)

    # What is kept

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        """The parameters by name: views, which the next call may write over or leave behind; copy them to keep them."""
        return self._views("parameter")

    @property
    def state(self) -> Mapping[str, np.ndarray]:
        """What the forward pass updates, as running statistics, by name: views."""
        return self._views("state")

    @property
    def averages(self) -> Mapping[str, np.ndarray]:
        """The moving averages of the trained parameters, by name: views; none unless `average` was asked for."""
        return self._views("average")

    @property
    def steps(self) -> int:
        """How many updates were made."""
        return int(self._values[self._number["steps", ""]])

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates of the next update: of the optimizer, then of each group's."""
        return tuple(rate_at(o.rate, self.steps) * self.rate_factor for o in self._recipe.optimizers)

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizer, then each group's."""
        return self._recipe.optimizers

    def _views(self, kind: str) -> Mapping[str, np.ndarray]:
        found = {}
        for entry, value in zip(self._entries, self._values, strict=True):
            if entry.kind == kind:
                found[entry.name] = entry.shown(value.view())
                found[entry.name].flags.writeable = False
        return MappingProxyType(found)

    def snapshot(self) -> dict[str, np.ndarray]:
        """A copy of everything that is kept, by label: what `restore` takes."""
        kept = {e.label: np.array(e.shown(v), order="C") for e, v in zip(self._entries, self._values, strict=True)}
        kept["batches"] = np.array(self._batches, np.int64)
        kept["rate_factor"] = np.array(self.rate_factor)
        return kept

    def restore(self, kept: Mapping[str, np.ndarray]) -> None:
        """Goes back to a snapshot. Raises ArtifactError, and changes nothing, where it isn't of a step like this."""
        expected = {e.label for e in self._entries} | {"batches", "rate_factor"}
        if set(kept) != expected:
            different = sorted(set(kept) ^ expected)
            raise ArtifactError("the checkpoint is of another model or optimizer", seen=", ".join(different[:8]))
        for e in self._entries:
            value, own = kept[e.label], e.shown(e.initial)
            if value.shape != own.shape or value.dtype != own.dtype:
                seen, wanted = (f"{a.dtype}{list(a.shape)}" for a in (value, own))
                raise ArtifactError("the checkpoint is of another model", layer=e.label, seen=seen, expected=wanted)
        self._values = [_own(e.stored(kept[e.label])) for e in self._entries]
        self._batches, self.rate_factor = int(kept["batches"]), float(kept["rate_factor"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a checkpoint (safetensors: parameters, state, optimizer, counters), which is whole or absent."""
        from safetensors.numpy import save

        write_whole(Path(path), save(self.snapshot(), {"format": FORMAT}))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Goes on from a checkpoint, to the same bits. Raises ArtifactError where it is damaged or of another model."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as f:
                kept = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - safe_open has no iteration
                found = (f.metadata() or {}).get("format")
        except (SafetensorError, OSError) as e:
            raise ArtifactError(f"{os.fspath(path)} is no checkpoint, or it is damaged", seen=str(e)) from e
        if found != FORMAT:
            raise ArtifactError(f"{os.fspath(path)} is no checkpoint of a training step", seen=found, expected=FORMAT)
        self.restore(kept)

    # The trained model

    def trained_graph(self, *, average: bool = False) -> Graph:
        """The model for inference, with the trained values as constants; with `average` their moving averages."""
        values = {**self.parameters, **self.state}
        if average:
            if not self.averages:
                raise GraphcError("no averages are kept", hint="compile_training(..., average=0.999)")
            values |= self.averages
        return self._trainable.inference({n: v.copy() for n, v in values.items()})

    def inference(self, *, average: bool = False, **options: Any) -> Executable:
        """The trained model, compiled for inference: as `graphc.compile`, whose further arguments it takes.

        It takes inputs of the sizes that the step takes: of any, where `compile_training` or `Trainer` was told of them by
        `dynamic`.
        """
        from graphc.driver import compile

        own = self._programs[0][1].options
        given = {"backend": own.backend, "threads": own.threads, "target": own.target, **options}
        return compile(self.trained_graph(average=average), **given)

    def write_back(self) -> None:
        """Puts the trained values into the model that was compiled. Raises GraphcError where its kind can't take them."""
        self._trainable.write_back({**self.parameters, **self.state})

    def interpret(self, *batch: Any, watch: Watch | None = None) -> list[np.ndarray]:
        """What the next call would return and write, by the operators' references; nothing is changed.

        `watch` sees every value of the graph with its array, in order: where a NaN comes from, for instance.
        """
        updates = (self._batches + 1) % self._recipe.accumulate == 0
        step, _ = self._programs[0 if updates else 1]
        inputs = self._inputs(batch, updates)
        return interpret(step.graph, [*inputs, *(self._values[i] for i in step.reads)], watch=watch)

    # What it is

    @property
    def trainable(self) -> Trainable:
        """The model that is trained, with its first values."""
        return self._trainable

    @property
    def executable(self) -> Executable:
        """The program of an update: `explain()`, `kernels` and `memory` are its own."""
        return self._programs[0][1]

    @property
    def graph(self) -> Graph:
        """The graph of an update: forward, backward, optimizer."""
        return self._programs[0][1].graph

    def explain(self) -> str:
        """What compilation made of an update."""
        return self.executable.explain()

    def __repr__(self) -> str:
        count = sum(e.initial.size for e in self._entries if e.kind == "parameter")
        return f"<graphc training step of {count} parameters, {self.steps} updates made>"


def _own(array: np.ndarray) -> np.ndarray:
    """A copy in 64-byte aligned memory."""
    copy = aligned(array.nbytes)[: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
