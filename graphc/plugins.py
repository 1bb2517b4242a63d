"""Plugins by their entry points: what is there is read from metadata alone, and asking for one imports that one alone.

A distribution, this one included, offers an object under a name in one of four groups:

    [project.entry-points."graphc.backends"]
    llvm = "graphc_llvm:BACKEND"

A name that two distributions offer, and a plugin that can't be imported, are errors only when that name is asked for.
"""

from __future__ import annotations

import configparser
import difflib
import importlib.metadata
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from graphc.errors import ModelError, PluginError

FRONTENDS = "graphc.frontends"
PASSES = "graphc.passes"
BACKENDS = "graphc.backends"
OPERATORS = "graphc.operators"
GROUPS = (FRONTENDS, PASSES, BACKENDS, OPERATORS)


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point, not loaded: `value` ("module:attribute") is offered as `name` by a distribution."""

    group: str
    name: str
    value: str
    distribution: str
    version: str


@dataclass(frozen=True, slots=True)
class Row:
    """A plugin and its `status`: "found" (not loaded), "ok" (loaded), "duplicate: …" or "broken: …"."""

    plugin: Plugin
    status: str


@dataclass(frozen=True, slots=True)
class _Scan:
    plugins: tuple[Plugin, ...]
    unreadable: tuple[Row, ...]


def find(group: str, name: str) -> object:
    """The object that `name` stands for in `group`, imported now; PluginError if there isn't exactly one that loads."""
    return _load(_the_one(group, name))


def names(group: str) -> tuple[str, ...]:
    """The names offered in `group`, sorted; nothing is imported."""
    return tuple(sorted({plugin.name for plugin in _in_group(group)}))


def listing(*, load: bool = False) -> tuple[Row, ...]:
    """Every plugin, by group and name; with `load` each is imported to tell whether it works, else none is."""
    scan = _scan_now()
    rows = []
    for group in GROUPS:
        for plugin in sorted(_in_group(group), key=lambda plugin: (plugin.name, plugin.distribution)):
            rivals = [other for other in _offers(group, plugin.name) if other != plugin]
            if rivals:
                status = "duplicate: also in " + ", ".join(_owner(other) for other in rivals)
            else:
                status = _load_status(plugin) if load else "found"
            rows.append(Row(plugin, status))
    return (*rows, *scan.unreadable)


def frontend_for(model: object) -> str:
    """The name of the frontend that takes `model`, found without importing one.

    A frontend named N takes files with the suffix ".N" and objects with a class of the package N among their bases: a
    ModelProto goes to `onnx`, a user's subclass of torch.nn.Module to `torch`. ModelError if none does.
    """
    known = names(FRONTENDS)
    if isinstance(model, (str, os.PathLike)):
        candidates = [Path(model).suffix.removeprefix(".").lower()]
        seen = f"the path {os.fspath(model)!r}"
    else:
        candidates = [cls.__module__.partition(".")[0] for cls in type(model).__mro__]
        seen = f"an object of {type(model).__module__}.{type(model).__qualname__}"
    for candidate in candidates:
        if candidate in known:
            return candidate
    raise ModelError(
        "no installed frontend takes this model",
        seen=seen,
        expected=f"a file or an object of one of: {', '.join(known) or 'none is installed'}",
        hint="install the frontend's distribution; `graphc plugins` lists what is there",
    )


def _the_one(group: str, name: str) -> Plugin:
    offers = _offers(group, name)
    if not offers:
        known = names(group)
        near = difflib.get_close_matches(name, known, n=3)
        raise PluginError(
            f"there is no {name!r} in {group}",
            seen=f"installed: {', '.join(known) or 'none'}",
            hint=f"did you mean {' or '.join(near)}?" if near else "`graphc plugins` lists what is installed",
        )
    if len(offers) > 1:
        raise PluginError(
            f"{name!r} in {group} is offered more than once",
            seen="\n".join(f"{plugin.value} of {_owner(plugin)}" for plugin in offers),
            expected="one distribution",
            hint="uninstall all but one of them",
        )
    return offers[0]


def _load(plugin: Plugin) -> object:
    try:
        return importlib.metadata.EntryPoint(plugin.name, plugin.value, plugin.group).load()
    except (Exception, SystemExit) as error:  # a plugin's module is foreign code: importing it may raise anything
        raise PluginError(
            f"the plugin {plugin.name!r} in {plugin.group} can't be loaded",
            seen=f"{type(error).__name__}: {error}",
            expected=f"{plugin.value} of {_owner(plugin)}",
            hint=f"repair or uninstall {plugin.distribution}",
        ) from error


def _load_status(plugin: Plugin) -> str:
    try:
        _load(plugin)
    except PluginError as error:
        return f"broken: {error.seen}"
    return "ok"


def _owner(plugin: Plugin) -> str:
    return f"{plugin.distribution} {plugin.version}"


def _offers(group: str, name: str) -> list[Plugin]:
    return [plugin for plugin in _in_group(group) if plugin.name == name]


def _in_group(group: str) -> list[Plugin]:
    if group not in GROUPS:
        raise PluginError(f"there is no plugin group {group!r}", expected=f"one of {', '.join(GROUPS)}")
    return [plugin for plugin in _scan_now().plugins if plugin.group == group]


def _scan_now() -> _Scan:
    """The plugins on the import path as it is now: read again only when the path or a folder on it has changed."""
    return _scan(tuple((entry, _modified(entry)) for entry in sys.path))


def _modified(entry: str) -> int:
    try:
        return os.stat(entry or ".").st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=4)
def _scan(path: tuple[tuple[str, int], ...]) -> _Scan:
    plugins: dict[tuple[str, str, str, str], Plugin] = {}
    unreadable: list[Row] = []
    owners: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=[entry for entry, _ in path]):
        text = distribution.read_text("entry_points.txt") or ""
        if "graphc." not in text:
            continue
        name, version = _identity(distribution)
        # As with modules, the first on the path hides later ones; an editable install may show one distribution twice.
        key = name.lower().replace("_", "-").replace(".", "-")
        if owners.setdefault(key, text) != text:
            continue
        try:
            found = list(_entry_points(text, name, version))
        except configparser.Error as error:
            bad = Plugin("-", "-", "entry_points.txt", name, version)
            unreadable.append(Row(bad, f"broken: {error}"))
            continue
        for plugin in found:
            plugins.setdefault((plugin.group, plugin.name, key, plugin.value), plugin)
    return _Scan(tuple(plugins.values()), tuple(unreadable))


def _entry_points(text: str, distribution: str, version: str) -> Iterable[Plugin]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    parser.read_string(text)
    for group in GROUPS:
        if parser.has_section(group):
            for name, value in parser.items(group):
                yield Plugin(group, name, value, distribution, version)


def _identity(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """The distribution's name and version, "unknown" where its metadata lacks them."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    header = text.split("\n\n", 1)[0]
    fields = dict(line.split(": ", 1) for line in header.splitlines() if ": " in line)
    return fields.get("Name", "unknown").strip(), fields.get("Version", "unknown").strip()
