"""One compilation for all sizes beside one for each: how much dynamic dims cost.

    python -m pip install -e ".[bench]"
    python benchmarks/dynamic.py                 # all models, as a table
    python benchmarks/dynamic.py bert mlp --json

Each model is compiled once with dynamic dims, and at each size of its grid once more without. The two run in turns on one
thread, by the processor's time; a ratio is the median over the turns of the dynamic program's time by the static one's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from architectures import torch_module

import graphc

if TYPE_CHECKING:
    import torch

BATCH, LENGTH = graphc.Dim("batch", 1, 64), graphc.Dim("length", 1, 512)
TURNS, SECONDS, LONG = 15, 0.02, 20.0
"""How often the two programs take turns, how long a turn is, at least, and all of them, about, at most (then there are fewer)."""


@dataclass(frozen=True)
class Case:
    """A model, the dynamic axes of its input, the sizes of them that are measured, and its input at such sizes."""

    make: Callable[[], torch.nn.Module]
    dynamic: Mapping[int, graphc.Dim]
    sizes: Sequence[tuple[int, ...]]
    input: Callable[..., np.ndarray]


def shallow_bert() -> torch.nn.Module:
    """Two layers of BERT-base: more of them run the same kernels."""
    import torch
    import transformers

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            config = transformers.BertConfig(num_hidden_layers=2, attn_implementation="eager")
            self.bert = transformers.BertModel(config, add_pooling_layer=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bert(x, return_dict=False)[0]

    return Hidden()


def dense(inputs: int, outputs: int) -> torch.nn.Module:
    """A product alone: what its rows cost is seen best where nothing else runs."""
    import torch

    torch.manual_seed(0)
    return torch.nn.Linear(inputs, outputs)


def tokens(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, shape)


def floats(*rest: int) -> Callable[..., np.ndarray]:
    """Numbers of a shape that ends in `rest`."""
    return lambda *shape: np.random.default_rng(0).standard_normal((*shape, *rest), np.float32)


def dense_case(inputs: int, outputs: int) -> Case:
    rows = [(n,) for n in (1, 2, 3, 4, 5, 7, 11, 16, 33, 64)]
    return Case(lambda: dense(inputs, outputs), {0: BATCH}, rows, floats(inputs))


BATCHES = [(1,), (2,), (5,), (8,), (16,), (33,), (64,)]
CASES = {
    "bert": Case(
        shallow_bert,
        {0: BATCH, 1: LENGTH},
        [(1, 1), (1, 7), (1, 32), (1, 128), (1, 500), (2, 11), (4, 77), (16, 32), (64, 8)],
        tokens,
    ),
    "resnet50": Case(lambda: torch_module("resnet50"), {0: BATCH}, BATCHES, floats(3, 224, 224)),
    "mobilenet_v2": Case(lambda: torch_module("mobilenet_v2"), {0: BATCH}, BATCHES, floats(3, 224, 224)),
    "mobilenet_v2 of 96x96": Case(lambda: torch_module("mobilenet_v2"), {0: BATCH}, BATCHES, floats(3, 96, 96)),
    "resnet50 of 64x64": Case(lambda: torch_module("resnet50"), {0: BATCH}, BATCHES, floats(3, 64, 64)),
    "lstm": Case(
        lambda: torch_module("lstm"),
        {0: BATCH, 1: LENGTH},
        [(1, 1), (1, 64), (1, 300), (3, 20), (8, 64), (64, 16)],
        floats(64),
    ),
    "mlp": Case(lambda: torch_module("mlp"), {0: BATCH}, BATCHES, floats(64)),
    "dense 64x64": dense_case(64, 64),
    "dense 256x1000": dense_case(256, 1000),
    "dense 768x768": dense_case(768, 768),
}


def compiled(case: Case, x: np.ndarray, dynamic: bool) -> graphc.Executable:
    """The model for all sizes, or for those of `x` alone."""
    import torch

    axes = {"x": dict(case.dynamic)} if dynamic else None
    return graphc.compile(named(case.make().eval()), example_inputs=(torch.from_numpy(x),), dynamic=axes, threads=1)


def named(module: torch.nn.Module) -> torch.nn.Module:
    """The module with its input called x."""
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    return Named()


def ratio(dynamic: Callable[[Any], object], static: Callable[[Any], object], x: np.ndarray) -> tuple[float, float]:
    """(the dynamic program's time by the static one's, seconds of the static one): medians over the turns."""
    start = time.perf_counter()
    for run in (dynamic, static):
        run(x)
    runs = max(1, int(SECONDS * 2 / (time.perf_counter() - start)))
    pairs: list[list[float]] = []
    while len(pairs) < TURNS and (len(pairs) < 3 or time.perf_counter() < start + LONG):
        pairs.append([turn(run, x, runs) for run in (dynamic, static)])
    return statistics.median(d / s for d, s in pairs), statistics.median(s for _, s in pairs)


def turn(run: Callable[[Any], object], x: np.ndarray, runs: int) -> float:
    """The processor's seconds of a run, the mean of some."""
    begin = time.thread_time()
    for _ in range(runs):
        run(x)
    return (time.thread_time() - begin) / runs


def measured(name: str) -> list[dict[str, Any]]:
    """A row for each size of the model's grid."""
    case = CASES[name]
    dynamic = compiled(case, case.input(*(3 for _ in case.dynamic)), dynamic=True)
    rows = []
    for sizes in case.sizes:
        x = case.input(*sizes)
        static = compiled(case, x, dynamic=False)
        found, seconds = ratio(dynamic, static, x)
        rows.append({"model": name, "sizes": sizes, "static_ms": round(seconds * 1e3, 4), "ratio": round(found, 3)})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"of: {', '.join(CASES)} (default: all)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.models or CASES:
        rows = measured(name)
        if arguments.json:
            print("\n".join(map(json.dumps, rows)), flush=True)
            continue
        cells = [f"{'x'.join(map(str, r['sizes']))} {r['ratio']:.2f}" for r in rows]
        print(f"| {name} | {', '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
