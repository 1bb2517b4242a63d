"""The three kernels of each model that are furthest from the machine's limit, as the table in docs/performance.md.

    python benchmarks/weak_spots.py --write

Kernels of equal name and work count as one. Furthest is by time: the seconds that the run would be shorter by, were they at
the limit. Why they are where they are is told below the table, by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from architectures import onnx_file
from compare import feeds_for

import graphc
from graphc.profile import Profile, Row

MODELS = ("resnet50", "mobilenet_v2", "convnext", "vit", "bert", "gpt2", "lstm", "mlp")
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- weak spots: begin -->", "<!-- weak spots: end -->"


def furthest(profile: Profile, count: int = 3) -> list[list[Row]]:
    """The groups of equal kernels that lose most, each slowest first."""
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in profile.slowest():
        groups.setdefault((row.name, row.flops, row.bytes), []).append(row)
    return sorted(groups.values(), key=lambda rows: -sum(r.lost for r in rows))[:count]


def profiled(model: str, threads: int, runs: int) -> Profile:
    path = str(onnx_file(model))
    executable = graphc.compile(path, threads=threads)
    inputs = list(feeds_for(path).values())
    for _ in range(5):
        executable(*inputs)
    found = [executable.profile(*inputs, runs=1) for _ in range(runs)]
    return replace(found[0], rows=tuple(map(fastest, zip(*(p.rows for p in found), strict=True))))


def fastest(calls: Sequence[Row]) -> Row:
    """The quickest of one kernel call's runs: what else the machine does is nobody's weak spot."""
    best = min(calls, key=lambda r: r.seconds)
    return replace(best, start=calls[0].start)


def lines_of(model: str, profile: Profile) -> list[str]:
    """Rows of the table."""
    limit = "" if profile.limit is None else f", {profile.limit:.0%}"
    found = []
    for i, rows in enumerate(furthest(profile)):
        seconds, lost = sum(r.seconds for r in rows), sum(r.lost for r in rows)
        r = rows[0]
        flops, size = (sum(getattr(x, k) for x in rows) / seconds * 1e-9 for k in ("flops", "bytes"))
        first = f"**{model}** ({profile.seconds * 1e3:.3g} ms{limit})" if i == 0 else ""
        calls = f"{len(rows)} x " if len(rows) > 1 else ""
        name = f"{calls}`{r.name}` ({r.layers[0] if r.layers else 'no layer'})"
        reached = "" if r.limit is None else f"{1 - lost / seconds:.0%}"
        cells = (first, name, f"{seconds / profile.seconds:.1%}", f"{flops:.0f}", f"{size:.0f}", reached)
        found.append("| " + " | ".join(cells) + " |")
    return found


def table(models: Sequence[str], threads: int, runs: int) -> str:
    head = [
        "| model | kernel (first layer) | of the time | GFLOP/s | GB/s | of the limit |",
        "|---|---|---|---|---|---|",
    ]
    rows = [line for model in models for line in lines_of(model, profiled(model, threads, runs))]
    return "\n".join([*head, *rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=40, help="of which each kernel's quickest counts (default: 40)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    arguments = parser.parse_args()
    text = table(arguments.models, arguments.threads, arguments.runs)
    print(text)
    if arguments.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
