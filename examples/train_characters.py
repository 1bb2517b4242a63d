"""Trains a character-level transformer on sixteen sonnets, beside torch with the same weights and batches.

    python examples/train_characters.py
    python examples/train_characters.py --steps 1000 --plot curves.svg

It needs torch for the comparison, and matplotlib for the plot. docs/images/characters.svg was made by it.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

import graphc
import graphc_nn as gn

TEXT = (Path(__file__).parent / "data" / "sonnets.txt").read_text(encoding="utf-8")
ALPHABET = sorted(set(TEXT))
CODES = np.array([ALPHABET.index(c) for c in TEXT])
BATCH, LENGTH, SIZE, HEADS, LAYERS, RATE = 16, 48, 64, 4, 2, 2e-3


class Characters(gn.Module):
    """Scores of the next character after each: i64 (N, LENGTH) to (N, characters, LENGTH)."""

    def __init__(self) -> None:
        self.embedding = gn.Embedding(len(ALPHABET), SIZE)
        self.places = gn.Parameter((LENGTH, SIZE), gn.initializers.Normal(0, 0.02))
        self.layers = [gn.TransformerEncoderLayer(SIZE, HEADS, causal=True) for _ in range(LAYERS)]
        self.norm, self.out = gn.LayerNorm(SIZE), gn.Linear(SIZE, len(ALPHABET))

    def forward(self, text):
        h = self.embedding(text)
        h = h + h.of(self.places)
        for layer in self.layers:
            h = layer(h)
        return self.out(self.norm(h)).transpose(0, 2, 1)


class TorchCharacters(nn.Module):
    """The same in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(len(ALPHABET), SIZE), nn.Parameter(torch.zeros(LENGTH, SIZE))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(SIZE, HEADS, 4 * SIZE, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        )
        self.norm, self.out = nn.LayerNorm(SIZE), nn.Linear(SIZE, len(ALPHABET))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        h = self.embedding(text) + self.places
        later = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        for layer in self.layers:
            h = layer(h, src_mask=later, is_causal=True)
        return self.out(self.norm(h)).transpose(1, 2)


def with_the_weights_of(model: Characters) -> TorchCharacters:
    """torch's model with the other's weights; torch joins the projections of queries, keys and values."""
    names = {
        "self_attn.out_proj": "attention.out", "linear1": "feed_forward.first", "linear2": "feed_forward.second",
    }  # fmt: skip
    ours, theirs = model.parameters, TorchCharacters()
    for name, value in theirs.named_parameters():
        if "in_proj" in name:
            layer, kind = name.split(".self_attn.in_proj_")
            array = np.concatenate([ours[f"{layer}.attention.{part}.{kind}"] for part in ("query", "key", "value")])
        else:
            for torchs, own in names.items():
                name = name.replace(torchs, own)
            array = ours[name]
        value.data = torch.tensor(array).reshape(value.shape)
    return theirs


def batches(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of the text from random places, and the characters that follow: i64 (BATCH, LENGTH) both."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        places = rng.integers(0, len(CODES) - LENGTH, BATCH)[:, None] + np.arange(LENGTH)
        yield CODES[places], CODES[places + 1]


def losses_of_graphc(model: Characters, count: int) -> tuple[list[float], graphc.TrainingStep]:
    example = next(batches(1))
    step = graphc.compile_training(
        model, loss="cross_entropy", optimizer=graphc.Adam(RATE), example_inputs=example,
        dynamic={"text": {0: graphc.Dim("batch", 1, BATCH)}}, threads=1,
    )  # fmt: skip
    return [float(step(x, y)) for x, y in batches(count)], step


def losses_of_torch(model: TorchCharacters, count: int) -> list[float]:
    optimizer, found = torch.optim.Adam(model.parameters(), RATE), []
    for x, y in batches(count):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def continued(step: graphc.TrainingStep, start: str, count: int) -> str:
    """The text, and characters drawn one by one as the trained model expects them."""
    exe, rng, text = step.inference(), np.random.default_rng(1), start
    for _ in range(count):
        seen = [ALPHABET.index(c) for c in text[-LENGTH:]]
        scores = exe(np.array([seen + [0] * (LENGTH - len(seen))]))[0, :, len(seen) - 1]
        chances = np.exp(2.0 * (scores - scores.max()))
        text += rng.choice(ALPHABET, p=chances / chances.sum())
    return text


def plot(curves: dict[str, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "graphc"})
    figure, axes = plt.subplots(figsize=(7, 3))
    for (name, losses), width, colour in zip(curves.items(), (3, 0.8), ("#8fc9b2", "#444444"), strict=True):
        axes.plot(losses, label=name, linewidth=width, color=colour)
    axes.set_xlabel("step")
    axes.set_ylabel("cross-entropy")
    axes.set_title("A character-level transformer on sixteen sonnets", fontsize=10)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--plot", type=Path, help="where to write the two curves, as SVG")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = Characters().initialize(seed=0)
    twin = with_the_weights_of(model)
    ours, step = losses_of_graphc(model, given.steps)
    theirs = losses_of_torch(twin, given.steps)
    for i in sorted({0, given.steps // 4, given.steps // 2, given.steps - 1}):
        print(f"step {i:4}: graphc {ours[i]:.5f}, torch {theirs[i]:.5f}")
    apart = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
    print(f"the losses are at most {apart:.1e} apart, of their size")
    print(continued(step, "Shall I ", 60))
    if given.plot:
        plot({"graphc": ours, "torch": theirs}, given.plot)


if __name__ == "__main__":
    main()
