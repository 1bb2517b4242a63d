"""Arrays of mapped files: what is read-only, and what leaves memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from graphc.errors import GraphcError
from graphc.ir.mapped import map_file, release
from graphc.ir.tensor_data import TensorData


def mapped(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return map_file(file.fileno())


def resident(array: np.ndarray) -> int:
    """KiB in memory of the mapping that the array lies in."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            inside = start <= array.ctypes.data < end
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1])
    raise AssertionError("the array lies in no mapping")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(np.arange(1 << 18, dtype=np.float32).tobytes())
    return path


def test_a_part_of_a_file_leaves_memory_and_comes_back(file: Path) -> None:
    whole = mapped(file)
    part = whole[4 : 4 + 400_000].view(np.float32)
    assert part.sum() == np.arange(1, 100_001, dtype=np.float32).sum()
    before = resident(whole)
    release(part)
    assert resident(whole) < before - 300
    np.testing.assert_array_equal(part, np.arange(1, 100_001, dtype=np.float32))
    assert not part.flags.writeable


def test_hashing_leaves_nothing_in_memory(file: Path) -> None:
    data = TensorData(mapped(file).view(np.float32))
    assert data.digest == TensorData(np.arange(1 << 18, dtype=np.float32)).digest
    assert resident(data.array) < 100


def test_the_array_outlives_its_file(file: Path) -> None:
    array = mapped(file)
    file.unlink()
    assert array[-1] == 72 and array.size == 1 << 20


def test_changes_in_mappings_of_others_are_left_alone(file: Path) -> None:
    theirs = np.memmap(file, np.float32, "c")
    theirs[:] = 7
    release(np.asarray(theirs))
    assert (theirs == 7).all()


@pytest.mark.parametrize("change", ["cut", "written", "removed", "replaced"])
def test_a_file_that_changes_while_it_is_in_use(file: Path, change: str) -> None:
    data = TensorData(mapped(file)[: 1 << 16].view(np.float32))
    whole = file.read_bytes()
    if change == "cut":
        file.open("wb").close()
    elif change == "written":
        os.utime(file, (1, 1))  # as its clock may not have moved on yet
        file.write_bytes(bytes(len(whole)))
    elif change == "removed":
        file.unlink()
    else:
        file.with_suffix(".new").write_bytes(b"other")
        file.with_suffix(".new").rename(file)
    if change in ("cut", "written"):
        with pytest.raises(GraphcError, match="written to"):
            _ = data.array
        with pytest.raises(GraphcError, match="written to"):
            _ = data.digest
    else:
        assert data.array.tobytes() == whole[: 1 << 16]


def test_a_file_is_mapped_once_and_closed_in_the_end(file: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    parts = [mapped(file)[k:] for k in range(50)]
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert parts[1].ctypes.data - parts[0].ctypes.data == 1
    del parts
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_can_not_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert mapped(tmp_path / "empty").size == 0
    release(np.zeros(3))
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="regular"):
            map_file(folder)
    finally:
        os.close(folder)
