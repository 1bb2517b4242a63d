"""What a callback is: it is told what happens in training, and may stop it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.errors import GraphcError

if TYPE_CHECKING:
    from graphc.training.trainer import Trainer

Logs = dict[str, float]
"""Of an epoch: "loss", metrics, "val_loss", "val_..." of each metric, "rate", "seconds"."""


class Callback:
    """Does nothing: each method is there to be overridden.

    `trainer.progress` says where training is, `trainer.step` is the compiled step, `trainer.stop(reason)` ends training
    after the current epoch's callbacks. What a callback must know again after resuming goes through `state` and `load_state`.
    """

    def on_start(self, trainer: Trainer, resumed: bool) -> None:
        """Before the first batch of a fit; the step is compiled."""

    def on_batch(self, trainer: Trainer, loss: float) -> None:
        """After each batch."""

    def on_epoch(self, trainer: Trainer, logs: Logs) -> None:
        """After each epoch and its validation."""

    def on_end(self, trainer: Trainer, finished: bool) -> None:
        """At the end; not `finished` where it was interrupted, or the data raised, and training may go on later."""

    def state(self) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
        """What a checkpoint keeps of it: values for JSON, and arrays."""
        return {}, {}

    def load_state(self, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Takes back what `state` gave."""


def monitored(logs: Logs, name: str) -> float:
    """The logged value of that name; raises GraphcError where there is none."""
    if name not in logs:
        hint = "val_... needs fit(validation=)" if name.startswith("val_") else None
        raise GraphcError("there is no such value to monitor", seen=name, expected=", ".join(logs), hint=hint)
    return logs[name]
