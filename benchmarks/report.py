"""The suite beside other engines, as a page with tables and plots: docs/benchmarks.md; its most important figures elsewhere.

    python -m pip install -e ".[bench]"
    python benchmarks/report.py                      # measures everything (about half an hour), then writes the page
    python benchmarks/report.py measure --models mlp lstm --rounds 3
    python benchmarks/report.py write                # the page again, from docs/benchmarks.json

What is measured replaces what docs/benchmarks.json has of the same model and configuration; the rest stays.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "benchmarks.json"
PAGE = DOCS / "benchmarks.md"
FIGURES_BEGIN, FIGURES_END = "<!-- figures: begin -->", "<!-- figures: end -->"
"""Where the README and docs/performance.md show the most important figures."""
SUITE = ("resnet50", "mobilenet_v2", "convnext", "vit", "bert", "gpt2", "lstm", "mlp", "vgg19")
ENGINES = {
    "graphc": "graphc", "onnxruntime": "onnxruntime", "openvino": "openvino", "torch.compile": "torch", "xla": "jax",
}  # fmt: skip
"""The engines, and the package that each comes with."""
STARTERS = ("graphc", "onnxruntime", "openvino")
"""Those that read the file itself, whose start and memory are told."""
CONFIGURATIONS = {"f32, 1 thread": (1, "f32"), "f32, 2 threads": (2, "f32"), "bf16, 1 thread": (1, "bf16")}
STARTUP = "startup"
CLOCK_NOTES = {
    "wall": "",
    "cpu": " The machine had other work besides: milliseconds are the processor's time, of each engine's quickest run.",
}
Results = dict[str, dict[str, Any]]
"""By configuration, then by model: what `compare` and `startup` give."""


def measure(
    models: Sequence[str], configurations: Sequence[str], rounds: int, seconds: float, clock: str, results: Results
) -> None:
    """Measures, and fills in; an engine that can't run a model is an error."""
    from architectures import onnx_file
    from compare import compare, engines_for
    from startup import startup

    for model in models:
        path = str(onnx_file(model))
        for name in configurations:
            if name == STARTUP:
                row: dict[str, Any] = {**startup(path, clock), "clock": clock}
            else:
                threads, precision = CONFIGURATIONS[name]
                measured = compare(path, engines_for(model, precision), threads, precision, rounds, seconds, clock)
                row = {**measured, "clock": clock}
            results.setdefault(name, {})[model] = row
            print(f"{name}: {model}: {json.dumps(row)}", flush=True)


def machine() -> dict[str, str]:
    """What was measured on, and with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "SSE"
    return {
        "processor": f"{models[0] if models else platform.machine()}, {vectors}, {len(models)} cores",
        **{e: version(package) for e, package in ENGINES.items()},
    }


def peers(row: Mapping[str, Any]) -> list[str]:
    return [e for e in ENGINES if e != "graphc" and e in row]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def is_busy(row: Mapping[str, Any]) -> bool:
    """Whether the machine had other work: then times are the processor's, and of the quickest run."""
    return bool(row.get("clock") == "cpu")


def ahead(row: Mapping[str, Any]) -> float:
    """The best other engine's time over graphc's."""
    if is_busy(row):
        return float(min(row[e]["best_ms"] for e in peers(row)) / row["graphc"]["best_ms"])
    return float(row["ahead"])


def latency_table(results: Mapping[str, Any]) -> str:
    rows = []
    engines = [e for e in ENGINES if any(e in r for r in results.values())]
    for model in (m for m in SUITE if m in results):
        row = results[model]
        which = "best_ms" if is_busy(row) else "median_ms"
        times = [f"{row[e][which]:.4g}" if e in row else "" for e in engines]
        rows.append([model, *times, f"{ahead(row):.2f}"])
    return table(["model", *engines, "best other / graphc"], rows)


def memory_table(results: Mapping[str, Any], startup: Mapping[str, Any]) -> str:
    rows = []
    for model in (m for m in SUITE if m in results):
        row, start = results[model], startup.get(model, {})
        ready = [f"{row[e]['setup_s']:.2f}" for e in STARTERS[1:]]
        memory = [row[e]["running_mb"] for e in STARTERS]
        rows.append([model, start.get("compile_s", ""), start.get("load_s", ""), *ready, *memory])
    head = ["model", "graphc: compile, s", "graphc: load, s", *(f"{e}: set-up, s" for e in STARTERS[1:])]
    return table([*head, *(f"{e}: memory, MB" for e in STARTERS)], rows)


def geometric_mean(values: Sequence[float]) -> float:
    product = 1.0
    for value in values:
        product *= value
    return product ** (1 / len(values))


def page(machine: Mapping[str, str], results: Results) -> str:
    """The page's text."""
    sections = [
        "# Benchmarks",
        "graphc beside other engines on the same ONNX files. `benchmarks/report.py` measures and writes this page; "
        "[performance](performance.md) tells where the speed comes from and where it is lost.",
        f"Measured on: {machine['processor']}. "
        + ", ".join(f"{e} {machine[e]}" for e in ENGINES if e in machine)
        + ". torch.compile runs the module that the file was exported from, with frozen weights; XLA runs graphc's graph of the "
        "file, its batch norms folded, as a JAX function. Batch 1, images 3x224x224, 128 tokens, 64 steps; weights are random "
        "and seeded. Milliseconds are medians. Each engine has a process of its own, and they take turns; *best other / "
        "graphc* is the median over the rounds. Above 1, graphc is faster.",
    ]
    for name in CONFIGURATIONS:
        if results.get(name):
            rows = results[name]
            mean = geometric_mean([ahead(r) for m, r in rows.items() if m != "mlp"] or [1.0])
            sections += [
                f"## {name}",
                f"![How many times faster than the best other engine](images/{plot_name(name)})",
                latency_table(rows),
                f"Geometric mean without mlp: {mean:.2f}."
                + CLOCK_NOTES[next(iter(rows.values())).get("clock", "wall")],
            ]
            if name.startswith("bf16"):
                sections.append("onnxruntime computes in f32 here: it has no bf16 on CPUs.")
    if results.get("f32, 1 thread"):
        sections += [
            "## Start and memory",
            "Compile: `graphc.compile` with an empty cache. Load: `import graphc` and `graphc.load` in a fresh process with a "
            "warm cache. The others' set-up includes their first run. Memory: of the process while it runs, without what it "
            "maps from files.",
            "![Seconds until a model is ready](images/benchmarks-start.svg)",
            memory_table(results["f32, 1 thread"], results.get(STARTUP, {})),
        ]
    sections += [
        "## To repeat it",
        '```\npython -m pip install -e ".[bench]"\npython benchmarks/report.py\n'
        "python benchmarks/compare.py my_model.onnx --threads 1\n```",
        "On a quiet machine: what else runs shows in two threads first.",
    ]
    return "\n\n".join(sections) + "\n"


def figures(machine: Mapping[str, str], results: Results, page: str) -> str:
    """What the README shows, with a link to `page`: one thread beside every engine, and how far ahead graphc is elsewhere."""
    one = results["f32, 1 thread"]
    rows = [
        [name, *(f"{ahead(row[m]):.2f}" if m in row else "" for m in SUITE)]
        for name, row in results.items()
        if name in CONFIGURATIONS
    ]
    return "\n\n".join([
        f"{machine['processor']}; f32, one thread, batch 1 (images 3x224x224, 128 tokens, 64 steps), milliseconds:",
        latency_table(one),
        "The best other engine's time over graphc's, in each configuration (bf16: onnxruntime's f32 and OpenVINO's bf16):",
        table(["", *SUITE], rows),
        f"Versions, start-up and memory are in [benchmarks]({page}), which `benchmarks/report.py` measures and writes.\n"
        "Weights are random and seeded; the architectures are real.",
    ])  # fmt: skip


def with_figures(text: str, block: str) -> str:
    """A document with the figures between its two marks replaced."""
    before, rest = text.split(FIGURES_BEGIN)
    return f"{before}{FIGURES_BEGIN}\n{block}\n{FIGURES_END}{rest.split(FIGURES_END)[1]}"


def documents(machine: Mapping[str, str], results: Results) -> dict[Path, str]:
    """The documents that show figures, with those of the results."""
    links = {DOCS.parent / "README.md": "docs/benchmarks.md", DOCS / "performance.md": "benchmarks.md"}
    return {
        p: with_figures(p.read_text(encoding="utf-8"), figures(machine, results, link)) for p, link in links.items()
    }


def plot_name(configuration: str) -> str:
    return "benchmarks-" + configuration.replace(", ", "-").replace(" ", "") + ".svg"


def write(data: Mapping[str, Any]) -> None:
    """The page and its plots."""
    from plots import ratio_plot, start_plot

    results = data["results"]
    for name in CONFIGURATIONS:
        if results.get(name):
            ratios = {m: ahead(results[name][m]) for m in SUITE if m in results[name]}
            ratio_plot(ratios, name, DOCS / "images" / plot_name(name))
    if results.get("f32, 1 thread"):
        rows, startup = results["f32, 1 thread"], results.get(STARTUP, {})
        models = [m for m in SUITE if m in rows and m in startup]
        bars = {
            "graphc, compile": [startup[m]["compile_s"] for m in models],
            "graphc, load": [startup[m]["load_s"] for m in models],
            **{e: [rows[m][e]["setup_s"] for m in models] for e in STARTERS[1:]},
        }
        start_plot(models, bars, DOCS / "images" / "benchmarks-start.svg")
    PAGE.write_text(page(data["machine"], results), encoding="utf-8")
    for path, text in documents(data["machine"], results).items():
        path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("all", "measure", "write"), default="all")
    parser.add_argument("--models", nargs="+", choices=SUITE, default=SUITE)
    parser.add_argument("--configurations", nargs="+", default=[*CONFIGURATIONS, STARTUP])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each engine's turn")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: one thread on a busy machine")
    arguments = parser.parse_args()
    data = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"results": {}}
    if arguments.action != "write":
        measure(
            arguments.models,
            arguments.configurations,
            arguments.rounds,
            arguments.seconds,
            arguments.clock,
            data["results"],
        )
        data["machine"] = machine()
        RESULTS.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if arguments.action != "measure":
        write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
