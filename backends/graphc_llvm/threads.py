"""How many threads this process may use: its affinity mask and its cgroup's CPU quota."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath


def available_threads() -> int:
    """Cores that this process may run on, at most the whole CPUs of its cgroup quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    # A pool of more threads than the quota pays for is stopped by the kernel in the middle of its work.
    return max(1, cores if quota is None else min(cores, int(quota)))


def cgroup_quota(membership: Path, root: Path) -> float | None:
    """CPUs that the cgroups in the file `membership`, and those above them, may use; None: as many as there are.

    Reads version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`). In a container the path that `membership` tells may
    not exist below `root`, which then is the container's own group.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, read = root, _quota_v2
        elif "cpu" in controllers.split(","):
            base, read = root / controllers, _quota_v1
            base = base if base.is_dir() else root / "cpu"
        else:
            continue
        relative = PurePosixPath(path.lstrip("/"))
        for group in (base / relative, *(base / parent for parent in relative.parents)):
            quota = read(group)
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _quota_v2(group: Path) -> float | None:
    return _ratio(_read(group / "cpu.max").split())


def _quota_v1(group: Path) -> float | None:
    return _ratio([_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")])


def _ratio(numbers: list[str]) -> float | None:
    """Quota by period, both in microseconds; None where there is no limit ("max", -1) or no such file."""
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        return None
    return int(numbers[0]) / int(numbers[1])


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
