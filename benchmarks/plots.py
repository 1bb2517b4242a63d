"""The report's plots, as small SVG files that are the same for the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

matplotlib.use("svg")
plt.rcParams.update({
    "svg.fonttype": "none",  # text stays text: small, and set in the reader's font
    "svg.hashsalt": "graphc",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
})  # fmt: skip
AHEAD, BEHIND = "#2a7f62", "#b4553c"
COLOURS = ("#2a7f62", "#8fc9b2", "#5b7db1", "#b58a3c")


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def ratio_plot(ahead: Mapping[str, float], title: str, path: Path) -> None:
    """Bars of the best other engine's time over graphc's, with a line at 1."""
    figure, axes = plt.subplots(figsize=(7, 2.6))
    bars = axes.bar(list(ahead), list(ahead.values()), color=[AHEAD if v >= 1 else BEHIND for v in ahead.values()])
    axes.bar_label(bars, labels=[f"{v:.2f}" for v in ahead.values()], fontsize=8)
    axes.axhline(1, color="#444444", linewidth=0.8)
    axes.set_ylabel("best other / graphc")
    axes.set_title(f"{title}: times faster than the best other engine", fontsize=10)
    axes.tick_params(axis="x", labelsize=8)
    save(figure, path)


def start_plot(models: Sequence[str], bars: Mapping[str, Sequence[float]], path: Path) -> None:
    """Groups of bars, one a model, of seconds on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(7, 2.8))
    width = 0.8 / len(bars)
    for i, (name, values) in enumerate(bars.items()):
        axes.bar(
            [x + i * width - 0.4 + width / 2 for x in range(len(models))], values, width, label=name, color=COLOURS[i]
        )
    axes.set_yscale("log")
    axes.set_ylabel("seconds")
    axes.set_xticks(range(len(models)), models, fontsize=8)
    axes.legend(fontsize=7, ncols=len(bars), loc="upper center", bbox_to_anchor=(0.5, 1.22), frameon=False)
    save(figure, path)
