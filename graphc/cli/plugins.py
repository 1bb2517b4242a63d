"""`graphc plugins`: what is installed, and whether it works."""

from __future__ import annotations

import argparse

from graphc.cli.report import Report, table

HELP = "list the installed frontends, passes, backends and operators, and whether each works"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-load", action="store_true", help="read their metadata only, import nothing")


def run(arguments: argparse.Namespace) -> Report:
    from graphc import plugins

    rows = plugins.listing(load=not arguments.no_load)
    data = [
        {
            "group": r.plugin.group, "name": r.plugin.name, "value": r.plugin.value,
            "distribution": r.plugin.distribution, "version": r.plugin.version, "status": r.status,
        }
        for r in rows
    ]  # fmt: skip
    head = ("group", "name", "from", "status")
    lines = [(d["group"], d["name"], f"{d['distribution']} {d['version']}", d["status"]) for d in data]
    return Report({"plugins": data}, table([head, *lines], indent=""))
