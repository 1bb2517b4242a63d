"""What the machine can do at best: measured once, kept, and plausible."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphc.backend import Limits
from graphc_llvm import limits
from graphc_llvm.target import host_target


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing remembered by the process."""
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(limits, "host_limits", limits.host_limits.__wrapped__)
    return tmp_path


def test_rates_are_plausible() -> None:
    found = limits.measure(host_target(), 1)
    lanes = host_target().lanes(4)
    # A multiply-add instruction or two a cycle, at some GHz.
    assert 1e8 * lanes < found.flops["f32"] < 5e10 * lanes
    assert found.flops["f64"] < found.flops["f32"]
    assert found.flops["bf16"] > found.flops["f64"]
    sizes = [most for most, _ in found.bandwidth]
    assert sizes == [host_target().l2, host_target().l3, None]
    assert all(1e8 < rate < 1e13 for _, rate in found.bandwidth)


def test_they_are_measured_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Limits({"f32": 1.0}, ((10, 2.0), (None, 1.5)))
    calls = []
    monkeypatch.setattr(limits, "measure", lambda target, threads: calls.append(threads) or made)
    assert limits.host_limits(1) == made
    assert limits.host_limits(1) == made
    assert calls == [1]
    limits.host_limits(2)
    assert calls == [1, 2]
