"""Compiled graphs as they are called: outputs of every kind, dynamic sizes, threads, time, reports."""

import gc
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.errors import GraphcError, NumericError, ShapeError
from graphc.interpreter import interpret
from graphc.ir.tensor_data import TensorData
from graphc_llvm.segment import KEPT_INSTANCES

SOFTMAX = """
graph @rows(%x: f32[n,m]) where n >= 0 {
  %s: f32[n,m] = softmax(%x) {axis=1} from "scores"
  return %s
}
"""

SORTED = """
graph @sorted(%x: f32[n,4]) where n >= 0 {
  %s: f32[n,4] = softmax(%x) {axis=1}
  %y: f32[n,4], %i: i64[n,4] = sort(%s) {axis=1, descending=false}
  return %y
}
"""


def parsed(text: str, **options: Any) -> graphc.Executable:
    return graphc.compile(graphc.parse_graph(text), **options)


def test_every_element_type_comes_in_and_goes_out() -> None:
    for name, dtype in (
        ("bool", "?"), ("i8", "i1"), ("i16", "i2"), ("i32", "i4"), ("i64", "i8"), ("u8", "u1"), ("u16", "u2"), ("u32", "u4"),
        ("u64", "u8"), ("f16", "f2"), ("f32", "f4"), ("f64", "f8"),
    ):  # fmt: skip
        op = "logical_not" if name == "bool" else "mul"
        operands = "%x" if name == "bool" else "%x, %x"
        executable = parsed(f"graph @g(%x: {name}[7]) {{\n  %y: {name}[7] = {op}({operands})\n  return %y, %x\n}}")
        x = np.arange(7).astype(dtype)
        y, same = executable(x)
        np.testing.assert_array_equal(y, ~x if name == "bool" else x * x)
        np.testing.assert_array_equal(same, x)
        assert y.dtype == x.dtype


def test_bf16_goes_in_and_out() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    executable = parsed("graph @g(%x: bf16[n,5]) {\n  %y: bf16[n,5] = add(%x, %x)\n  return %y\n}")
    x = np.arange(10).reshape(2, 5).astype(ml_dtypes.bfloat16)
    y = executable(x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.astype(np.float32), 2 * x.astype(np.float32))


def test_bools_that_are_no_bools_are_made_ones() -> None:
    executable = parsed("graph @g(%x: bool[4]) {\n  %y: i64[4] = cast(%x) {dtype=i64}\n  return %y, %x\n}")
    x = np.array([0, 1, 2, 255], np.uint8).view(bool)
    y, same = executable(x)
    np.testing.assert_array_equal(y, [0, 1, 1, 1])
    np.testing.assert_array_equal(same.view(np.uint8), [0, 1, 1, 1])


def test_sizes_of_zero() -> None:
    executable = parsed(SOFTMAX)
    assert executable(np.zeros((0, 5), np.float32)).shape == (0, 5)
    text = """graph @g(%x: f32[n,3]) where n >= 0 {
      %s: f32[3] = reduce_sum(%x) {axes=[0]}
      %p: f32[3] = reduce_prod(%x) {axes=[0]}
      %c: f32[n,3] = cumsum(%x) {axis=0}
      return %s, %p, %c
    }"""
    s, p, c = parsed(text)(np.zeros((0, 3), np.float32))
    assert (s.tolist(), p.tolist(), c.shape) == ([0] * 3, [1] * 3, (0, 3))
    text = """graph @g(%x: f32[n,3]) where n >= 0 {
      %m: f32[3] = reduce_max(%x) {axes=[0]} from "extremes"
      return %m
    }"""
    largest = parsed(text)
    for _ in range(2):
        with pytest.raises(NumericError, match="no elements") as caught:
            largest(np.zeros((0, 3), np.float32))
        assert caught.value.layer == "extremes"
    np.testing.assert_array_equal(largest(np.ones((2, 3), np.float32)), [1, 1, 1])


def test_no_inputs_and_no_work() -> None:
    constant = parsed("graph @g() {\n  %c: f32[2] = constant() {value=f32[2] [1.0, 2.0]}\n  return %c\n}")
    np.testing.assert_array_equal(constant(), [1, 2])
    identity = parsed("graph @g(%x: f32[n]) {\n  return %x\n}")
    x = np.float32([1, 2])
    y = identity(x)
    np.testing.assert_array_equal(y, x)
    assert not np.shares_memory(x, y)


def test_more_sizes_than_plans_are_kept_for() -> None:
    executable = parsed(SOFTMAX, threads=1)
    graph = executable.graph
    rng = np.random.default_rng(0)
    for n in [*range(1, 2 * KEPT_INSTANCES), 1, 2, 3]:
        x = rng.standard_normal((n, 3)).astype(np.float32)
        np.testing.assert_allclose(executable(x), interpret(graph, [x])[0], rtol=1e-5)
    assert len(executable._segment.runner._made) == KEPT_INSTANCES  # type: ignore[attr-defined]


def test_shapes_that_were_met_before_take_the_short_way() -> None:
    executable = parsed("graph @g(%x: f32[n,4]) {\n  %y: f32[n,4] = exp(%x)\n  return %y\n}")
    quick = executable.segment.direct
    assert quick is not None
    for n in (*range(1, KEPT_INSTANCES + 4), 1, 2):  # as many as drive the first plans out
        x = np.full((n, 4), n % 5, np.float32)
        executable(x)
        (y,) = quick((x,)) or ()
        np.testing.assert_allclose(y, np.exp(x), rtol=1e-6)
    assert quick((np.ones((100, 4), np.float32),)) is None
    assert quick((np.ones((2, 4)),)) is None


def test_arenas_that_are_kept_have_a_limit_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    executable = parsed(SORTED, threads=1)
    runner = executable._segment.runner  # type: ignore[attr-defined]
    one = runner.instance({"n": 1000})[0].frame_bytes
    assert one >= 16_000
    monkeypatch.setattr("graphc_llvm.segment.KEPT_BYTES", 3 * one)
    for n in (1000, 999, 998, 997, 2000, 10_000, 3):
        x = np.random.default_rng(n).standard_normal((n, 4)).astype(np.float32)
        np.testing.assert_allclose(executable(x), interpret(executable.graph, [x])[0], rtol=1e-5)
        kept = [instance.kept_bytes for instance, _ in runner._made.values()]
        assert sum(kept) <= 3 * one or len(kept) == 1
    assert len(runner._by_shapes) <= len(runner._made)


def test_frames_of_calls_at_once_have_a_limit_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphc_llvm.instance.KEPT_BYTES", 1)
    instance = parsed(SOFTMAX, threads=1)._segment.runner.instance({"n": 300, "m": 300})[0]  # type: ignore[attr-defined]
    frames = [instance.take_frame() for _ in range(3)]
    for frame in frames:
        instance.give_frame(frame)
    assert instance.take_frame() is frames[0]
    assert instance.take_frame() not in frames


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_from_many_threads_at_many_sizes(threads: int) -> None:
    executable = parsed(SOFTMAX, threads=threads)
    graph = executable.graph
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((n, 40)).astype(np.float32) for n in (*range(1, 24), 3000)]
    expected = [executable(x).tobytes() for x in inputs]
    np.testing.assert_allclose(executable(inputs[5]), interpret(graph, [inputs[5]])[0], rtol=1e-5)
    wrong: list[int] = []

    def work(seed: int) -> None:
        order = np.random.default_rng(seed)
        for i in order.integers(len(inputs), size=120):
            wrong.extend([int(i)] * (executable(inputs[i]).tobytes() != expected[i]))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_two_executables_at_once() -> None:
    first, second = parsed(SOFTMAX, threads=2), parsed(SOFTMAX.replace("softmax", "log_softmax"), threads=2)
    x = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32)
    expected = first(x).tobytes(), second(x).tobytes()
    seen: list[tuple[bytes, bytes]] = []

    def work() -> None:
        seen.extend((first(x).tobytes(), second(x).tobytes()) for _ in range(10))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert set(seen) == {expected}


def test_what_outlives_its_executable() -> None:
    executable = parsed(SOFTMAX)
    x = np.ones((4, 4), np.float32)
    y = executable(x)
    del executable
    gc.collect()
    np.testing.assert_allclose(y, 0.25)
    for _ in range(20):
        parsed(SOFTMAX, cache=False)(x)
    gc.collect()


def test_an_error_in_a_loop_names_the_loop() -> None:
    text = """graph @g(%x: i64[t,2], %y: i64[2]) where t >= 0 {
      %last: i64[2], %all: i64[t,2] = scan(%y, %x) {carries=1, scanned=1, reverse=false} [
        body=graph @body(%c: i64[2], %s: i64[2]) {
          %q: i64[2] = div(%c, %s) from "inside"
          return %q, %c
        }
      ] from "loop"
      return %last, %all
    }"""
    executable = parsed(text)
    y = np.array([100, 64])
    with pytest.raises(NumericError, match="division") as caught:
        executable(np.array([[1, 2], [3, 0]]), y)
    assert "loop" in (caught.value.layer or "")
    last, rest = executable(np.array([[2, 2], [5, 4]]), y)
    np.testing.assert_array_equal(last, [10, 8])
    np.testing.assert_array_equal(rest, [[100, 64], [50, 32]])
    np.testing.assert_array_equal(executable(np.zeros((0, 2), np.int64), y)[0], y)


def test_the_number_of_threads_is_taken_from_the_call_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(SOFTMAX, threads=3)._segment.threads == 3  # type: ignore[attr-defined]
    monkeypatch.setenv("GRAPHC_THREADS", "5")
    assert parsed(SOFTMAX)._segment.threads == 5  # type: ignore[attr-defined]
    assert parsed(SOFTMAX, threads=1)._segment.threads == 1  # type: ignore[attr-defined]
    monkeypatch.setenv("GRAPHC_THREADS", "none")
    with pytest.raises(GraphcError, match="GRAPHC_THREADS"):
        parsed(SOFTMAX)


def test_threads_are_those_of_the_affinity_mask_and_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHC_THREADS", raising=False)
    for cores, quota, expected in (({3}, None, 1), ({0, 1, 2, 3}, None, 4), ({0, 1, 2, 3}, 2.5, 2), ({0, 1}, 0.5, 1)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: cores)
        monkeypatch.setattr("graphc_llvm.threads.cgroup_quota", lambda *_, quota=quota: quota)
        assert parsed(SOFTMAX)._segment.threads == expected  # type: ignore[attr-defined]


def test_more_threads_than_cores() -> None:
    """On one core, where no worker runs while the caller waits for it."""
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np, graphc
text = "graph @g(%x: f32[n,64]) {\\n  %y: f32[n,64] = softmax(%x) {axis=1}\\n  return %y\\n}"
x = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
one, seven = (graphc.compile(graphc.parse_graph(text), threads=n) for n in (1, 7))
assert all(seven(x).tobytes() == one(x).tobytes() for _ in range(50))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_small_work_stays_on_one_thread() -> None:
    executable = parsed(SOFTMAX, threads=2)
    runner = executable._segment.runner  # type: ignore[attr-defined]
    small, large = (runner.instance({"n": n, "m": 64})[0] for n in (2, 100_000))
    assert {step.threads for step in small.table} == {1}
    assert {step.threads for step in large.table} == {2}


def test_kernels_are_told_with_layers_work_and_time() -> None:
    text = """graph @g(%x: f32[8,64]) {
      %w: f32[64,32] = constant() {value=f32[64,32] sha256:0}
      %y: f32[8,32] = matmul(%x, %w) from "dense"
      %z: f32[8,32] = relu(%y) from "activation"
      return %z
    }"""
    data = TensorData(np.ones((64, 32), np.float32))
    graph = graphc.parse_graph(text.replace("sha256:0", f"sha256:{data.digest}"), constants={data.digest: data})
    executable = graphc.compile(graph)
    (kernel,) = executable.kernels
    assert set(kernel.origin) == {"dense", "activation"}
    assert kernel.flops >= 2 * 8 * 64 * 32
    assert kernel.bytes >= 4 * (8 * 64 + 64 * 32 + 8 * 32)
    (row,) = executable.profile(np.ones((8, 64), np.float32)).rows
    assert 0 < row.seconds < 1
    assert (row.flops, row.arithmetic) == (kernel.flops, "f32")
    assert executable.memory.constants >= data.array.nbytes


def test_guards_of_static_graphs_are_checked() -> None:
    executable = parsed("graph @g(%x: f32[n], %y: f32[m]) where n == m {\n  %z: f32[m] = add(%x, %y)\n  return %z\n}")
    x = np.ones(3, np.float32)
    np.testing.assert_array_equal(executable(x, x), [2, 2, 2])
    with pytest.raises(ShapeError, match="n == m"):
        executable(x, x[:2])
