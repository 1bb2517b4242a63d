"""Running a model for inference with values that still change: for validation and prediction while training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphc.backend import Backend, CompileOptions
from graphc.driver import compile_graph
from graphc.errors import GraphcError, ShapeError
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.symbolic import Dim, symbol
from graphc.ir.text import print_graph
from graphc.ir.types import TensorType, dtype_of
from graphc.training.losses import Loss
from graphc.training.metrics import Metric
from graphc.training.trainable import Trainable

Arrays = Mapping[str, np.ndarray]


class Forward:
    """The model in inference mode, compiled once, with parameters and state as inputs.

    Where it was compiled for a batch of one size, smaller ones are filled up with rows of zeros, and outputs are cut.
    """

    def __init__(self, trainable: Trainable, options: CompileOptions, given: Sequence[Backend] = ()) -> None:
        """options: those of the step; given: its backend, where that isn't installed."""
        graph, self.names = with_values_as_inputs(trainable)
        self.data, self.given = graph.inputs[: trainable.data], given
        self.executable = compile_graph(graph, options, given=given)

    def __call__(self, values: Arrays, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The model's outputs with these parameters and state."""
        size = self.data[0].type.shape[0] if self.data and self.data[0].type.rank else None
        rows = inputs[0].shape[0] if isinstance(size, int) and inputs[0].ndim else size
        if isinstance(rows, int) and isinstance(size, int) and rows < size:
            whole = all(v.type.rank and v.type.shape[0] == size for v in (*self.data, *self.executable.graph.outputs))
            if not whole:
                raise ShapeError("a smaller batch than the model was compiled for", seen=rows, expected=size,
                                 hint="Trainer(..., dynamic=True), or batches of one size")  # fmt: skip
            inputs = [np.concatenate([x, np.zeros((size - rows, *x.shape[1:]), x.dtype)]) for x in inputs]
            return [y[:rows] for y in self._run(values, inputs)]
        return self._run(values, inputs)

    def _run(self, values: Arrays, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = self.executable(*inputs, *(values[n] for n in self.names))
        return list(found) if isinstance(found, tuple) else [found]


def with_values_as_inputs(trainable: Trainable) -> tuple[Graph, list[str]]:
    """The graph for inference with an input for each parameter and state that it reads, after the data; their names.

    They are found by their contents: the graph is made of values that occur nowhere else. Raises GraphcError where the
    frontend keeps something computed from a value instead of the value itself.
    """
    values = {**trainable.parameters, **trainable.state}
    graph, found = _lifted(trainable, _marks(values, 0))
    missing = [n for n, a in values.items() if n not in found and dtype_of(a).is_float]
    if missing:
        other, _ = _lifted(trainable, _marks(values, 1))
        if print_graph(other) != print_graph(graph):
            what = "the model for inference holds something that was computed from a parameter"
            raise GraphcError(what, layer=", ".join(missing[:3]), hint="evaluate with step.inference()")
    return graph, found


def _lifted(trainable: Trainable, marks: Arrays) -> tuple[Graph, list[str]]:
    graph, _ = trainable.inference(marks).clone("forward")
    of_contents = {_contents(a): name for name, a in marks.items()}
    inputs: dict[str, Value] = {}
    for node in graph.nodes:
        name = of_contents.get(_contents(node["value"].array)) if node.op.name == "constant" else None
        if name is not None:
            if name not in inputs:
                inputs[name] = graph.add_input(name, node.result.type)
            graph.replace_uses(node.result, inputs[name])
            graph.erase(node)
    return graph, list(inputs)


def _contents(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.name, array.shape, array.tobytes()


def _marks(values: Arrays, seed: int) -> dict[str, np.ndarray]:
    """Random values, so that no two names have the same."""
    rng = np.random.default_rng(seed)

    def mark(like: np.ndarray) -> np.ndarray:
        if like.dtype.kind in "iu":
            return np.asarray(rng.integers(np.iinfo(like.dtype).max // 2, np.iinfo(like.dtype).max, like.shape), like.dtype)
        return np.asarray(rng.uniform(0.25, 0.75, like.shape)).astype(like.dtype)

    return {n: mark(a) for n, a in values.items()}


class Scores:
    """Loss and sums of metrics, from a model's outputs and targets: compiled once, for batches of any size."""

    def __init__(
        self, forward: Forward, targets: Sequence[np.ndarray], rows: int, loss: Loss | None, metrics: Sequence[Metric]
    ) -> None:
        """targets: of a batch of so many rows, or fewer than the model was compiled for."""
        outputs = forward.executable.graph.outputs
        size = outputs[0].type.shape[0] if outputs[0].type.rank else rows
        samples: Dim = symbol("samples") if isinstance(size, int) else size

        def any_size(t: TensorType, first: Dim) -> TensorType:
            return t.with_shape((samples, *t.shape[1:])) if t.rank and t.shape[0] == first else t

        b = Builder(Graph("scores"), origin=("loss",))
        xs = [b.graph.add_input(f"output{i}", any_size(v.type, size)) for i, v in enumerate(outputs)]
        types = [TensorType(dtype_of(a), a.shape) for a in targets]
        ts = [b.graph.add_input(f"target{i}", any_size(t, rows)) for i, t in enumerate(types)]
        value = loss(b, xs, ts) if loss is not None else xs[0]
        b.returns(value, *(m.sums(b, xs, ts) for m in metrics))
        self._names = [m.name for m in metrics]
        self.executable = compile_graph(b.graph, forward.executable.options, given=forward.given)

    def __call__(self, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        """The loss, and the metrics' sums by name."""
        found = self.executable(*outputs, *targets)
        loss, *sums = found if isinstance(found, tuple) else (found,)
        return float(loss), dict(zip(self._names, sums, strict=True))
