"""`pytest --graphc-backend NAME`: runs the conformance suite (`graphc.testing.suite`) on an installed backend.

Registered in the group `pytest11`. Nothing but this file is imported unless the option is given.
"""

from __future__ import annotations

from pathlib import Path

import pytest

SUITE = Path(__file__).with_name("suite.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("graphc", "graphc")
    group.addoption(
        "--graphc-backend", metavar="NAME", help="run graphc's conformance suite on the installed backend of that name"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Without other tests to run, the option alone runs the suite."""
    given = config.args_source is pytest.Config.ArgsSource.ARGS
    if config.getoption("--graphc-backend") is not None and not given:
        config.args = [str(SUITE)]


@pytest.fixture(scope="session")
def graphc_backend(request: pytest.FixtureRequest) -> str:
    """The name that `--graphc-backend` gave."""
    name = request.config.getoption("--graphc-backend")
    if name is None:
        pytest.skip("--graphc-backend isn't given")
    return str(name)
