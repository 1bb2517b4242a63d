"""`graphc bench`, `inspect`, `explain`, `verify` and `plugins`: what they tell of a model."""

import json
from pathlib import Path

import pytest

from graphc import plugins

BACKENDS = ("reference", "llvm")


@pytest.mark.parametrize("backend", BACKENDS)
def test_bench_tells_latency_memory_and_kernels(graphc_json, model: Path, backend: str) -> None:
    data = graphc_json("bench", model, "--backend", backend, "--threads", 2, "--seconds", 0.05, "--dim", "batch=3")
    assert 0 < data["best_seconds"] <= data["median_seconds"]
    assert data["threads"] == 2
    assert data["dims"] == {"batch": 3}
    assert data["runs"] >= 5
    assert data["peak_bytes"] > 0
    assert {layer for k in data["kernels"] for layer in k["layers"]} == {"fc1", "bias", "act"}
    times = [k["seconds"] for k in data["kernels"]]
    assert times == sorted(times, reverse=True)
    assert sum(k["share"] for k in data["kernels"]) == pytest.approx(1)


def test_bench_as_text(graphc_command, model: Path) -> None:
    status, out, err = graphc_command("bench", model, "--seconds", 0.05, "--top", 1)
    assert (status, err) == (0, "")
    head, _, title, _, columns, _, slowest, *_ = out.splitlines()
    for word in ("median", "best", "GFLOP/s", "peak"):
        assert word in head
    assert "kernel calls" in title
    assert columns.split()[:3] == ["time", "share", "GFLOP/s"]
    assert "fc1" in slowest


def test_profile_tells_rates_and_limits_and_writes_a_trace(graphc_json, graphc_command, model: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    data = graphc_json("profile", model, "--dim", "batch=3", "--threads", 1, "--runs", 2, "--trace", trace)
    (kernel,) = data["kernels"]
    assert kernel["layers"] == ["fc1", "bias", "act"]
    assert kernel["flops"] >= 2 * 3 * 8 * 4
    assert kernel["share_of_limit"] > 0
    assert [e["ph"] for e in json.loads(trace.read_text())["traceEvents"]] == ["M", "M", "X"]
    status, out, err = graphc_command("profile", model, "--top", 5)
    assert (status, err) == (0, "")
    assert "of limit" in out
    assert "fc1" in out


def test_inspect_tells_signature_and_operators(graphc_json, graphc_command, model: Path) -> None:
    data = graphc_json("inspect", model)
    assert data["inputs"] == {"x": "f32[batch,8]"}
    assert data["outputs"] == {"y": "f32[batch,4]"}
    assert data["dims"] == {"batch": {"low": 1, "high": None}}
    assert data["constant_bytes"] == 4 * 8 * 4
    assert data["operators"]["relu"] == 1
    status, out, _ = graphc_command("inspect", model)
    assert status == 0
    assert "f32[batch,8]" in out


def test_inspect_prints_stages(graphc_command, graphc_json, model: Path) -> None:
    stages = graphc_json("inspect", model, "--stage", "list")["stages"]
    assert stages[0] == "imported"
    for stage in stages:
        status, out, _ = graphc_command("inspect", model, "--stage", stage)
        assert status == 0
        assert out.strip()
    status, _, err = graphc_command("inspect", model, "--stage", "nonsense")
    assert status == 1
    assert "imported" in err


@pytest.mark.parametrize("backend", BACKENDS)
def test_explain_tells_passes_kernels_and_memory(graphc_json, graphc_command, model: Path, backend: str) -> None:
    data = graphc_json("explain", model, "--backend", backend)
    assert data["memory"]["peak"] == data["memory"]["arena"] + data["memory"]["constants"] + data["memory"]["scratch"]
    assert {o for k in data["kernels"] for o in k["origin"]} >= {"fc1", "bias", "act"}
    assert bool(data["passes"]) == (backend == "llvm")
    _, out, _ = graphc_command("explain", model, "--backend", backend)
    for p in data["passes"]:
        assert f" {p['name']} " in out
    assert "fc1" in out
    assert f"{data['memory']['peak']:,} bytes" in out


@pytest.mark.parametrize("backend", BACKENDS)
def test_verify_agrees(graphc_json, model: Path, backend: str) -> None:
    data = graphc_json("verify", model, "--backend", backend, "--dim", "batch=3")
    assert data["agrees"]
    assert len(data["outputs"]) == 2
    assert all(o["error"] < 1e-6 for o in data["outputs"])


def test_verify_takes_artifacts(graphc_json, model: Path, tmp_path: Path) -> None:
    graphc_json("compile", model, "-o", tmp_path / "m.graphc", "--backend", "reference")
    assert graphc_json("verify", tmp_path / "m.graphc")["backend"] == "reference"


def test_plugins_are_listed_with_their_state(graphc_json, graphc_command) -> None:
    rows = graphc_json("plugins")["plugins"]
    mine = {(r["group"], r["name"]): r["status"] for r in rows if r["distribution"] == "graphc"}
    assert mine[plugins.BACKENDS, "llvm"] == "ok"
    assert set(mine.values()) == {"ok"}
    assert {r["status"] for r in graphc_json("plugins", "--no-load")["plugins"]} == {"found"}
    _, out, _ = graphc_command("plugins", "--no-load")
    assert "graphc.backends" in out
