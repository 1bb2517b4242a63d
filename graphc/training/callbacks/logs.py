"""Logs in files: one row of a CSV file, or points of TensorBoard's curves, for each epoch."""

from __future__ import annotations

import csv
import io
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from graphc.artifact import write_whole
from graphc.training.callbacks.callback import Callback, Logs
from graphc.training.callbacks.event_file import event_record, file_header

if TYPE_CHECKING:
    from graphc.training.trainer import Trainer


class CSVLog(Callback):
    """Writes a CSV file of each epoch's logs. A resumed training keeps the rows of the epochs before."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_epoch(self, trainer: Trainer, logs: Logs) -> None:
        rows = [{"epoch": i + 1, **row} for i, row in enumerate(trainer.history)]
        columns = dict.fromkeys(name for row in rows for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path, text.getvalue().encode())


class TensorBoardLog(Callback):
    """Writes TensorBoard's event files into a folder: a curve over epochs for each logged value, one over batches of the
    loss, with a point every `batches` batches.
    """

    def __init__(self, folder: str | os.PathLike[str], *, batches: int = 50) -> None:
        self.folder, self.batches = Path(folder), batches
        self._file: io.BufferedWriter | None = None

    def on_start(self, trainer: Trainer, resumed: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{os.getpid()}.{time.monotonic_ns()}"
        self._file = open(self.folder / name, "wb")  # noqa: SIM115 - closed when training ends
        self._file.write(file_header(now))

    def on_batch(self, trainer: Trainer, loss: float) -> None:
        if trainer.progress.batches % self.batches == 0:
            self._write(trainer.progress.batches, {"batch_loss": loss})

    def on_epoch(self, trainer: Trainer, logs: Logs) -> None:
        self._write(trainer.progress.epoch, logs)

    def on_end(self, trainer: Trainer, finished: bool) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, step: int, values: Logs) -> None:
        assert self._file is not None
        self._file.write(event_record(time.time(), step, values))
        self._file.flush()
