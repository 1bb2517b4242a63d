"""Calls in a process of their own, for what needs another environment: an interpreter chosen at import, a stub of a driver."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from graphc.driver import compile as compile_model
from graphc.errors import GraphcError, UnsupportedOpError
from graphc.ir.parser import parse_graph
from graphc.testing.conformance import cases as conformance_cases
from graphc.testing.conformance import check_backend

Call = Callable[..., Any]
"""call(function, *arguments): its result, from the other process. All three are pickled: a function of a module."""


@contextmanager
def worker(environment: Mapping[str, str]) -> Iterator[Call]:
    """A process with these variables in its environment, before anything is imported there."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(dict(environment),)) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def run_graph(
    text: str, constants: Any, inputs: Sequence[np.ndarray], backend: str, **options: Any
) -> list[np.ndarray]:
    """The outputs of a graph, given by its text and its constants, on a backend."""
    outputs = compile_model(parse_graph(text, constants=constants), backend, **{"cache": False, **options})(*inputs)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def outcomes(cases: Sequence[str], backend: str, symbolic: bool) -> dict[str, str]:
    """By case of the conformance suite: "" where the backend agrees, "refused: ..." or "failed: ..." with the reasons."""
    found: dict[str, str] = {}
    known = {str(c): c for c in conformance_cases()}
    for name in cases:
        try:
            check_backend(known[name], backend, symbolic=symbolic)
            found[name] = ""
        except UnsupportedOpError as e:
            found[name] = "refused: " + "; ".join(sorted({u.reason for u in e.unsupported}))
        except (AssertionError, GraphcError) as e:
            found[name] = f"failed: {e}"
    return found


def _start(environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    warnings.simplefilter("ignore")
