"""Learning rates that change by the epoch, or when a value improves no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.training.callbacks.callback import Callback, Logs, monitored
from graphc.training.schedules import Plateau, Schedule

if TYPE_CHECKING:
    from graphc.training.trainer import Trainer


class EpochRate(Callback):
    """Multiplies the optimizers' rates by factor(epoch), the epoch counted from 0: a schedule by epochs, of rate 1.

    A schedule given to an optimizer counts updates instead.
    """

    def __init__(self, factor: Schedule) -> None:
        self.factor = factor

    def on_start(self, trainer: Trainer, resumed: bool) -> None:
        if not resumed:
            trainer.step.rate_factor = self.factor(trainer.progress.epoch)

    def on_epoch(self, trainer: Trainer, logs: Logs) -> None:
        trainer.step.rate_factor = self.factor(trainer.progress.epoch)


class ReduceOnPlateau(Callback):
    """Multiplies the optimizers' rates by what a `Plateau` of rate 1, which observes a logged value each epoch, says."""

    def __init__(self, monitor: str = "val_loss", plateau: Plateau | None = None) -> None:
        self.monitor = monitor
        self.plateau = plateau if plateau is not None else Plateau(1.0)

    def on_epoch(self, trainer: Trainer, logs: Logs) -> None:
        self.plateau.observe(monitored(logs, self.monitor))
        trainer.step.rate_factor = self.plateau.rate

    def state(self) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
        p = self.plateau
        return {"rate": p.rate, "best": p.best, "bad": p.bad, "cooling": p.cooling}, {}

    def load_state(self, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        p = self.plateau
        p.rate, p.best, p.bad, p.cooling = (values[k] for k in ("rate", "best", "bad", "cooling"))
