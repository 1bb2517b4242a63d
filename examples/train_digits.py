"""Trains a small convolutional net on scikit-learn's digits to 98% of right answers on held-out images, in seconds.

    python examples/train_digits.py

It needs scikit-learn for the images, and writes digits.csv (the curves) and digits.safetensors (a checkpoint) where it is run.
"""

import time

import numpy as np
from sklearn.datasets import load_digits

import graphc
import graphc_nn as nn
from graphc.training.callbacks import Checkpoint, CSVLog, EarlyStopping
from graphc.training.schedules import OneCycle

BATCH, EPOCHS = 30, 15

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
images = (digits.images[order, None] / 16).astype(np.float32)  # (1797, 1, 8, 8), of 0 to 1
labels = digits.target[order]
train, held_out = slice(0, 1440), slice(1440, None)

net = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm(32), nn.relu,
    nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm(32), nn.relu, nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm(64), nn.relu, nn.MaxPool2d(2),
    nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, 10),
).initialize(seed=0)  # fmt: skip

start = time.perf_counter()
trainer = graphc.Trainer(
    net,
    loss="cross_entropy",
    optimizer=graphc.AdamW(OneCycle(5e-3, EPOCHS * 1440 // BATCH)),
    metrics=["accuracy"],
    callbacks=[EarlyStopping("val_loss", patience=5), CSVLog("digits.csv"), Checkpoint("digits.safetensors")],
)
trainer.fit(
    (images[train], labels[train]), epochs=EPOCHS, batch_size=BATCH, validation=(images[held_out], labels[held_out])
)
seconds = time.perf_counter() - start

scores = trainer.evaluate((images[held_out], labels[held_out]))
print(f"{scores['accuracy']:.1%} of {len(labels[held_out])} held-out digits are right, after {seconds:.0f} s")
assert scores["accuracy"] >= 0.98

exe = trainer.step.inference()  # the trained net by itself, with its batch norms folded
print(f"compiled for inference: {exe(images[-BATCH:]).argmax(1)[:10]} is {labels[-BATCH:][:10]}")
