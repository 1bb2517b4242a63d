"""A training that is killed at a random moment and resumed ends with the same bits as one that wasn't."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

TRAINING = '''
import sys
import time
import numpy as np
import graphc
from graphc.ir.types import f32
from graphc.training.callbacks import Callback, Checkpoint, EarlyStopping

rng = np.random.default_rng(0)
b = graphc.Builder(graphc.Graph("net"))
h = b.input("x", f32, (8, 6))
for i, columns in enumerate((16, 3)):
    w = b.constant(rng.normal(size=(h.type.shape[1], columns)).astype(np.float32) * 0.3, f"w{i}")
    h = b.op("matmul", h, w)
    h = b.op("tanh", h) if i == 0 else h
graph = b.returns(h)

class Slow(Callback):
    def on_batch(self, trainer, loss):
        time.sleep(0.004)
        print(trainer.progress.batches, flush=True)

x = rng.normal(size=(83, 6)).astype(np.float32)
y = (x[:, :3] + rng.normal(size=(83, 3)) * 0.5).argmax(1)
path, final = sys.argv[1:]
trainer = graphc.Trainer(
    graph, loss="cross_entropy", optimizer=graphc.AdamW(1e-2), metrics=["accuracy"], threads=1,
    callbacks=[Slow(), EarlyStopping("val_loss", 50), Checkpoint(path, batches=7)],
)
trainer.fit((x, y), epochs=6, batch_size=8, drop_last=True, validation=(x, y), resume=path)
trainer.save(final)
'''


def _start(folder: Path, name: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", TRAINING, str(folder / f"{name}.checkpoint"), str(folder / f"{name}.final")]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_killed_and_resumed(tmp_path: Path) -> None:
    whole = _start(tmp_path, "whole")
    whole.communicate(timeout=120)
    assert whole.returncode == 0

    for _ in range(2):
        process = _start(tmp_path, "killed")
        assert process.stdout is not None
        for _ in range(random.randint(8, 20)):  # batches: a checkpoint is written after the seventh, and each epoch
            assert process.stdout.readline()
        time.sleep(random.uniform(0, 0.01))
        process.kill()
        process.communicate(timeout=60)
    last = _start(tmp_path, "killed")
    printed, _ = last.communicate(timeout=120)
    assert last.returncode == 0
    assert int(printed.split()[0]) > 1  # it went on, rather than from the beginning

    expected, seen = (load_file(tmp_path / f"{name}.final") for name in ("whole", "killed"))
    assert set(expected) == set(seen) and any(name.startswith("parameter:") for name in seen)
    for name, value in expected.items():
        np.testing.assert_array_equal(seen[name], value, err_msg=name)
