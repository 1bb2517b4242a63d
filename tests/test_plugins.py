"""Plugins made as third parties make them: a package and its metadata in a folder on the import path."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graphc import plugins
from graphc.errors import ModelError, PluginError


def distribution(folder: Path, name: str, entry_points: str, version: str = "1.0", **modules: str) -> Path:
    """A distribution in `folder`, as an installer would leave it, with one-file modules of the given sources."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nA plugin.\n")
    (info / "entry_points.txt").write_text(entry_points)
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    return folder


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder at the front of the import path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def test_a_third_partys_plugin_is_found_by_name(on_path: Path) -> None:
    assert "tpu" not in plugins.names(plugins.BACKENDS)
    text = "[graphc.backends]\ntpu = plugin_good:BACKEND\n"
    distribution(on_path, "tpu-for-graphc", text, plugin_good="BACKEND = 42")
    assert "tpu" in plugins.names(plugins.BACKENDS)
    assert "plugin_good" not in sys.modules
    assert plugins.find(plugins.BACKENDS, "tpu") == 42


def test_a_change_of_the_import_path_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "late", "[graphc.passes]\nlate-pass = late_plugin:x\n")
    assert "late-pass" not in plugins.names(plugins.PASSES)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        assert "late-pass" in plugins.names(plugins.PASSES)
    assert "late-pass" not in plugins.names(plugins.PASSES)


def test_a_plugin_that_does_not_import_is_an_error_only_when_asked_for(on_path: Path) -> None:
    distribution(
        on_path,
        "broken-dist",
        "[graphc.backends]\nbad = plugin_bad:X\ngone = plugin_gone:X\nless = plugin_less:X\nquits = plugin_quits:X\n",
        plugin_bad="1 / 0",
        plugin_less="",
        plugin_quits="raise SystemExit(3)",
    )
    assert plugins.names(plugins.BACKENDS)
    causes = {"bad": "ZeroDivisionError", "gone": "plugin_gone", "less": "no attribute 'X'", "quits": "SystemExit: 3"}
    for name, cause in causes.items():
        with pytest.raises(PluginError) as caught:
            plugins.find(plugins.BACKENDS, name)
        message = str(caught.value)
        assert "broken-dist 1.0" in message
        assert repr(name) in message
        assert cause in message


def test_a_name_offered_twice_names_both_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first-dist", "second-dist"):
        module = "plugin_" + name.replace("-", "_")
        folder = distribution(tmp_path / name, name, f"[graphc.operators]\nswirl = {module}:OP\n", **{module: "OP = 1"})
        monkeypatch.syspath_prepend(folder)
    assert "swirl" in plugins.names(plugins.OPERATORS)
    with pytest.raises(PluginError) as caught:
        plugins.find(plugins.OPERATORS, "swirl")
    assert "first-dist 1.0" in str(caught.value)
    assert "second-dist 1.0" in str(caught.value)
    rows = [row for row in plugins.listing() if row.plugin.name == "swirl"]
    assert len(rows) == 2
    assert all(row.status.startswith("duplicate") for row in rows)


def test_one_distribution_seen_twice_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("a", "b"):
        text = "[graphc.operators]\ntwist = plugin_twist:OP\n"
        monkeypatch.syspath_prepend(distribution(tmp_path / place, "Twist_Dist", text, plugin_twist="OP = 7"))
    assert plugins.find(plugins.OPERATORS, "twist") == 7


def test_an_earlier_version_on_the_path_hides_a_later_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.0", "2.0"):  # 2.0 is put in front last
        module = f"plugin_v{version[0]}"
        text = f"[graphc.operators]\nspin = {module}:OP\n"
        folder = distribution(tmp_path / version, "spin-dist", text, version, **{module: f"OP = {version}"})
        monkeypatch.syspath_prepend(folder)
    assert plugins.find(plugins.OPERATORS, "spin") == 2.0


def test_an_unknown_name_lists_what_is_there_and_what_is_near(on_path: Path) -> None:
    distribution(on_path, "near-dist", "[graphc.backends]\nvulkan = plugin_vulkan:X\n")
    with pytest.raises(PluginError) as caught:
        plugins.find(plugins.BACKENDS, "vulcan")
    assert "vulkan" in (caught.value.hint or "")
    assert "llvm" in (caught.value.seen or "")
    with pytest.raises(PluginError, match=r"graphc\.nonsense"):
        plugins.find("graphc.nonsense", "llvm")


def test_the_listing_tells_the_state_of_each(on_path: Path) -> None:
    distribution(
        on_path,
        "state-dist",
        "[graphc.backends]\nfine = plugin_fine:X\nbroken = plugin_broken:X\n",
        plugin_fine="X = 1",
        plugin_broken="raise ValueError('boom')",
    )
    mine = [row for row in plugins.listing() if row.plugin.distribution == "state-dist"]
    assert {row.plugin.name: row.status for row in mine} == {"fine": "found", "broken": "found"}
    assert "plugin_fine" not in sys.modules
    mine = [row for row in plugins.listing(load=True) if row.plugin.distribution == "state-dist"]
    assert {row.plugin.name: row.status for row in mine} == {"fine": "ok", "broken": "broken: ValueError: boom"}


def test_unreadable_metadata_of_one_distribution_hurts_no_other(on_path: Path) -> None:
    distribution(on_path, "garbled", "[graphc.backends]\nno equals sign here\n")
    distribution(on_path, "sound", "[graphc.backends]\nsound = plugin_sound:X\n", plugin_sound="X = 5")
    assert plugins.find(plugins.BACKENDS, "sound") == 5
    row = next(row for row in plugins.listing() if row.plugin.distribution == "garbled")
    assert row.status.startswith("broken: ")


def test_the_frontend_is_found_by_suffix_and_by_class(on_path: Path) -> None:
    source = "class Model: pass\nclass Frontend: pass\nFRONTEND = Frontend()"
    distribution(on_path, "mars-dist", "[graphc.frontends]\nmars_rover = mars_rover:FRONTEND\n", mars_rover=source)
    assert plugins.frontend_for("models/net.mars_rover") == "mars_rover"
    assert plugins.frontend_for(Path("NET.ONNX")) == "onnx"
    assert "mars_rover" not in sys.modules
    model = __import__("mars_rover").Model
    assert plugins.frontend_for(type("Mine", (model,), {})()) == "mars_rover"
    for unknown in ("net.caffe", "net", object(), 3.0):
        with pytest.raises(ModelError, match="no installed frontend"):
            plugins.frontend_for(unknown)


def run_python(source: str, path: Path | None = None) -> str:
    env = dict(os.environ)
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(path), env.get("PYTHONPATH", "")])
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, env=env).stdout


def test_importing_graphc_imports_no_plugin_and_looking_up_imports_one(tmp_path: Path) -> None:
    text = "[graphc.backends]\nalone = plugin_alone:X\nother = plugin_other:X\n"
    distribution(tmp_path, "alone", text, plugin_alone="X = 1", plugin_other="X = 2")
    in_tree = {"graphc_onnx", "graphc_llvm", "graphc_reference", "graphc_optimize"}
    heavy = in_tree | {"llvmlite", "onnx", "networkx", "torch"}
    source = f"""
import sys
import graphc
from graphc import plugins
assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)
plugins.listing()
assert 'plugin_alone' not in sys.modules
plugins.find('graphc.backends', 'alone')
assert 'plugin_alone' in sys.modules and 'plugin_other' not in sys.modules
assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)
print('done')
"""
    assert run_python(source, tmp_path) == "done\n"


def test_importing_graphc_takes_under_300_ms() -> None:
    source = "import time; t = time.process_time(); import graphc; print(time.process_time() - t)"
    assert min(float(run_python(source)) for _ in range(3)) < 0.3


def test_looking_up_is_fast() -> None:
    start = time.process_time()
    for _ in range(100):
        plugins.names(plugins.BACKENDS)
    assert time.process_time() - start < 0.5
