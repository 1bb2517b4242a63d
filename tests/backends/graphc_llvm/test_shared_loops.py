"""Loops whose short steps are shared by threads: the bits of one thread, whoever comes, however often."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import graphc
from graphc.errors import NumericError
from graphc.interpreter import interpret
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph, Value
from graphc.ir.types import f32, i64
from graphc.lowering.program import LoopStep
from graphc_llvm import instance
from graphc_llvm.instance import Instance, _Loop, _Step

WIDTH = 256


@pytest.fixture(autouse=True)
def steps_are_worth_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of some hundred nanoseconds are shared by threads, which aren't woken for them one by one."""
    monkeypatch.setattr(instance, "_WORTH_WAKING", 1e-5)
    monkeypatch.setattr(instance, "_WORTH_SHARING", 1e-8)


def recurrence(b: Builder, c: Value, x: Value, w: Value) -> tuple[Value, ...]:
    """c' = y = tanh(c w + x), whose two parts can't be one kernel: every unit of c' needs every unit of c."""
    h = b.op("tanh", b.op("add", b.op("matmul", c, w), x))
    return h, h


def region(name: str, emit: Callable[..., tuple[Value, ...]], *types: tuple) -> Graph:
    b = Builder(Graph(name))
    return b.returns(*emit(b, *[b.input(f"x{i}", *t) for i, t in enumerate(types)]))


ROW, ROWS, WEIGHTS = (f32, (1, WIDTH)), (f32, (5, 1, WIDTH)), (f32, (WIDTH, WIDTH))


def inner_scan(b: Builder, c: Value, xs: Value, w: Value, reverse: bool = False) -> tuple[Value, ...]:
    body = region("body", recurrence, ROW, ROW, WEIGHTS)
    return tuple(b.ops("scan", c, xs, w, body=body, carries=1, scanned=1, reverse=reverse))


def scanned(reverse: bool) -> Graph:
    b = Builder()
    c, xs, w = b.input("c", *ROW), b.input("xs", f32, (40, 1, WIDTH)), b.input("w", *WEIGHTS)
    return b.returns(*inner_scan(b, c, xs, w, reverse))


def nested() -> Graph:
    """A loop in a loop: 8 x 5 steps."""
    b = Builder()
    c, xs, w = b.input("c", *ROW), b.input("xs", f32, (8, *ROWS[1])), b.input("w", *WEIGHTS)
    body = region("outer", inner_scan, ROW, ROWS, WEIGHTS)
    return b.returns(*b.ops("scan", c, xs, w, body=body, carries=1, scanned=1))


def until_done() -> Graph:
    """Eight times a loop that ends when the counter is 7, which is data."""
    state = (ROW, (i64, ()), WEIGHTS)

    def unfinished(b: Builder, c: Value, n: Value, w: Value) -> tuple[Value, ...]:
        return (b.op("lt", n, b.scalar(7, i64)),)

    def step(b: Builder, c: Value, n: Value, w: Value) -> tuple[Value, ...]:
        return b.op("tanh", b.op("matmul", c, w)), b.op("add", n, b.scalar(1, i64))

    def turns(b: Builder, c: Value, x: Value, w: Value) -> tuple[Value, ...]:
        regions = {"condition": region("unfinished", unfinished, *state), "body": region("step", step, *state)}
        c, _ = b.ops("while", b.op("add", c, x), b.scalar(0, i64), w, **regions, carries=2, max_trips=-1)
        return c, c

    b = Builder()
    c, xs, w = b.input("c", *ROW), b.input("xs", f32, (8, 1, WIDTH)), b.input("w", *WEIGHTS)
    return b.returns(*b.ops("scan", c, xs, w, body=region("turns", turns, ROW, ROW, WEIGHTS), carries=1, scanned=1))


def lstm() -> Graph:
    b = Builder()
    shapes = [(24, 1, 128), (512, 128), (512, 128), (512,), (1, 128), (1, 128)]
    operands = [
        b.input(name, f32, shape) for name, shape in zip(("x", "w", "r", "bias", "h", "c"), shapes, strict=True)
    ]
    return b.returns(*b.ops("lstm", *operands, reverse=False))


GRAPHS = {
    "scan": scanned(False),
    "reverse": scanned(True),
    "nested": nested(),
    "while": until_done(),
    "lstm": lstm(),
    "gradient": graphc.grad(scanned(False)),
}


def arrays(graph: Graph) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(0, 0.06, v.type.concrete({})).astype(np.float32) for v in graph.inputs]


def plan(executable: graphc.Executable) -> Instance:
    made: Instance = executable._segment.runner.instance({})[0]  # type: ignore[attr-defined]
    return made


def shared_steps(made: Instance) -> list[tuple[int, bool]]:
    """Threads of the steps of loops that more than one thread runs, and whether sleeping ones are woken for them."""
    found: list[tuple[int, bool]] = []

    def look(steps: tuple, records: object) -> None:
        for step, record in zip(steps, records, strict=False):  # type: ignore[call-overload]
            if isinstance(step, LoopStep):
                loop = _Loop.from_address(record.loop)
                inner = (_Step * loop.step_count).from_address(loop.steps)
                found.extend((r.threads, bool(r.wake)) for r in inner if r.threads > 1 and not r.loop)
                look(step.steps, inner)

    look(made.program.steps, made.table)
    return found


@pytest.mark.parametrize("name", GRAPHS)
def test_the_bits_are_those_of_one_thread(name: str) -> None:
    graph = GRAPHS[name]
    given = arrays(graph)
    wanted = graphc.compile(graph, threads=1)(*given)
    for seen, meant in zip(wanted, interpret(graph, given), strict=True):
        np.testing.assert_allclose(seen, meant, rtol=0, atol=1e-5 * np.abs(meant).max())
    for threads in (2, 3, 4):
        executable = graphc.compile(graph, threads=threads)
        steps = shared_steps(plan(executable))
        assert set(steps) == {(threads, False)}, steps
        for _ in range(100):
            for seen, meant in zip(executable(*given), wanted, strict=True):
                np.testing.assert_array_equal(seen, meant)


def test_two_executables_from_several_python_threads() -> None:
    pairs = []
    for name, threads in (("lstm", 2), ("nested", 3)):
        given = arrays(GRAPHS[name])
        pairs.append(
            (graphc.compile(GRAPHS[name], threads=threads), given, graphc.compile(GRAPHS[name], threads=1)(*given))
        )

    def call(which: int) -> bool:
        executable, given, wanted = pairs[which]
        return all(all(map(np.array_equal, executable(*given), wanted)) for _ in range(150))

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(call, (0, 1, 0, 1)))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_runs_loops_of_its_own() -> None:
    given = arrays(GRAPHS["scan"])
    executable = graphc.compile(GRAPHS["scan"], threads=3)
    wanted = executable(*given)[0]
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(executable(*given)[0], wanted) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        np.testing.assert_array_equal(executable(*given)[0], wanted)


def test_an_error_ends_the_loop_for_all() -> None:
    """A division by zero in the last trip, in one of the parts; the next call is a good one."""

    def divide(b: Builder, c: Value, x: Value) -> tuple[Value, ...]:
        return (b.op("add", c, b.op("div", b.op("mul", c, c), x)),)

    n = 100_000
    b = Builder(origin=("turns",))
    c, xs = b.input("c", i64, (n,)), b.input("xs", i64, (6, n))
    body = region("body", divide, (i64, (n,)), (i64, (n,)))
    graph = b.returns(*b.ops("scan", c, xs, body=body, carries=1, scanned=1))
    executable = graphc.compile(graph, threads=3)
    assert {t for t, _ in shared_steps(plan(executable))} == {3}
    random = np.random.default_rng(0)
    c0, good = random.integers(0, 9, n), random.integers(1, 9, (6, n))
    wanted = interpret(graph, [c0, good])[0]
    for at in (0, n // 2, n - 1):
        bad = good.copy()
        bad[5, at] = 0
        for _ in range(5):
            with pytest.raises(NumericError, match="division") as caught:
                executable(c0, bad)
            assert "turns" in (caught.value.layer or "")
            np.testing.assert_array_equal(executable(c0, good), wanted)


def test_short_loops_stay_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for trips, threads in ((1, 1), (400, 2)):
        b = Builder()
        c, xs, w = b.input("c", *ROW), b.input("xs", f32, (trips, 1, WIDTH)), b.input("w", *WEIGHTS)
        made = plan(graphc.compile(b.returns(*inner_scan(b, c, xs, w)), threads=2))
        assert max([t for t, _ in shared_steps(made)], default=1) == threads
