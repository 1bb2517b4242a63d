"""ONNX's own test suite on graphc: how a case ends, and the list of cases that pass.

    python tests/frontends/graphc_onnx/onnx_suite.py [backend ...]        adds what passes now to the lists

A list only grows: a case that is in it and doesn't pass any more is a fault, and stays.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import unittest
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

from onnx.backend.test import BackendTest

from graphc.errors import ModelError, UnsupportedOpError
from graphc_onnx import OnnxBackend

BACKENDS = ("reference", "llvm")

# Cases whose expected numbers show nothing but the rounding of whoever computed them.
UNDETERMINED = {
    # Its weights are all one constant, so its logits are equal but for rounding, and large: softmax picks any of them.
    "test_squeezenet_cpu",
    # Every step in half precision; two units in the last place are more than the tolerance.
    "test_attention_4d_causal_fp16_expanded_cpu",
}


class _Reference(OnnxBackend):
    backend = "reference"


_TESTED = {"reference": _Reference, "llvm": OnnxBackend}


@cache
def cases(backend: str) -> dict[str, Callable[[], None]]:
    """Every case for CPUs, by name: a function that raises where it doesn't pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite's own, of NumPy functions that it calls
        classes = BackendTest(_TESTED[backend], __name__).test_cases.values()
    found = {}
    for test_case in classes:
        for name in dir(test_case):
            if name.startswith("test_") and name.endswith("_cpu") and name not in UNDETERMINED:
                found[name] = getattr(test_case(name), name)
    return dict(sorted(found.items()))


def list_of(backend: str) -> Path:
    """The file with the names of the cases that pass."""
    return Path(__file__).parent / f"passing_{backend}.txt"


def passing(backend: str) -> list[str]:
    """The names in the list."""
    return list_of(backend).read_text().split() if list_of(backend).exists() else []


def passes(backend: str, name: str) -> bool:
    """Whether a case passes; False where graphc refuses it. What else goes wrong is raised."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["ONNX_HOME"] = folder  # the suite keeps inputs and outputs of models there
        try:
            cases(backend)[name]()
        except (UnsupportedOpError, ModelError, unittest.SkipTest):
            return False
    return True


def _outcome(backend: str, name: str) -> str:
    try:
        return "passes" if passes(backend, name) else "refused"
    except Exception as error:  # noqa: BLE001  whatever a case does, the others are tried too
        return f"{type(error).__name__}: {error}"[:300]


def update(backend: str) -> None:
    """Runs every case and adds to the list those that pass."""
    names = list(cases(backend))
    with multiprocessing.Pool() as pool:
        outcomes = dict(zip(names, pool.starmap(_outcome, [(backend, n) for n in names], chunksize=16), strict=True))
    listed = set(passing(backend))
    found = {name for name, outcome in outcomes.items() if outcome == "passes"}
    for name, outcome in outcomes.items():
        if outcome not in ("passes", "refused"):
            print(f"{name}: {outcome}")
    for name in sorted(listed - found):
        print(f"{name}: in the list, but {outcomes.get(name, 'unknown')}")
    list_of(backend).write_text("\n".join(sorted(listed | found)) + "\n")
    print(f"{backend}: {len(found)} of {len(outcomes)} pass, {len(found - listed)} of them new")


if __name__ == "__main__":
    for given in sys.argv[1:] or BACKENDS:
        update(given)
