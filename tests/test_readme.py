"""What the documents say is so: Python runs as printed, commands parse, links lead somewhere."""

import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from graphc.cli import make_parser
from graphc.testing.light_models import light_model

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path, language: str = "") -> list[str]:
    """The fenced blocks in that language; in none by default."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@functools.cache
def project_files() -> frozenset[str]:
    """Every file of the project by its path from the top, but for what tools leave behind."""
    found: set[str] = set()
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if not f.startswith((".", "__"))]
        found.update((Path(folder) / n).relative_to(ROOT).as_posix() for n in names)
    return frozenset(found)


def scripts() -> list[tuple[str, str]]:
    """The README's blocks one by one, since each stands alone; those of another document as one script."""
    found = [(f"README-{i}", code) for i, code in enumerate(blocks(README, "python"), 1)]
    return found + [(p.stem, "\n".join(code)) for p in DOCUMENTS if p != README and (code := blocks(p, "python"))]


def commands() -> list[str]:
    """Every line of a plain block that calls graphc."""
    lines = [line for p in DOCUMENTS for code in blocks(p) for line in code.splitlines()]
    return sorted({line for line in lines if line.startswith("graphc ")})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model.onnx that the documents compile."""
    path = tmp_path_factory.mktemp("documents")
    (path / "model.onnx").write_bytes(light_model("squeezenet").SerializeToString())
    return path


@pytest.mark.parametrize(("name", "code"), scripts(), ids=[name for name, _ in scripts()])
def test_python_runs_as_printed(name: str, code: str, folder: Path) -> None:
    # torch.export warns of what itself does.
    command = [sys.executable, "-W", "ignore::FutureWarning", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str) -> None:
    make_parser().parse_args(shlex.split(line.split("|")[0], comments=True)[1:])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    local = [t.partition("#")[0] for t in targets if not t.startswith(("http:", "https:", "#"))]
    assert [t for t in local if not (path.parent / t).exists()] == []


def test_graph_texts_parse() -> None:
    """Blocks that show a graph show one that exists."""
    import graphc

    shown = [(p.name, b) for p in DOCUMENTS for b in blocks(p) if b.startswith("graph @")]
    assert shown
    for name, text in shown:
        assert graphc.print_graph(graphc.parse_graph(text)) == text, name


def test_the_readme_opens_with_what_it_is_for() -> None:
    head = README.read_text(encoding="utf-8").split("```")[0]
    assert "docs/images/pipeline.svg" in head
    assert 'python -m pip install -e . && graphc demo' in blocks(README)[0].splitlines()


def test_the_pages_of_operators_are_current() -> None:
    spec = importlib.util.spec_from_file_location("write_operator_docs", ROOT / "tools" / "write_operator_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.documents().items():
        assert path.read_text(encoding="utf-8") == text, "run tools/write_operator_docs.py"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_that_are_named_exist(path: Path) -> None:
    """`docs/adr/0001.md`, `driver.py`: a path from the top, or a file's name alone."""
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|ll|md|toml))`", text)
    files = project_files()
    names = {f.rpartition("/")[2] for f in files}
    assert [n for n in named if n not in (files if "/" in n else names)] == []


def test_records_of_decisions_are_numbered_once() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [p.name[:4] for p in records] == [f"{i:04}" for i in range(1, len(records) + 1)]
    for i, p in enumerate(records, 1):
        assert p.read_text(encoding="utf-8").startswith(f"# {i}. ")
