"""Writes a model in Python with graphc_nn, trains it, saves its weights, and loads them into another.

    python examples/train_python_model.py

It needs scikit-learn for the data: 1797 images of digits, each read as a sequence of eight rows by a recurrent network.
"""

import numpy as np
from sklearn.datasets import load_digits

import graphc
from graphc_nn import GRU, Linear, Module, Parameter, Tensor, initializers, relu


class Scale(Module):
    """A layer of one's own: a learned factor for each feature."""

    def __init__(self, features: int) -> None:
        self.factor = Parameter((features,), initializers.Ones)

    def forward(self, x: Tensor) -> Tensor:
        return x * x.of(self.factor)


class Reader(Module):
    """Scores of ten classes from rows: (N, 8, 8) to (N, 10)."""

    def __init__(self) -> None:
        self.scale, self.rows = Scale(8), GRU(8, 48, bidirectional=True)
        self.hidden, self.out = Linear(96, 32, weight=initializers.he()), Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        read = self.rows(self.scale(image))
        return self.out(relu(self.hidden(read.reduce("max", 1))))


digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
images, labels = (digits.images[order] / 16).astype(np.float32), digits.target[order]

model = Reader().initialize(seed=0)
trainer = graphc.Trainer(model, loss="cross_entropy", optimizer=graphc.Adam(5e-3), metrics=["accuracy"], threads=1)
trainer.fit((images[:1500], labels[:1500]), epochs=12, batch_size=50)
scores = trainer.evaluate((images[1500:], labels[1500:]))
print(f"{scores['accuracy']:.1%} of {len(labels) - 1500} held-out digits are right")
assert scores["accuracy"] > 0.9

trainer.step.write_back()  # into the model, whose arrays go by their paths
print(", ".join(f"{name} {list(array.shape)}" for name, array in model.parameters.items()))
np.savez("reader.npz", **model.parameters)

another = Reader()
another.load(dict(np.load("reader.npz")))
exe = graphc.compile(another, example_inputs=(images[:1],), dynamic={"image": {0: graphc.Dim("batch", 1, 64)}})
print(f"compiled for inference: {exe(images[-8:]).argmax(1)} is {labels[-8:]}")
