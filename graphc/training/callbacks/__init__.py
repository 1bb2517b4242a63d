"""Callbacks of the Trainer: early stopping, checkpoints, logs, learning rates, progress."""

from __future__ import annotations

from graphc.training.callbacks.callback import Callback, Logs
from graphc.training.callbacks.checkpoint import Checkpoint
from graphc.training.callbacks.early_stopping import EarlyStopping
from graphc.training.callbacks.logs import CSVLog, TensorBoardLog
from graphc.training.callbacks.progress_bar import ProgressBar
from graphc.training.callbacks.rates import EpochRate, ReduceOnPlateau

__all__ = [
    "CSVLog", "Callback", "Checkpoint", "EarlyStopping", "EpochRate", "Logs", "ProgressBar", "ReduceOnPlateau", "TensorBoardLog",
]  # fmt: skip
