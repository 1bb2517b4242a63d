"""`Trainer`: epochs over data, with validation, metrics, callbacks, checkpoints, and clean ends."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from graphc.driver import import_training
from graphc.errors import GraphcError, ShapeError
from graphc.ir.graph import Graph
from graphc.ir.symbolic import symbol
from graphc.training.callbacks import Callback, Checkpoint, Logs, ProgressBar
from graphc.training.compile import compile_training
from graphc.training.data import Batch, Source, prefetched, rows_of, source_of
from graphc.training.evaluation import Forward, Scores
from graphc.training.hyperparameters import COUNT, SEED, WHOLE, check_value
from graphc.training.interruption import Interrupted, Interruption, deferred_interrupt
from graphc.training.losses import Loss, loss_of
from graphc.training.metrics import Metric, metrics_of
from graphc.training.nonfinite import Rewind, nonfinite_loss
from graphc.training.optimizers import Optimizer
from graphc.training.progress import Progress, add_sums
from graphc.training.saving import load_training, save_training
from graphc.training.step import TrainingStep
from graphc.training.trainable import Trainable


class Trainer:
    """Trains a model on data.

    model, loss, optimizer and further `options`: as `graphc.compile_training` takes them; it is called when the first batch
        is seen, which is its example.
    metrics: names ("accuracy", "f1", "mae", ...) or Metrics; computed with each step, and in validation.
    callbacks: told what happens, in this order, checkpoints last.
    seed: of the data's order and the model's random numbers.
    dynamic: whether the first axis of all inputs is of any size; by default where some batch is known to be smaller than the
        others. Or a mapping as for `compile_training`.
    progress: whether to show a bar, on a terminal.
    """

    def __init__(
        self,
        model: Any,
        *,
        loss: str | Loss | None,
        optimizer: Optimizer,
        metrics: Sequence[str | Metric] = (),
        callbacks: Sequence[Callback] = (),
        seed: int = 0,
        dynamic: bool | Mapping[str, Mapping[int, Any]] | None = None,
        progress: bool = True,
        **options: Any,
    ) -> None:
        check_value("seed", seed, SEED)
        self.loss = loss_of(loss)
        self.metrics = metrics_of(metrics)
        self.seed = seed
        self.progress = Progress()
        self.history: list[Logs] = []
        """The logs of each epoch."""
        self.epochs = 0
        """How many epochs the current or last `fit` goes to."""
        self.epoch_batches: int | None = None
        """How many batches an epoch has, where that is known."""
        for callback in callbacks if isinstance(callbacks, Sequence) else (callbacks,):
            if not isinstance(callback, Callback):
                raise GraphcError("no such callback", seen=repr(callback), expected="a list of values, as EarlyStopping()")
        unknown = sorted(options.keys() - inspect.signature(compile_training).parameters.keys())
        if unknown:
            raise GraphcError("there is no such option", seen=", ".join(unknown), hint="see graphc.compile_training")
        shown: list[Callback] = [ProgressBar()] if progress else []
        self.callbacks = sorted([*shown, *callbacks], key=lambda c: isinstance(c, Checkpoint))
        self._model, self._optimizer, self._dynamic, self._options = model, optimizer, dynamic, options
        self._step: TrainingStep | None = None
        self._forward: Forward | None = None
        self._scores: Scores | None = None
        self._batch_size = 0

    @property
    def step(self) -> TrainingStep:
        """The compiled step. Raises GraphcError before the first batch was seen."""
        if self._step is None:
            raise GraphcError("nothing is compiled yet", hint="fit, evaluate or predict first")
        return self._step

    def stop(self, reason: str) -> None:
        """Ends training after this epoch's callbacks."""
        self.progress.stopped = reason

    # Training

    def fit(
        self,
        data: Any,
        *,
        epochs: int,
        validation: Any = None,
        batch_size: int = 32,
        shuffle: bool = True,
        drop_last: bool = False,
        resume: str | os.PathLike[str] | None = None,
    ) -> list[Logs]:
        """Trains until `epochs` epochs are done, all calls together; the logs of all of them.

        data: (inputs..., targets...) as a tuple of arrays, of which batches of `batch_size` are taken, shuffled anew each epoch;
            or an iterable of batches, such as a torch DataLoader; or a function of the epoch's number that makes one. Batches
            are tuples of arrays, made in a thread ahead of their use.
        validation: data likewise, evaluated after each epoch, in order.
        drop_last: leaves out the last batch of arrays if it is smaller.
        resume: a file that a Checkpoint wrote: where it is there, training goes on from it, to the same bits as without the
            break. The model, options and data must be the same.
        Ctrl-C stops after the step at hand: checkpoints are written, `fit` returns, and may be called again to go on.
        Raises NumericError naming the first layer where a loss isn't finite; all is as before that batch then. What the data
        raise comes through. In both cases checkpoints are written first.
        """
        check_value("epochs", epochs, WHOLE)
        check_value("batch_size", batch_size, COUNT)
        self._batch_size = batch_size
        source = source_of(data, batch_size, shuffle=shuffle, seed=self.seed, drop_last=drop_last)
        held_out = None if validation is None else self._in_order(validation, batch_size)
        resumed = resume is not None and Path(resume).exists()
        self.epochs, self.epoch_batches = epochs, source.length
        if self._step is None:
            source = self._compiled(source)
        if resume is not None and resumed:
            self.load(resume)
        if not resumed:
            self.progress.stopped = None
        self._tell(lambda c: c.on_start(self, resumed))
        finished = False
        try:
            with deferred_interrupt() as interruption:
                try:
                    while self.progress.epoch < epochs and self.progress.stopped is None:
                        self._epoch(source, held_out, interruption)
                    finished = True
                except Interrupted:
                    pass
        finally:
            self._tell(lambda c: c.on_end(self, finished))
        return self.history

    def _epoch(self, source: Source, held_out: Source | None, interruption: Interruption) -> None:
        p, step, start = self.progress, self.step, time.perf_counter()
        rewind, before = Rewind(step), p
        batches = islice(source.epoch(p.epoch), p.batch, None)
        with closing(prefetched(batches, interruption.check)) as ready:
            for batch in ready:
                interruption.check()
                rewind.add(batch)
                loss = float(step(*batch))
                if not np.isfinite(loss):
                    where = f"in batch {p.batch + 1} of epoch {p.epoch + 1}"
                    error, back = nonfinite_loss(step, rewind, loss, where)
                    self.progress = p if back == 1 else before
                    raise error
                before = replace(p, metric_sums=dict(p.metric_sums))
                p.add_batch(loss, rows_of(batch), step.metrics)
                for c in self.callbacks:
                    c.on_batch(self, loss)
        if not p.batch:
            raise ShapeError("there is no batch in the data", seen=f"epoch {p.epoch + 1}")
        logs = {"loss": p.mean_loss, **self._metrics(p.metric_sums), "rate": step.rates[0]}
        if held_out is not None:
            logs |= {f"val_{name}": value for name, value in self._evaluate(held_out, interruption).items()}
        logs["seconds"] = time.perf_counter() - start
        self.history.append(logs)
        p.end_epoch()
        self._tell(lambda c: c.on_epoch(self, logs))

    def _tell(self, event: Callable[[Callback], None]) -> None:
        for c in self.callbacks:
            event(c)

    def _compiled(self, source: Source) -> Source:
        """Compiles the step for the source's first batch; a source that gives that batch again."""
        number = self.progress.epoch
        batches = source.epoch(number)
        example = next(batches, None)
        if example is None:
            raise ShapeError("there is no batch in the data", seen=f"epoch {number + 1}")
        self._compile(example, source.uneven)
        return _Begun(source, number, chain([example], batches))

    def _compile(self, example: Batch, uneven: bool) -> None:
        count = len(example) - (self.loss.targets if self.loss is not None else 0)
        if count < 0:
            raise ShapeError("batches lack the loss's targets", seen=f"{len(example)} arrays")
        dynamic = self._dynamic
        if isinstance(dynamic, bool) or dynamic is None:
            has_own = isinstance(self._model, Graph | Trainable)  # which compile_training tells of, where they were asked for
            wanted = dynamic or (dynamic is None and uneven and not has_own)
            dynamic = self._first_axes(example[:count]) if wanted else None
        self._step = compile_training(
            self._model, loss=self.loss, optimizer=self._optimizer, example_inputs=example, dynamic=dynamic, seed=self.seed,
            metrics={m.name: m.sums for m in self.metrics}, **self._options,
        )  # fmt: skip
        fixed = [v for v in self.step.graph.inputs[:count] if v.type.rank and isinstance(v.type.shape[0], int)]
        if uneven and fixed:
            raise ShapeError("some batch is smaller than the others, and the model's batch has a fixed size",
                             seen=fixed[0].type, hint="drop_last=True, or a dynamic first axis")  # fmt: skip

    def _first_axes(self, inputs: Batch) -> dict[str, dict[int, Any]]:
        """One symbol for the first axes that are as long as the batch."""
        trainable = import_training(self._model, example_inputs=inputs)
        batch, rows = symbol("batch"), rows_of(inputs)
        named = zip(trainable.data_inputs, inputs, strict=True)
        return {v.name: {0: batch} for v, x in named if x.ndim and len(x) == rows and v.type.shape[0] == rows}

    # Evaluation and prediction

    def evaluate(self, data: Any, *, batch_size: int | None = None, average: bool = False) -> Logs:
        """The mean loss and the metrics over data (as for `fit`, in order), of the model in inference mode.

        With `average`, of the moving averages of its parameters that the option `average=` keeps.
        """
        source = self._in_order(data, batch_size)
        if self._step is None:
            source = self._compiled(source)
        with deferred_interrupt() as interruption:
            try:
                return self._evaluate(source, interruption, average)
            except Interrupted:
                raise KeyboardInterrupt from None

    def predict(self, data: Any, *, batch_size: int | None = None, average: bool = False) -> Any:
        """The model's outputs for inputs: an array, a tuple of arrays, or an iterable of batches of inputs alone.

        Outputs of all batches are joined along the first axis; one output bare, several as a tuple.
        """
        arrays = isinstance(data, tuple | np.ndarray) or hasattr(data, "__dlpack__")
        source = self._in_order((data,) if arrays and not isinstance(data, tuple) else data, batch_size)
        forward, values = self._forward_program(), self._values(average)
        batches = [forward(values, batch) for batch in source.epoch(0)]
        outputs = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _evaluate(self, source: Source, interruption: Interruption, average: bool = False) -> Logs:
        forward, values = self._forward_program(), self._values(average)
        total, rows, sums = 0.0, 0, dict[str, list[float]]()
        with closing(prefetched(source.epoch(0), interruption.check)) as ready:
            for batch in ready:
                interruption.check()
                count = len(forward.data)
                outputs, targets = forward(values, batch[:count]), batch[count:]
                if self._scores is None:
                    self._scores = Scores(forward, targets, rows_of(batch), self.loss, self.metrics)
                loss, found = self._scores(outputs, targets)
                total, rows = total + loss * rows_of(batch), rows + rows_of(batch)
                sums = {name: add_sums(sums.get(name), v) for name, v in found.items()}
        if not rows:
            raise ShapeError("there is no batch in the data to evaluate")
        return {"loss": total / rows, **self._metrics(sums)}

    def _in_order(self, data: Any, batch_size: int | None) -> Source:
        size = batch_size or self._batch_size or 32
        return source_of(data, size, shuffle=False, seed=self.seed, drop_last=False)

    def _forward_program(self) -> Forward:
        if self._forward is None:
            backend = self._options.get("backend", "llvm")
            given = () if isinstance(backend, str) else (backend,)
            self._forward = Forward(self.step.trainable, self.step.executable.options, given)
        return self._forward

    def _values(self, average: bool) -> dict[str, np.ndarray]:
        values = {**self.step.parameters, **self.step.state}
        if average:
            if not self.step.averages:
                raise GraphcError("no averages are kept", hint="Trainer(..., average=0.999)")
            values |= self.step.averages
        return {n: np.ascontiguousarray(a) for n, a in values.items()}

    def _metrics(self, sums: Mapping[str, Sequence[float]]) -> Logs:
        return {m.name: m.value(np.asarray(sums[m.name])) for m in self.metrics}

    # Checkpoints

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything that training goes on from: a safetensors file, which is whole or absent."""
        save_training(path, self.step, self.progress, self.history, self.callbacks, self._data_key())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Goes back to what `save` wrote. Raises ArtifactError, and changes nothing, for a file of another training."""
        self.progress, self.history = load_training(path, self.step, self.callbacks, self._data_key())

    def _data_key(self) -> str:
        return f"seed {self.seed}, batches of {self._batch_size}"


class _Begun:
    """A source of which an epoch was begun already, to see its first batch."""

    def __init__(self, source: Source, number: int, batches: Iterator[Batch]) -> None:
        self._source, self._number, self._batches = source, number, batches
        self.length, self.uneven = source.length, source.uneven

    def epoch(self, number: int) -> Iterator[Batch]:
        if number == self._number:
            self._number = -1
            return self._batches
        self._batches = iter(())
        return self._source.epoch(number)
