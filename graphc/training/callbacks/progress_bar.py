"""A bar for each epoch, with loss, throughput and the time that is left; on a terminal alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from graphc.training.callbacks.callback import Callback, Logs

if TYPE_CHECKING:
    from graphc.training.trainer import Trainer

REFRESH_SECONDS = 0.1


class ProgressBar(Callback):
    """Shows each epoch's batches, the mean loss, samples a second and the rest of the time; then a line of its logs.

    Where the output is no terminal it shows nothing. Made by the Trainer, unless `progress=False`.
    """

    def __init__(self, console: Any = None) -> None:
        """console: rich's, of another than the standard output."""
        self._console = console
        self._bar: Any = None
        self._shown = 0.0

    def on_start(self, trainer: Trainer, resumed: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = self._console if self._console is not None else Console()
        if not console.is_terminal:
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=console, transient=True, refresh_per_second=1 / REFRESH_SECONDS)
        self._bar.start()
        self._task = self._bar.add_task("", total=trainer.epoch_batches, numbers="")
        self._begin(trainer)

    def on_batch(self, trainer: Trainer, loss: float) -> None:
        now = time.perf_counter()
        if self._bar is None or now - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        p = trainer.progress
        rate = (p.samples - self._from) / max(now - self._since, 1e-9)
        self._bar.update(self._task, completed=p.batch, numbers=f"loss {p.mean_loss:.4f}, {rate:,.0f} samples/s")

    def on_epoch(self, trainer: Trainer, logs: Logs) -> None:
        if self._bar is None:
            return
        text = ", ".join(f"{name} {value:.4g}" for name, value in logs.items())
        self._bar.console.print(f"epoch {trainer.progress.epoch}: {text}", highlight=False)
        self._bar.reset(self._task, total=trainer.epoch_batches)
        self._begin(trainer)

    def on_end(self, trainer: Trainer, finished: bool) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _begin(self, trainer: Trainer) -> None:
        p = trainer.progress
        self._since, self._from = time.perf_counter(), p.samples
        description = f"epoch {p.epoch + 1}/{trainer.epochs}"
        self._bar.update(self._task, description=description, completed=p.batch, total=trainer.epoch_batches)
