"""The number of threads that a process may use, from its cgroup's files."""

from __future__ import annotations

import os

import pytest

from graphc_llvm.threads import available_threads, cgroup_quota


def test_available_threads_follow_the_affinity_mask():
    cores = os.sched_getaffinity(0)
    assert 1 <= available_threads() <= len(cores)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert available_threads() == 1
    finally:
        os.sched_setaffinity(0, cores)


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/a/b", {"a/b/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, 0.5),  # the parent's limit holds
        ("0::/../outside", {"cpu.max": "300000 100000"}, 3.0),  # the container sees its own group as the root
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("3:cpu,acct:/x", {"cpu,acct/x/cpu.cfs_quota_us": "2000", "cpu,acct/x/cpu.cfs_period_us": "1000"}, 2.0),
        ("3:cpu:/x", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("4:memory:/x", {}, None),
    ],
)
def test_quota(tmp_path, membership, files, expected):
    write(tmp_path / "root", files)
    write(tmp_path, {"cgroup": membership})
    assert cgroup_quota(tmp_path / "cgroup", tmp_path / "root") == expected


def test_no_cgroups_means_no_quota(tmp_path):
    assert cgroup_quota(tmp_path / "missing", tmp_path) is None
