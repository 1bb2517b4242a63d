"""What the project says of itself is true."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEST_COMMAND = 'python -m pip install -e ".[test]" && python -m pytest -n 2'


def test_ci_runs_the_readmes_test_command() -> None:
    assert TEST_COMMAND in (ROOT / "README.md").read_text().splitlines()
    assert TEST_COMMAND in (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    assert f"{TEST_COMMAND} || exit 1" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_package_is_shipped() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    roots = [ROOT / name for name in ("frontends", "passes", "backends")]
    present = {path.parent.relative_to(ROOT).as_posix() for root in roots for path in root.glob("*/__init__.py")}
    assert present | {"graphc"} <= shipped
