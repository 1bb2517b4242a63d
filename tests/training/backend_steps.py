"""Small models and a few training steps of each: what every backend is asked to do. As a script, for a process of its own:

python backend_steps.py results.pickle BACKEND MODEL...
"""

import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import graphc

STEPS = 4
Arrays = tuple[np.ndarray, ...]


class Tokens(nn.Module):
    """An encoder layer over embedded tokens, which says what comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.out = nn.Linear(8, 11)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(self.embedding(tokens))).transpose(1, 2)


class Recurrent(nn.Module):
    """An LSTM whose last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(x)[0][:, -1])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def deep() -> nn.Module:
    layers = [layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def cnn(dropout: float = 0.3) -> nn.Module:
    norm, pool = nn.BatchNorm2d(4), nn.MaxPool2d(3, stride=2, padding=1)
    head = (nn.Dropout(dropout), nn.Flatten(), nn.Linear(36, 3))
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm, nn.ReLU(), pool, *head)


def batch(name: str, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    match name:
        case "mlp" | "bf16":
            return rng.normal(size=(4, 5)).astype(np.float32), rng.integers(0, 3, 4)
        case "deep":
            return rng.normal(size=(32, 16)).astype(np.float32), rng.integers(0, 3, 32)
        case "cnn" | "plain cnn":
            return rng.normal(size=(2, 1, 6, 6)).astype(np.float32), rng.integers(0, 3, 2)
        case "transformer":
            tokens = rng.integers(0, 11, (2, 6))
            return tokens[:, :-1].copy(), tokens[:, 1:].copy()
    return rng.normal(size=(2, 4, 3)).astype(np.float32), rng.integers(0, 2, 2)


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "mlp": (mlp, {"optimizer": graphc.Adam(1e-2)}),
    "bf16": (mlp, {"optimizer": graphc.Adam(1e-2), "precision": "bf16"}),
    "cnn": (cnn, {"optimizer": graphc.SGD(0.1, momentum=0.9)}),
    "plain cnn": (lambda: cnn(0.0), {"optimizer": graphc.SGD(0.1, momentum=0.9)}),
    "transformer": (Tokens, {"optimizer": graphc.AdamW(1e-2), "clip_norm": 1.0}),
    "lstm": (Recurrent, {"optimizer": graphc.Adam(1e-2)}),
}


DEEP = {"deep": (deep, {"optimizer": graphc.SGD(0.1)})}
"""Which keeps much for its backward pass."""


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return (MODELS | DEEP)[name][0]()


def compiled(name: str, backend: Any, **options: Any) -> graphc.TrainingStep:
    given = {"loss": "cross_entropy", "backend": backend, "cache": False, **(MODELS | DEEP)[name][1], **options}
    return graphc.compile_training(made(name), example_inputs=batch(name, 0), **given)


def train(name: str, backend: Any) -> dict[str, Any]:
    """What STEPS batches gave: losses, the state, scores of inference, the loss that a resumed step goes on with."""
    step = compiled(name, backend)
    start = {n: a.copy() for n, a in step.parameters.items()}
    losses = [float(step(*batch(name, i))) for i in range(STEPS)]
    kept = {n: a.copy() for n, a in {**step.parameters, **step.state}.items()}
    scores = step.inference(backend=backend)(*batch(name, 9)[:1])
    with tempfile.TemporaryDirectory() as folder:
        step.save(Path(folder, "step.safetensors"))
        going_on = float(step(*batch(name, STEPS)))
        step.load(Path(folder, "step.safetensors"))
    return {
        "losses": losses,
        "kept": kept,
        "scores": scores,
        "next": (going_on, float(step(*batch(name, STEPS)))),
        "moved": all(not np.array_equal(kept[n], a) for n, a in start.items()),
    }


def in_torch(name: str) -> list[float]:
    """torch's own losses: of models without randomness."""
    model = made(name).train()
    make: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "mlp": lambda p: torch.optim.Adam(p, 1e-2),
        "plain cnn": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        "transformer": lambda p: torch.optim.AdamW(p, 1e-2),
        "lstm": lambda p: torch.optim.Adam(p, 1e-2),
    }
    optimizer = make[name](model.parameters())
    losses = []
    for i in range(STEPS):
        x, y = map(torch.from_numpy, batch(name, i))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if "clip_norm" in MODELS[name][1]:
            nn.utils.clip_grad_norm_(model.parameters(), MODELS[name][1]["clip_norm"])
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    results, backend, *names = sys.argv[1:]
    Path(results).write_bytes(pickle.dumps({name: train(name, backend) for name in names}))
