"""Settings are read when asked for, and in one file only."""

import re
from pathlib import Path

import pytest

from graphc import config
from graphc.errors import GraphcError

ROOT = Path(__file__).parents[1]


def test_settings_are_read_at_each_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in config.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert config.dump_dir() is None
    assert config.threads() is None
    assert config.cache_dir() == tmp_path / "graphc"
    assert config.cache_bytes() == 2 << 30
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path / "dump"))
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GRAPHC_CACHE_BYTES", "1000")
    monkeypatch.setenv("GRAPHC_THREADS", "3")
    assert config.dump_dir() == tmp_path / "dump"
    assert config.cache_dir() == tmp_path / "cache"
    assert config.cache_bytes() == 1000
    assert config.threads() == 3


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_DUMP", "")
    monkeypatch.setenv("GRAPHC_THREADS", "")
    assert config.dump_dir() is None
    assert config.threads() is None


@pytest.mark.parametrize("value", ["0", "-2", "many", "1.5"])
def test_a_wrong_number_of_threads_is_an_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_THREADS", value)
    with pytest.raises(GraphcError, match="GRAPHC_THREADS"):
        config.threads()


@pytest.mark.parametrize("value", ["-1", "2GB", "1.5", "1e9"])
def test_a_wrong_size_of_the_cache_is_an_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_BYTES", value)
    with pytest.raises(GraphcError, match="GRAPHC_CACHE_BYTES"):
        config.cache_bytes()


def test_no_other_file_reads_the_environment_for_graphc() -> None:
    reads = re.compile(r"(environ|getenv)[^\n]*GRAPHC_")
    roots = [ROOT / name for name in ("graphc", "frontends", "passes", "backends")]
    files = [path for root in roots for path in root.rglob("*.py") if path.name != "config.py"]
    assert files
    assert [str(path) for path in files if reads.search(path.read_text())] == []
