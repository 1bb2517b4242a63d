"""Checkpoints: files from which training goes on to the same bits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graphc.training.callbacks.callback import Callback, Logs, monitored

if TYPE_CHECKING:
    from graphc.training.trainer import Trainer


class Checkpoint(Callback):
    """Writes `trainer.save(path)`: after each epoch, after every `batches` batches too if given, and when interrupted.

    The file is always whole: a new one takes the old one's place at once. "{epoch}" in the path is the epoch's number. With
    `monitor` only epochs are written that are better than all before. Checkpoints are told last of all callbacks.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, batches: int | None = None, monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> None:  # fmt: skip
        self.path, self.batches, self.monitor = os.fspath(path), batches, monitor
        self.sign = 1.0 if mode == "min" else -1.0
        self.best: float | None = None

    def _save(self, trainer: Trainer) -> None:
        trainer.save(Path(self.path.replace("{epoch}", str(trainer.progress.epoch))))

    def on_batch(self, trainer: Trainer, loss: float) -> None:
        if self.batches is not None and trainer.progress.batches % self.batches == 0:
            self._save(trainer)

    def on_epoch(self, trainer: Trainer, logs: Logs) -> None:
        if self.monitor is not None:
            value = monitored(logs, self.monitor)
            if self.best is not None and self.sign * value >= self.sign * self.best:
                return
            self.best = value
        self._save(trainer)

    def on_end(self, trainer: Trainer, finished: bool) -> None:
        if not finished and self.monitor is None:
            self._save(trainer)

    def state(self) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
        return {"best": self.best}, {}

    def load_state(self, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.best = values["best"]
