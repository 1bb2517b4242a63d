"""What all tests share: a cache of compiled code of their own; random examples that are the same in each CI run; stacks
of crashed workers."""

import faulthandler
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True)  # a change is judged by itself, not by what chance finds beside it
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the compilation cache for this run of the tests; the user's own is never touched."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("GRAPHC_CACHE_DIR", str(folder))
        yield folder


def _stacks(worker: Mapping[str, Any]) -> Path:
    return Path(tempfile.gettempdir()) / f"graphc-tests-{worker['testrunuid']}-{worker['workerid']}.stacks"


@pytest.hookimpl(trylast=True)  # after pytest's own plugin, which has them written to standard error
def pytest_configure(config: pytest.Config) -> None:
    """A worker of pytest-xdist that a signal ends leaves its threads' stacks in a file."""
    if hasattr(config, "workerinput"):
        faulthandler.enable(_stacks(config.workerinput).open("w"))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker left is told: by itself xdist names only the test that it was running."""
    file = _stacks(node.workerinput)
    if file.exists():
        stacks = file.read_text()
        file.unlink()
        if stacks:
            node.config.get_terminal_writer().line(f"\nworker {node.workerinput['workerid']} ended:\n{stacks}")
