"""The garbage collector rests while models are compiled."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import ClassVar

import pytest

import graphc
from graphc.collector import paused_collector
from graphc.pipeline import EXACT, PassContext, PassResult


@pytest.fixture(autouse=True)
def _running() -> Iterator[None]:
    was = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if was else gc.disable)()


class Look:
    name, claim = "look", EXACT
    seen: ClassVar[list[bool]] = []

    def run(self, graph: graphc.Graph, context: PassContext) -> PassResult:
        self.seen.append(gc.isenabled())
        return PassResult(False)


def test_it_rests_while_a_graph_is_compiled_and_runs_again() -> None:
    graph = graphc.parse_graph("graph @g(%x: f32[3]) {\n  %y: f32[3] = exp(%x)\n  return %y\n}")
    graphc.compile(graph, passes=[Look()])
    assert Look.seen == [False] and gc.isenabled()
    with pytest.raises(graphc.GraphcError):
        graphc.compile(graph, numerics="none")  # type: ignore[arg-type]
    assert gc.isenabled()


def test_who_stopped_it_keeps_it_stopped() -> None:
    gc.disable()
    with paused_collector(), paused_collector():
        pass
    assert not gc.isenabled()


def test_who_found_it_stopped_doesnt_stop_what_another_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped_until_now() -> bool:
        gc.enable()  # as a thread does that ends its compilation between the question and what follows it
        return False

    with monkeypatch.context() as patched:
        patched.setattr(gc, "isenabled", stopped_until_now)
        with paused_collector():
            pass
    assert gc.isenabled()
