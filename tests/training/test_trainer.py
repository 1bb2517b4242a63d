"""The Trainer: what it learns and logs, and how it ends, goes on and tells of trouble."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import graphc
from graphc.errors import ArtifactError, GraphcError, NumericError, ShapeError
from graphc.ir.types import f32
from graphc.training.callbacks import Callback, Checkpoint, EarlyStopping, Logs
from graphc.training.data import source_of
from graphc_reference import BACKEND

Make = Callable[..., graphc.Trainer]
Arrays = tuple[np.ndarray, np.ndarray]


def _check_same(a: graphc.Trainer, b: graphc.Trainer) -> None:
    """The same bits in everything that is kept, and the same logs but for times."""
    kept = b.step.snapshot()
    for label, value in a.step.snapshot().items():
        np.testing.assert_array_equal(value, kept[label], err_msg=label)
    without_times = [[{k: v for k, v in logs.items() if k != "seconds"} for logs in t.history] for t in (a, b)]
    assert without_times[0] == without_times[1]
    assert a.progress == b.progress


class Breaking(Callback):
    """Does something after some batch."""

    def __init__(self, after: int, act: Callable[[], None]) -> None:
        self.after, self.act = after, act

    def on_batch(self, trainer: graphc.Trainer, loss: float) -> None:
        if trainer.progress.batches == self.after:
            self.act()


def test_learns_and_logs(trainer: Make, arrays: Arrays) -> None:
    t = trainer(metrics=["accuracy"])
    history = t.fit(arrays, epochs=20, batch_size=16, validation=arrays)
    assert len(history) == 20
    assert history[-1]["accuracy"] > 0.85 > history[0]["accuracy"]
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert set(history[0]) == {"loss", "accuracy", "rate", "val_loss", "val_accuracy", "seconds"}
    assert t.step.steps == t.progress.batches == 200


def test_validation_and_prediction_are_of_the_trained_model(trainer: Make, arrays: Arrays) -> None:
    t, (x, y) = trainer(metrics=["accuracy"]), arrays
    (logs,) = t.fit(arrays, epochs=1, batch_size=16, validation=(x[:40], y[:40]))  # two batches and a half
    p = t.step.parameters
    scores = np.tanh(x @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]
    expected = F.cross_entropy(torch.from_numpy(scores[:40]), torch.from_numpy(y[:40])).item()
    assert logs["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["val_accuracy"] == (scores[:40].argmax(1) == y[:40]).mean()
    np.testing.assert_allclose(t.predict(x[:23]), scores[:23], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(t.predict([x[:16], x[16:20]]), scores[:20], rtol=1e-4, atol=1e-6)
    assert t.evaluate([(x[:16], y[:16])])["loss"] == pytest.approx(
        F.cross_entropy(torch.from_numpy(scores[:16]), torch.from_numpy(y[:16])).item(), rel=1e-5
    )


def test_fit_goes_on_where_it_was(trainer: Make, arrays: Arrays) -> None:
    whole, parts = trainer(), trainer()
    whole.fit(arrays, epochs=4, batch_size=16)
    parts.fit(arrays, epochs=1, batch_size=16)
    parts.fit(arrays, epochs=4, batch_size=16)
    _check_same(whole, parts)


def test_the_seed_is_that_of_the_order(trainer: Make, arrays: Arrays) -> None:
    losses = [trainer(seed=seed).fit(arrays, epochs=1, batch_size=16)[0]["loss"] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_batches_of_every_size(trainer: Make, arrays: Arrays) -> None:
    t = trainer(batch=graphc.Dim("batch"))
    t.fit((arrays[0][:43], arrays[1][:43]), epochs=2, batch_size=16, validation=(arrays[0][:21], arrays[1][:21]))
    assert t.progress.batches == 6 and t.progress.samples == 86
    assert t.predict(arrays[0][:5]).shape == (5, 3)


def test_a_fixed_batch_and_a_smaller_last_one(trainer: Make, arrays: Arrays) -> None:
    x, y = arrays[0][:40], arrays[1][:40]
    with pytest.raises(ShapeError, match="smaller than the others"):
        trainer().fit((x, y), epochs=1, batch_size=16)
    t = trainer()
    t.fit((x, y), epochs=1, batch_size=16, drop_last=True)
    assert t.progress.samples == 32


def test_averages_are_evaluated_on_request(trainer: Make, arrays: Arrays) -> None:
    t = trainer(average=0.9)
    t.fit(arrays, epochs=1, batch_size=16)
    now, averaged = t.predict(arrays[0]), t.predict(arrays[0], average=True)
    expected = t.step.inference(average=True)(arrays[0][:16])
    np.testing.assert_allclose(averaged[:16], expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(now, averaged)
    assert t.evaluate(arrays, average=True)["loss"] != t.evaluate(arrays)["loss"]
    with pytest.raises(GraphcError, match="no averages"):
        plain = trainer()
        plain.fit(arrays, epochs=1, batch_size=16)
        plain.evaluate(arrays, average=True)


def test_a_backend_that_is_not_installed(trainer: Make, arrays: Arrays) -> None:
    t = trainer(backend=BACKEND)
    t.fit(arrays, epochs=1, batch_size=16, validation=arrays)
    native = trainer()
    native.fit(arrays, epochs=1, batch_size=16, validation=arrays)
    assert t.history[0]["val_loss"] == pytest.approx(native.history[0]["val_loss"], rel=1e-4)


def _of_torch(arrays: Arrays, callbacks: Sequence[Callback] = ()) -> tuple[graphc.Trainer, torch.nn.Module, Any]:
    """A Trainer of a module with batch statistics and dropout, the module, and a loader that shuffles."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 3)
    )
    data = torch.utils.data.TensorDataset(*map(torch.from_numpy, arrays))
    loader = torch.utils.data.DataLoader(data, batch_size=24, shuffle=True)  # 160 rows: the last batch is smaller
    t = graphc.Trainer(module, loss="cross_entropy", optimizer=graphc.Adam(1e-2), callbacks=callbacks, threads=1)
    return t, module, loader


def test_a_torch_module_with_its_loader(arrays: Arrays, tmp_path: Path) -> None:
    whole, module, loader = _of_torch(arrays)
    history = whole.fit(loader, epochs=4, validation=arrays)
    assert history[-1]["val_loss"] < history[0]["val_loss"]
    whole.step.write_back()
    with torch.no_grad():
        expected = F.cross_entropy(module.eval()(torch.from_numpy(arrays[0])), torch.from_numpy(arrays[1]))
    assert history[-1]["val_loss"] == pytest.approx(expected.item(), rel=1e-4)

    checkpoint = tmp_path / "c"
    stop = Breaking(10, lambda: os.kill(os.getpid(), signal.SIGINT))  # in the second epoch
    first, _, loader = _of_torch(arrays, [stop, Checkpoint(checkpoint)])
    first.fit(loader, epochs=4, validation=arrays)
    second, _, loader = _of_torch(arrays)
    second.fit(loader, epochs=4, validation=arrays, resume=checkpoint)
    _check_same(whole, second)


class Times(Callback):
    def __init__(self) -> None:
        self.ended: list[bool] = []

    def on_end(self, trainer: graphc.Trainer, finished: bool) -> None:
        self.ended.append(finished)


@pytest.mark.parametrize("after", [3, 10, 13])
def test_ctrl_c_loses_nothing(trainer: Make, arrays: Arrays, tmp_path: Path, after: int) -> None:
    whole = trainer([EarlyStopping("loss", 50)], metrics=["accuracy"])
    whole.fit(arrays, epochs=3, batch_size=16)

    times = Times()
    broken = trainer(
        [Breaking(after, lambda: os.kill(os.getpid(), signal.SIGINT)), EarlyStopping("loss", 50),
         Checkpoint(tmp_path / "c"), times],
        metrics=["accuracy"],
    )  # fmt: skip
    broken.fit(arrays, epochs=3, batch_size=16)
    assert broken.progress.batches == after
    assert times.ended == [False]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    resumed = trainer([EarlyStopping("loss", 50), Checkpoint(tmp_path / "c")], metrics=["accuracy"])
    resumed.fit(arrays, epochs=3, batch_size=16, resume=tmp_path / "c")
    _check_same(whole, resumed)
    broken.fit(arrays, epochs=3, batch_size=16)  # and the one that was interrupted goes on by itself
    _check_same(whole, broken)


def test_ctrl_c_while_the_data_are_waited_for(trainer: Make, arrays: Arrays) -> None:
    def stuck(epoch: int) -> Iterator[Any]:
        yield from source_of(arrays, 16, shuffle=False, seed=0, drop_last=True).epoch(0)
        while t.progress.batch < 10:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    t = trainer()
    t.fit(stuck, epochs=3)
    assert (t.progress.epoch, t.progress.batch) == (0, 10)


def test_data_that_fail_for_ctrl_c_are_no_failure(trainer: Make, arrays: Arrays) -> None:
    def batches(epoch: int) -> Iterator[Any]:
        yield from source_of(arrays, 16, shuffle=False, seed=0, drop_last=True).epoch(0)
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("a worker exited unexpectedly")

    t = trainer()
    t.fit(batches, epochs=3)
    assert t.progress.epoch == 0 and t.progress.stopped is None


def test_ctrl_c_twice_ends_at_once(trainer: Make, arrays: Arrays) -> None:
    def press() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer([Breaking(3, press)]).fit(arrays, epochs=1, batch_size=16)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_resuming_without_a_file_begins_anew(trainer: Make, arrays: Arrays, tmp_path: Path) -> None:
    t = trainer([Checkpoint(tmp_path / "c")])
    t.fit(arrays, epochs=2, batch_size=16, resume=tmp_path / "c")
    again = trainer([Checkpoint(tmp_path / "c")])
    again.fit(arrays, epochs=2, batch_size=16, resume=tmp_path / "c")  # nothing is left to do
    _check_same(t, again)


def test_a_stopped_training_stays_stopped(trainer: Make, arrays: Arrays, tmp_path: Path) -> None:
    def callbacks() -> list[Callback]:
        return [EarlyStopping("rate", 2), Checkpoint(tmp_path / "c")]  # the rate never improves

    t, again = trainer(callbacks()), trainer(callbacks())
    t.fit(arrays, epochs=9, batch_size=16)
    again.fit(arrays, epochs=9, batch_size=16, resume=tmp_path / "c")
    assert t.progress.epoch == 3 and t.step.steps == 10  # the best was the first
    _check_same(t, again)


def test_a_failing_dataset_leaves_a_checkpoint_to_go_on_from(trainer: Make, arrays: Arrays, tmp_path: Path) -> None:
    def data(broken: bool) -> Callable[[int], Iterator[Any]]:
        def batches(epoch: int) -> Iterator[Any]:
            for i, batch in enumerate(source_of(arrays, 16, shuffle=True, seed=7, drop_last=True).epoch(epoch)):
                if broken and (epoch, i) == (1, 4):
                    raise OSError("the disk is gone")
                yield batch

        return batches

    whole, broken, resumed = (trainer([Checkpoint(tmp_path / name)]) for name in "abb")
    whole.fit(data(False), epochs=2)
    with pytest.raises(OSError, match="the disk is gone"):
        broken.fit(data(True), epochs=2)
    assert broken.progress.batches == 14
    resumed.fit(data(False), epochs=2, resume=tmp_path / "b")
    _check_same(whole, resumed)


@pytest.mark.parametrize("at", [4, 17])
def test_nan_in_the_data_is_told_and_undone(trainer: Make, arrays: Arrays, tmp_path: Path, at: int) -> None:
    def batches(epoch: int) -> Iterator[Any]:
        for i, (x, y) in enumerate(source_of(arrays, 16, shuffle=True, seed=7, drop_last=True).epoch(epoch)):
            yield (x * np.float32(np.nan) if epoch * 10 + i == at else x), y

    t = trainer([Checkpoint(tmp_path / "c")])
    with pytest.raises(NumericError, match=rf"the loss is nan in batch {at % 10 + 1} of epoch {at // 10 + 1}") as caught:
        t.fit(batches, epochs=3)
    assert caught.value.layer == "x"
    assert t.progress.batches == t.step.steps == at
    assert all(np.isfinite(a).all() for a in t.step.parameters.values())


def _with_logarithm() -> graphc.Graph:
    """log of a product: NaN once the weight is negative."""
    b = graphc.Builder(graphc.Graph("net"))
    x = b.input("x", f32, (16, 6))
    b.origin = ("encoder",)
    w = b.constant(np.full((6, 3), 0.05, np.float32), "w")
    h = b.op("matmul", x, w)
    b.origin = ("odds.log",)
    return b.returns(b.op("log", h))


def test_the_first_layer_with_nan_is_named(arrays: Arrays) -> None:
    x = np.abs(arrays[0])
    t = graphc.Trainer(_with_logarithm(), loss="cross_entropy", optimizer=graphc.SGD(0.2), threads=1)
    with pytest.raises(NumericError) as caught:
        t.fit((x, arrays[1]), epochs=50, batch_size=16)
    assert caught.value.layer == "odds.log"
    assert "NaN, in log" in str(caught.value.seen)
    assert np.isfinite(t.predict(x)).all() or t.step.steps > 0


def test_an_infinite_gradient_is_found_a_step_later(arrays: Arrays) -> None:
    b = graphc.Builder(graphc.Graph("net"))
    x = b.input("x", f32, (16, 6))
    b.origin = ("root",)
    w = b.constant(np.zeros((6, 3), np.float32), "w")
    y = b.op("sqrt", b.op("abs", b.op("matmul", x, w)))  # finite at 0, but its gradient isn't
    t = graphc.Trainer(b.returns(y), loss="cross_entropy", optimizer=graphc.SGD(0.2), threads=1)
    with pytest.raises(NumericError, match="batch 2 of epoch 1") as caught:
        t.fit(arrays, epochs=1, batch_size=16)
    assert caught.value.layer == "root"
    assert t.step.steps == t.progress.batches == 0
    assert not t.step.parameters["w"].any()


def test_a_class_out_of_range_changes_nothing(trainer: Make, arrays: Arrays, tmp_path: Path) -> None:
    x, y = arrays
    wrong = y.copy()
    wrong[37] = 3
    t = trainer([Checkpoint(tmp_path / "c")])
    with pytest.raises(NumericError, match="index"):
        t.fit((x, wrong), epochs=1, batch_size=16, shuffle=False)
    assert t.step.steps == 2
    good = trainer()
    good.fit((x[:32], y[:32]), epochs=1, batch_size=16, shuffle=False)
    for name, value in good.step.parameters.items():
        np.testing.assert_array_equal(t.step.parameters[name], value)


def test_files_of_other_trainings_are_refused(trainer: Make, arrays: Arrays, tmp_path: Path) -> None:
    t = trainer()
    t.fit(arrays, epochs=1, batch_size=16)
    t.save(tmp_path / "whole")
    t.step.save(tmp_path / "step")
    (tmp_path / "broken").write_bytes((tmp_path / "whole").read_bytes()[:900])
    for name, message in (("broken", "damaged"), ("step", "no checkpoint of a Trainer"), ("missing", "damaged")):
        with pytest.raises(ArtifactError, match=message):
            t.load(tmp_path / name)
    with pytest.raises(ArtifactError, match="another order"):
        trainer(seed=1).fit(arrays, epochs=2, batch_size=16, resume=tmp_path / "whole")
    with pytest.raises(ArtifactError, match="another model or optimizer"):
        trainer(optimizer=graphc.SGD(0.1)).fit(arrays, epochs=2, batch_size=16, resume=tmp_path / "whole")


def test_refusals(trainer: Make, arrays: Arrays) -> None:
    with pytest.raises(GraphcError, match="no such loss"):
        trainer(loss="l33t")
    with pytest.raises(GraphcError, match="nothing is compiled"):
        _ = trainer().step
    with pytest.raises(ShapeError, match="no batch"):
        trainer().fit([], epochs=1)
    with pytest.raises(ShapeError, match="lack"):
        trainer().fit([()], epochs=1)


def test_callbacks_are_told_in_order(trainer: Make, arrays: Arrays) -> None:
    told: list[str] = []

    class Telling(Callback):
        def on_start(self, trainer: graphc.Trainer, resumed: bool) -> None:
            told.append(f"start {resumed}")

        def on_batch(self, trainer: graphc.Trainer, loss: float) -> None:
            told.append(f"batch {trainer.progress.batch}")

        def on_epoch(self, trainer: graphc.Trainer, logs: Logs) -> None:
            told.append(f"epoch {trainer.progress.epoch}")

        def on_end(self, trainer: graphc.Trainer, finished: bool) -> None:
            told.append(f"end {finished}")

    trainer([Telling()]).fit((arrays[0][:32], arrays[1][:32]), epochs=2, batch_size=16)
    assert told == ["start False", "batch 1", "batch 2", "epoch 1", "batch 1", "batch 2", "epoch 2", "end True"]
