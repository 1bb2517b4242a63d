"""Stopping when a value improves no more, with the best weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graphc.training.callbacks.callback import Callback, Logs, monitored

if TYPE_CHECKING:
    from graphc.training.trainer import Trainer


class EarlyStopping(Callback):
    """Stops after `patience` epochs in a row in which a logged value didn't improve by more than `min_delta`.

    At the end of training, stopped or not, everything that the step keeps is again as after the best epoch, unless
    `restore_best` is false. An interrupted training is left as it is.
    """

    def __init__(
        self, monitor: str = "val_loss", patience: int = 5, *, mode: Literal["min", "max"] = "min", min_delta: float = 0.0,
        restore_best: bool = True,
    ) -> None:  # fmt: skip
        self.monitor, self.patience, self.min_delta, self.restore_best = monitor, patience, min_delta, restore_best
        self.sign = 1.0 if mode == "min" else -1.0
        self.best: float | None = None
        self.best_epoch = 0
        self.waited = 0
        self.snapshot: dict[str, np.ndarray] = {}

    def on_epoch(self, trainer: Trainer, logs: Logs) -> None:
        value = monitored(logs, self.monitor)
        if self.best is None or self.sign * value < self.sign * self.best - self.min_delta:
            self.best, self.best_epoch, self.waited = value, trainer.progress.epoch, 0
            self.snapshot = trainer.step.snapshot() if self.restore_best else {}
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.stop(f"{self.monitor} was best in epoch {self.best_epoch}, with {self.best:.6g}")

    def on_end(self, trainer: Trainer, finished: bool) -> None:
        if finished and self.snapshot:
            trainer.step.restore(self.snapshot)

    def state(self) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}, self.snapshot

    def load_state(self, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.best, self.best_epoch, self.waited = values["best"], values["best_epoch"], values["waited"]
        self.snapshot = dict(arrays)
