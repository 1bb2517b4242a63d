"""The on-disk cache: what goes in comes out, and nothing else does."""

from __future__ import annotations

import os
import stat
import threading

import numpy as np
import pytest

import graphc
from graphc.errors import ArtifactError
from graphc_llvm import cache as cache_module
from graphc_llvm.cache import Cache


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def only_entry(cache):
    (entry,) = cache.folder.iterdir()
    return entry


def test_an_entry_is_found_again_by_its_key_alone(cache):
    assert cache.get("key") is None
    cache.put("key", b"data")
    assert cache.get("key") == b"data"
    assert cache.get("other") is None
    assert Cache(cache.folder.parent).get("key") == b"data"
    cache.put("key", b"")
    assert cache.get("key") == b""


def test_folder_and_entries_are_private(cache):
    old = os.umask(0)
    try:
        cache.put("key", b"data")
    finally:
        os.umask(old)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_entry(cache).stat().st_mode) == 0o600


def test_every_flipped_or_missing_byte_is_a_miss_and_removed(cache):
    cache.put("key", b"data")
    entry = only_entry(cache)
    whole = entry.read_bytes()
    damaged = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    damaged += [whole[:i] for i in range(len(whole))] + [whole + b"x"]
    for content in damaged:
        entry.write_bytes(content)
        assert cache.get("key") is None
        assert not entry.exists()
    cache.put("key", b"data")
    assert cache.get("key") == b"data"


def test_an_entry_under_another_keys_name_is_a_miss(cache):
    cache.put("key", b"data")
    cache.put("other", b"trojan")
    names = {cache.get(key): cache_module._name(key)[0] for key in ("key", "other")}
    os.replace(cache.folder / names[b"trojan"], cache.folder / names[b"data"])
    assert cache.get("key") is None


def test_links_and_files_others_may_write_are_never_read(cache, tmp_path):
    cache.put("key", b"data")
    entry = only_entry(cache)
    entry.chmod(0o666)
    assert cache.get("key") is None
    cache.put("key", b"data")
    moved = tmp_path / "elsewhere"
    os.replace(entry, moved)
    entry.symlink_to(moved)
    assert cache.get("key") is None
    assert moved.exists()
    os.mkfifo(entry)
    assert cache.get("key") is None


def test_a_folder_that_others_may_enter_is_refused(cache):
    cache.put("key", b"data")
    cache.folder.chmod(0o755)
    for use in (lambda: cache.get("key"), lambda: cache.put("key", b"data")):
        with pytest.raises(ArtifactError, match="isn't private"):
            use()


def test_a_folder_of_someone_else_is_refused(cache, monkeypatch):
    cache.put("key", b"data")
    owner = os.geteuid()
    monkeypatch.setattr(cache_module.os, "geteuid", lambda: owner + 1)
    with pytest.raises(ArtifactError, match=f"owner {owner}"):
        cache.get("key")


def test_a_folder_that_cannot_be_made_names_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="GRAPHC_CACHE_DIR"):
        Cache(tmp_path / "file").get("key")


def test_a_failed_write_leaves_nothing_behind(cache, monkeypatch):
    cache.put("other", b"data")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(cache_module.os, "replace", full)
    with pytest.raises(ArtifactError, match="No space left"):
        cache.put("key", b"data")
    assert len(list(cache.folder.iterdir())) == 1


def test_threads_that_write_and_read_one_entry_see_it_whole(cache):
    seen: set[bytes | None] = set()
    data = os.urandom(100_000)

    def work():
        for _ in range(30):
            cache.put("key", data)
            seen.add(cache.get("key"))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == {data}


def age(cache, key, seconds):
    """Makes the entry as old as if it had been used so long ago."""
    entry = cache.folder / cache_module._name(key)[0]
    then = entry.stat().st_mtime - seconds
    os.utime(entry, (then, then))


def test_what_was_not_used_for_longest_goes_where_the_limit_is_passed(tmp_path):
    cache = Cache(tmp_path, limit=10_000)
    for i in range(9):
        cache.put(f"key {i}", bytes(1000 - 79))  # with its header an entry takes 1000 bytes
        age(cache, f"key {i}", 90_000 - 10_000 * i)
    assert all(cache.get(f"key {i}") is not None for i in (0, 1))  # and now these were used last
    Cache(tmp_path, limit=10_000).put("large", bytes(3000 - 79))
    left = {key for key in ("large", *(f"key {i}" for i in range(9))) if cache.get(key) is not None}
    assert left == {"large", "key 0", "key 1", "key 7", "key 8"}


def test_the_limit_holds_within_a_sixteenth(tmp_path):
    cache = Cache(tmp_path, limit=16_000)
    for i in range(100):
        cache.put(f"key {i}", bytes(421))
        assert sum(entry.stat().st_size for entry in cache.folder.iterdir()) <= 17_500
    assert cache.get("key 99") is not None


def test_a_program_compiles_where_nothing_may_be_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("GRAPHC_CACHE_BYTES", "0")
    text = "graph @g(%x: f32[7]) {\n  %y: f32[7] = add(%x, %x)\n  return %y\n}"
    for _ in range(2):
        executable = graphc.compile(graphc.parse_graph(text))
        assert not executable.report.cached
        assert executable(np.ones(7, np.float32)).sum() == 14
    assert list((tmp_path / "native").iterdir()) == []
