"""Targets: named ones, the host's, and what may run here."""

from __future__ import annotations

import dataclasses

import pytest

from graphc.errors import ArtifactError, GraphcError
from graphc_llvm.target import NAMED_TARGETS, _cache_sizes, check_runs_here, host_target, parse_target


def test_the_host_runs_its_own_code():
    target = parse_target(None)
    assert target is host_target() is parse_target("host")
    check_runs_here(target)
    assert target.vector_bits in (128, 256, 512)
    assert 0 < target.l1 <= target.l2


def test_names_give_values_that_differ_in_their_keys():
    targets = [parse_target(name) for name in NAMED_TARGETS]
    assert len({target.key for target in targets}) == len(targets)
    wide = parse_target("x86-64-v4")
    assert (wide.lanes(4), wide.lanes(8), wide.vector_registers, wide.fma) == (16, 8, 32, True)
    assert parse_target("aarch64+neon").fma
    assert parse_target(wide) is wide


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(GraphcError, match="aarch64\\+neon"):
        parse_target("x86-64-v9")


def test_code_for_another_cpu_is_refused():
    host = host_target()
    foreign = parse_target("aarch64+neon" if host.arch == "x86_64" else "x86-64-v3")
    with pytest.raises(ArtifactError, match="another architecture"):
        check_runs_here(foreign)
    future = dataclasses.replace(host, features=host.features | {"quantum"})
    with pytest.raises(ArtifactError, match="quantum"):
        check_runs_here(future)


def test_cache_sizes_are_read_where_linux_tells_them(tmp_path):
    caches = [("Data", 1, "48K"), ("Instruction", 1, "64K"), ("Unified", 2, "1024K")]
    for index, (kind, level, size) in enumerate(caches):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    (tmp_path / "index9").mkdir()
    assert _cache_sizes(tmp_path) == (48 << 10, 1 << 20, 8 << 20)
    assert _cache_sizes(tmp_path / "missing") == (32 << 10, 512 << 10, 8 << 20)
