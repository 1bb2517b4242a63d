"""What to do about a loss that isn't finite: go back before the batch that made it, and name the layer it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from graphc.errors import NumericError
from graphc.ir.graph import Node, Value
from graphc.training.step import TrainingStep

LEAST_KEPT_BYTES = 16 << 20
"""Of batches between two snapshots: with small batches, copying what is kept must not take more time than training."""


class Rewind:
    """Snapshots of a step, and the batches since the last one, with which any later moment comes again to the same bits.

    A snapshot is made when the batches take as many bytes as what is copied, and at least LEAST_KEPT_BYTES.
    """

    def __init__(self, step: TrainingStep) -> None:
        self._step = step
        self._batches: list[Sequence[np.ndarray]] = []
        self._bytes = 0
        self.mark()

    def mark(self) -> None:
        """Takes a snapshot."""
        self._snapshot = self._step.snapshot()
        self._limit = max(LEAST_KEPT_BYTES, sum(a.nbytes for a in self._snapshot.values()))
        self._batches, self._bytes = [], 0

    def add(self, batch: Sequence[np.ndarray]) -> None:
        """Notes a batch that the step is about to be called with."""
        if self._bytes > self._limit:
            self.mark()
        self._batches.append(batch)
        self._bytes += sum(a.nbytes for a in batch)

    @property
    def count(self) -> int:
        """How many batches it can go back."""
        return len(self._batches)

    def back(self, count: int) -> Sequence[np.ndarray]:
        """Takes the step back to before the last `count` batches; the first of them."""
        self._step.restore(self._snapshot)
        first = len(self._batches) - count
        for batch in self._batches[:first]:
            self._step(*batch)
        return self._batches[first]


def nonfinite_loss(step: TrainingStep, rewind: Rewind, loss: float, where: str) -> tuple[NumericError, int]:
    """The error for a loss of the last batch that isn't finite, which names the first layer with a NaN, or else an infinity.

    The layer is found by running steps again in the interpreter, which may take long: that of the batch, and where a
    parameter was NaN already, the one before. The step is left as it was before the trouble began: so many batches back.
    """
    search, back = _search(step, rewind, 1), 1
    if search.of_kept and rewind.count > 1:
        earlier = _search(step, rewind, 2)
        if earlier.found is not None:
            search, back = earlier, 2
        else:
            rewind.back(1)
    value = search.found
    if value is None:
        hint = 'it is finite in the interpreter: numerics="strict" may help'
        return NumericError(f"the loss is {loss} {where}", layer="unknown", hint=hint), back
    what = "NaN" if search.nan is not None else "infinity"
    seen = f"the first {what}, in {_named(value)}"
    if value.producer is not None:
        seen += "".join(f"\noperand {_range(v, search.ranges)}" for v in value.producer.operands[:4])
    hint = "a lower learning rate or clip_norm= may help, or a look at the data; the step is as it was before"
    return NumericError(f"the loss is {loss} {where}", layer=_layer(value), seen=seen, hint=hint), back


class _Found(Exception):
    """Ends the interpreter's run at the first NaN."""


def _search(step: TrainingStep, rewind: Rewind, back: int) -> _Search:
    batch = rewind.back(back)
    search = _Search(len(batch))
    with suppress(_Found):
        step.interpret(*batch, watch=search)
    return search


class _Search:
    """Watches a run: the first value with a NaN, and the first with an infinity that isn't only moved from an operand."""

    def __init__(self, batch: int) -> None:
        """batch: how many arrays it has; the graph's other inputs are what the step keeps."""
        self.nan: Value | None = None
        self.infinite: Value | None = None
        self.ranges: dict[Value, tuple[float, float]] = {}
        self.of_kept = False
        self._seen, self._batch = 0, batch

    @property
    def found(self) -> Value | None:
        return self.nan if self.nan is not None else self.infinite

    def __call__(self, value: Value, array: np.ndarray) -> None:
        self._seen += 1
        if not value.type.dtype.is_float or array.size == 0:
            return
        wide = array.astype(np.float64) if array.dtype.itemsize == 2 else array
        low, high = float(wide.min()), float(wide.max())
        self.ranges[value] = low, high
        if np.isnan(low):
            self.nan = value
            self.of_kept = value.producer is None and self._seen > self._batch
            raise _Found
        # Masks hold infinities on purpose: what is only moved or chosen from them is no trouble by itself.
        if self.infinite is None and not np.isfinite([low, high]).all() and _computed(value.producer):
            self.infinite = value
            self.of_kept = value.producer is None and self._seen > self._batch


def _computed(node: Node | None) -> bool:
    if node is None:
        return True
    return not (node.op.name in ("constant", "select", "pad", "concat") or "view" in node.op.traits)


def _named(value: Value) -> str:
    return f"%{value.name}" if value.producer is None else f"{value.producer.op.name} (%{value.name})"


def _layer(value: Value) -> str:
    if value.producer is None:
        return value.name
    return ", ".join(value.producer.origin) or f"%{value.name}"


def _range(value: Value, ranges: dict[Value, tuple[float, float]]) -> str:
    found = ranges.get(value)
    return f"{value}" + (f" from {found[0]:.4g} to {found[1]:.4g}" if found is not None else "")
