"""`graphc explain`: what compilation did to a model, and what it didn't do and why."""

from __future__ import annotations

import argparse

from graphc.cli.options import add_model, executable_of
from graphc.cli.report import Report

HELP = "tell what each pass did, what was refused and why, and the kernels with their layers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)


def run(arguments: argparse.Namespace) -> Report:
    from graphc.explain import describe, explain

    arguments.no_cache = True  # a program from the cache went through no passes
    executable = executable_of(arguments)
    return Report(describe(executable), explain(executable).rstrip("\n"))
