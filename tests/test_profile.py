"""Profiles: times, work at the run's dims, shares of the limit, and the forms that tools read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc.backend import KernelReport, KernelTime, Limits
from graphc.errors import GraphcError
from graphc.profile import Profile, profile

NET = """graph @net(%x: f32[batch,32], %w: f32[32,16]) where batch <= 64 {
  %h: f32[batch,16] = matmul(%x, %w) from "dense"
  %y: f32[batch,16] = softmax(%h) {axis=1} from "head"
  return %y
}"""
LIMITS = Limits({"f32": 100.0, "bf16": 400.0}, ((1000, 50.0), (None, 10.0)))


def inputs(batch: int) -> list[np.ndarray]:
    return [np.ones((batch, 32), np.float32), np.ones((32, 16), np.float32)]


@pytest.fixture(scope="module")
def net() -> graphc.Executable:
    return graphc.compile(graphc.parse_graph(NET), threads=1)


@pytest.fixture(scope="module")
def measured(net: graphc.Executable) -> Profile:
    return net.profile(*inputs(8), runs=2)


def of(*kernels: tuple[KernelReport, list[float]], limits: Limits | None = LIMITS) -> Profile:
    """The profile of made-up times, a list of runs for each kernel."""
    runs = zip(*([KernelTime(k, s, limits) for s in times] for k, times in kernels), strict=True)
    return profile(list(runs), graphc.compile(graphc.parse_graph(NET), backend="reference"))


def test_work_is_that_of_the_runs_dims(net: graphc.Executable) -> None:
    for batch in (1, 8, 64):
        rows = net.profile(*inputs(batch), runs=1).rows
        (dense,) = (r for r in rows if "dense" in r.layers)
        assert dense.flops >= 2 * batch * 32 * 16
        assert dense.bytes >= 4 * (batch * 32 + 32 * 16 + batch * 16)
        assert sum(r.flops for r in rows) <= 2 * batch * 32 * 16 + 10 * batch * 16


def test_rows_follow_the_run_with_their_layers(net: graphc.Executable, measured: Profile) -> None:
    assert [r.layers for r in measured.rows] == [k.origin for k in net.kernels]
    assert {layer for r in measured.rows for layer in r.layers} == {"dense", "head"}
    ends = [0.0, *(r.start + r.seconds for r in measured.rows)]
    assert [r.start for r in measured.rows] == pytest.approx(ends[:-1])
    assert sum(r.share for r in measured.rows) == pytest.approx(1)
    assert all(r.limit is not None and r.limit > 0 for r in measured.rows)


def test_the_share_of_the_limit_is_of_what_takes_longer() -> None:
    arithmetic = KernelReport("a", (), "a", flops=200, bytes=10, arithmetic="f32")  # 2 s, 0.2 s
    memory = KernelReport("m", (), "m", flops=0, bytes=500)  # 10 s: it fits into the cache
    large = KernelReport("l", (), "l", flops=100, bytes=2000, arithmetic="f32")  # 1 s, 200 s
    half = KernelReport("h", (), "h", flops=200, bytes=10, arithmetic="bf16")  # 0.5 s
    loop = KernelReport("s", (), "s", flops=0, bytes=2000, footprint=100)  # 40 s: it goes over the same bytes
    found = of((arithmetic, [4.0]), (memory, [20.0]), (large, [250.0]), (half, [1.0]), (loop, [40.0]))
    assert [r.limit for r in found.rows] == pytest.approx([0.5, 0.5, 0.8, 0.5, 1.0])
    assert [r.lost for r in found.rows] == pytest.approx([2, 10, 50, 0.5, 0])
    assert found.limit == pytest.approx((2 + 10 + 200 + 0.5 + 40) / 315)


def test_what_has_no_known_limit_shows_none() -> None:
    kernel = KernelReport("k", (), "k", flops=10, bytes=10, arithmetic="f32")
    assert of((kernel, [1.0]), limits=None).limit is None
    odd = KernelReport("k", (), "k", flops=10, bytes=10, arithmetic="f64")
    (row,) = of((odd, [1.0])).rows
    assert row.limit is None
    assert row.lost == 0


def test_times_are_medians() -> None:
    kernel = KernelReport("k", ("layer",), "k", flops=100, arithmetic="f32")
    found = of((kernel, [4.0, 1.0, 2.0]))
    assert (found.runs, found.rows[0].seconds) == (3, 2.0)


def test_json_has_everything(measured: Profile) -> None:
    data = json.loads(measured.json())
    assert len(data["kernels"]) == len(measured.rows)
    assert data["flops"] == sum(k["flops"] for k in data["kernels"]) > 0
    assert data["limits"]["llvm"]["flops_per_second"]["f32"] > 1e9
    rates = [rate for _, rate in data["limits"]["llvm"]["bytes_per_second"]]
    assert len(rates) == 3
    assert min(rates) > 1e8


def test_the_trace_has_the_form_that_trace_viewers_read(measured: Profile, tmp_path: Path) -> None:
    """The Trace Event Format: complete events need name, cat, ph, ts, dur, pid, tid; metadata events name and args.name."""
    path = tmp_path / "trace.json"
    measured.chrome_trace(path)
    trace = json.loads(path.read_text())
    assert trace["displayTimeUnit"] in ("ms", "ns")
    complete = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    metadata = [e for e in trace["traceEvents"] if e["ph"] == "M"]
    assert len(complete) + len(metadata) == len(trace["traceEvents"])
    assert len(complete) == len(measured.rows)
    for e in complete:
        assert all(isinstance(e[k], str) and e[k] for k in ("name", "cat"))
        assert all(isinstance(e[k], int) for k in ("pid", "tid"))
        assert e["ts"] >= 0
        assert e["dur"] >= 0
    for e in metadata:
        assert e["name"] in ("process_name", "thread_name")
        assert isinstance(e["args"]["name"], str)
    ends = [e["ts"] + e["dur"] for e in complete]
    assert all(a <= b["ts"] + 1e-6 for a, b in zip(ends, complete[1:], strict=False))  # one lane, nothing overlaps
    assert {e["tid"] for e in complete} <= {e["tid"] for e in metadata}


def test_a_trace_that_cant_be_written_is_an_error(measured: Profile, tmp_path: Path) -> None:
    with pytest.raises(GraphcError, match="can't be written"):
        measured.chrome_trace(tmp_path / "missing" / "trace.json")


def test_it_prints_as_a_table_slowest_first() -> None:
    kernels = [
        (KernelReport(f"kernel{i}", ("[first]", "b", "c"), "k", 100, 0, "f32"), [float(i)]) for i in range(1, 31)
    ]
    lines = str(of(*kernels)).splitlines()
    assert lines[0].startswith("net: 30 kernel calls in 465 s, ")
    assert "kernel30" in lines[4]
    assert "[first], b and 1 more" in lines[4]
    assert lines[-1].split() == ["55.0", "s", "11.8%", "and", "10", "more"]
    assert "30.0 s" in lines[4]


def test_several_backends_tell_who_ran_what() -> None:
    text = 'graph @g(%x: f32[n,8]) {\n %a: f32[n,8] = tanh(%x) from "act"\n %y: f32[n,8] = add(%a, %x) from "sum"\n return %y\n}'
    refusing = Refusing()
    executable = graphc.compile(graphc.parse_graph(text), backend=[refusing, "llvm"])
    found = executable.profile(np.ones((3, 8), np.float32), runs=1)
    assert [(r.backend, r.layers) for r in found.rows] == [("refusing", ("act",)), ("llvm", ("sum",))]
    assert [r.limit is None for r in found.rows] == [True, False]
    assert found.limit is None
    assert "refusing" in str(found)


class Refusing:
    """The reference backend without additions."""

    name = "refusing"

    def __init__(self) -> None:
        from graphc_reference import BACKEND

        self.inner = BACKEND
        self.pipeline, self.compile, self.store, self.restore = (
            self.inner.pipeline, self.inner.compile, self.inner.store, self.inner.restore,
        )  # fmt: skip

    def supports(self, node: graphc.ir.graph.Node) -> str | None:
        return "no additions" if node.op.name == "add" else None
