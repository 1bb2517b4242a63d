"""Callbacks at work in a Trainer: stopping, rates, checkpoints, logs and the bar."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import graphc
from graphc.errors import GraphcError
from graphc.training.callbacks import (
    Callback,
    Checkpoint,
    CSVLog,
    EarlyStopping,
    EpochRate,
    Logs,
    ProgressBar,
    ReduceOnPlateau,
)
from graphc.training.schedules import Plateau, StepDecay

Make = Callable[..., graphc.Trainer]
Arrays = tuple[np.ndarray, np.ndarray]


class Scripted(Callback):
    """Replaces a logged value by given numbers, for the callbacks after it; keeps the parameters of each epoch."""

    def __init__(self, name: str, values: list[float]) -> None:
        self.name, self.values = name, values
        self.parameters: list[dict[str, np.ndarray]] = []
        self.rates: list[float] = []

    def on_epoch(self, trainer: graphc.Trainer, logs: Logs) -> None:
        logs[self.name] = self.values[trainer.progress.epoch - 1]
        self.parameters.append({n: a.copy() for n, a in trainer.step.parameters.items()})
        self.rates.append(logs["rate"])


def _same(step: graphc.TrainingStep, parameters: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a, parameters[n]) for n, a in step.parameters.items())


def test_early_stopping_restores_the_best_weights(trainer: Make, arrays: Arrays) -> None:
    script = Scripted("val_loss", [3.0, 2.0, 1.0, 1.5, 0.99, 1.2, 1.1, 0.5])
    stopping = EarlyStopping(patience=3, min_delta=0.05)
    t = trainer([script, stopping])
    history = t.fit(arrays, epochs=20, batch_size=16)
    assert len(history) == 6  # 0.99 is no improvement by 0.05
    assert stopping.best_epoch == 3
    assert _same(t.step, script.parameters[2])
    assert "epoch 3" in str(t.progress.stopped)


def test_early_stopping_for_the_greatest(trainer: Make, arrays: Arrays) -> None:
    script = Scripted("score", [1.0, 3.0, 2.0, 2.5])
    t = trainer([script, EarlyStopping("score", 10, mode="max", restore_best=True)])
    t.fit(arrays, epochs=4, batch_size=16)  # not stopped, and the best all the same
    assert _same(t.step, script.parameters[1])
    kept = Scripted("score", [1.0, 3.0, 2.0, 2.5])
    t = trainer([kept, EarlyStopping("score", 2, mode="max", restore_best=False)])
    t.fit(arrays, epochs=10, batch_size=16)
    assert _same(t.step, kept.parameters[3])


def test_a_value_that_is_not_logged_is_refused(trainer: Make, arrays: Arrays) -> None:
    with pytest.raises(GraphcError, match="no such value") as caught:
        trainer([EarlyStopping()]).fit(arrays, epochs=1, batch_size=16)
    assert "validation" in str(caught.value)


def test_rates_by_the_epoch_and_on_a_plateau(trainer: Make, arrays: Arrays) -> None:
    script = Scripted("val_loss", [1.0] * 7)
    trainer([script, EpochRate(StepDecay(1.0, 2, 0.5))], optimizer=graphc.SGD(0.4)).fit(arrays, epochs=5, batch_size=16)
    assert script.rates == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.1])
    script = Scripted("val_loss", [1.0] * 7)
    plateau = ReduceOnPlateau(plateau=Plateau(1.0, factor=0.1, patience=1))
    trainer([script, plateau], optimizer=graphc.SGD(0.4)).fit(arrays, epochs=5, batch_size=16)
    assert script.rates == pytest.approx([0.4, 0.4, 0.4, 0.04, 0.04])


def test_checkpoints_of_the_best_epochs_alone(trainer: Make, arrays: Arrays, tmp_path: Path) -> None:
    script = Scripted("val_loss", [3.0, 2.0, 2.5, 1.0])
    every, best = Checkpoint(tmp_path / "all-{epoch}"), Checkpoint(tmp_path / "best-{epoch}", monitor="val_loss")
    t = trainer([every, best, script])  # checkpoints come last by themselves
    t.fit(arrays, epochs=4, batch_size=16)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["all-1", "all-2", "all-3", "all-4", "best-1", "best-2", "best-4"]
    t.load(tmp_path / "best-2")
    assert _same(t.step, script.parameters[1])
    assert t.progress.epoch == 2 and len(t.history) == 2


def test_csv_has_a_row_for_each_epoch(trainer: Make, arrays: Arrays, tmp_path: Path) -> None:
    t = trainer([CSVLog(tmp_path / "log.csv")], metrics=["accuracy"])
    history = t.fit(arrays, epochs=3, batch_size=16, validation=arrays)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert list(rows[0]) == ["epoch", "loss", "accuracy", "rate", "val_loss", "val_accuracy", "seconds"]
    assert [int(r["epoch"]) for r in rows] == [1, 2, 3]
    for row, logs in zip(rows, history, strict=True):
        assert float(row["val_loss"]) == logs["val_loss"]


def _fit_with_bar(make: Make, arrays: Arrays, **terminal: Any) -> str:
    shown = io.StringIO()
    bar = ProgressBar(Console(file=shown, width=120, **terminal))
    make([bar], progress=False, metrics=["accuracy"]).fit(arrays, epochs=2, batch_size=16)
    return shown.getvalue()


def test_the_bar_is_for_terminals_alone(trainer: Make, arrays: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    text = _fit_with_bar(trainer, arrays, force_terminal=True)
    assert "epoch 1/2" in text and "samples/s" in text
    assert "epoch 2: loss" in text and "accuracy" in text
    assert _fit_with_bar(trainer, arrays, force_terminal=False) == ""
    trainer().fit(arrays, epochs=1, batch_size=16)
    assert capsys.readouterr().out == ""
