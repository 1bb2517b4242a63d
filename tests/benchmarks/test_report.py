"""The benchmarks' page: tables from results, weak spots from profiles."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import graphc
from graphc.profile import Profile, Row

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("report")
    for name in ("report", "weak_spots", "compare", "architectures", "startup"):
        sys.modules.pop(name, None)


def engine(median: float, best: float) -> dict[str, float]:
    return {"median_ms": median, "best_ms": best, "setup_s": 0.5, "peak_mb": 100, "running_mb": 50}


RESULTS = {
    "f32, 1 thread": {
        "resnet50": {
            "graphc": engine(20.0, 18.0), "onnxruntime": engine(30.0, 27.0), "openvino": engine(28.0, 27.0), "ahead": 1.4,
        },
        "mlp": {
            "graphc": engine(0.002, 0.002), "onnxruntime": engine(0.006, 0.005), "openvino": engine(0.04, 0.03), "ahead": 3.0,
        },
    },
    "startup": {"resnet50": {"compile_s": 3.5, "compile_peak_mb": 300, "load_s": 0.3}},
}  # fmt: skip
MACHINE = {"processor": "a CPU", "graphc": "1", "onnxruntime": "2", "openvino": "3"}


def test_the_page_has_a_row_a_model_and_the_mean_without_the_smallest(report: ModuleType) -> None:
    page = report.page(MACHINE, RESULTS)
    assert "| resnet50 | 20 | 30 | 28 | 1.40 |" in page
    assert "| mlp | 0.002 | 0.006 | 0.04 | 3.00 |" in page
    assert "Geometric mean without mlp: 1.40." in page
    assert "| resnet50 | 3.5 | 0.3 | 0.50 | 0.50 | 50 | 50 | 50 |" in page
    assert "bf16" not in page


def test_on_a_busy_machine_the_quickest_runs_count(report: ModuleType) -> None:
    rows = {m: {**r, "clock": "cpu"} for m, r in RESULTS["f32, 1 thread"].items()}
    page = report.page(MACHINE, {"f32, 1 thread": rows})
    assert "| resnet50 | 18 | 27 | 27 | 1.50 |" in page
    assert "of each engine's quickest run" in page


def test_plots_are_the_same_for_the_same_numbers(report: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots = importlib.import_module("plots")
    made = []
    for name in ("a.svg", "b.svg"):
        plots.ratio_plot({"x": 1.2, "y": 0.8}, "title", tmp_path / name)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    assert len(made[0]) < 40_000


def test_the_committed_page_is_that_of_the_committed_results(report: ModuleType) -> None:
    data = report.json.loads(report.RESULTS.read_text())
    assert report.PAGE.read_text() == report.page(data["machine"], data["results"])


def test_the_documents_figures_are_those_of_the_committed_results(report: ModuleType) -> None:
    data = report.json.loads(report.RESULTS.read_text())
    for path, text in report.documents(data["machine"], data["results"]).items():
        assert path.read_text() == text


def test_figures_replace_what_stands_between_the_marks(report: ModuleType) -> None:
    text = f"before\n{report.FIGURES_BEGIN}\nold\n{report.FIGURES_END}\nafter\n"
    found = report.with_figures(text, report.figures(MACHINE, RESULTS, "page.md"))
    assert found.startswith("before\n") and found.endswith("\nafter\n")
    assert "old" not in found
    assert "| f32, 1 thread | 1.40 |" in found
    assert "(page.md)" in found


def row(name: str, seconds: float, limit: float | None) -> Row:
    return Row(name, ("layer",), "llvm", "f32", 0.0, seconds, 0.1, 100, 10, limit)


def test_weak_spots_are_those_that_lose_most_time(report: ModuleType) -> None:
    weak = importlib.import_module("weak_spots")
    rows = (row("slow", 10.0, 0.95), row("twice", 1.0, 0.5), row("twice", 2.0, 0.5), row("quick", 0.1, 0.1))
    groups = weak.furthest(Profile("net", rows, {}, 1), 2)
    assert [[r.name for r in g] for g in groups] == [["twice", "twice"], ["slow"]]
    assert weak.fastest([row("k", 2.0, 0.5), row("k", 1.0, 1.0)]) == row("k", 1.0, 1.0)


def test_rows_of_the_table_tell_rates(report: ModuleType) -> None:
    weak = importlib.import_module("weak_spots")
    graph = graphc.parse_graph('graph @net(%x: f32[64,64]) {\n  %y: f32[64,64] = exp(%x) from "layer"\n  return %y\n}')
    profile = graphc.compile(graph, threads=1).profile(np.zeros((64, 64), np.float32))
    (line,) = weak.lines_of("net", replace(profile, model="net"))
    cells = [c.strip() for c in line.split("|")]
    assert cells[1].startswith("**net** (")
    assert cells[2] == "`exp` (layer)"
    assert cells[3] == "100.0%"
