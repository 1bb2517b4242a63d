"""ONNX's own test suite on graphc: how a case ends, and the list of cases that pass.

    python tests/frontends/graphc_onnx/onnx_suite.py        adds what passes now to the list

The list only grows: a case that is in it and doesn't pass any more is a fault, and stays.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import unittest
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

from onnx.backend.test import BackendTest

from graphc.errors import ModelError, UnsupportedOpError
from graphc_onnx import OnnxBackend

BACKEND = "reference"
PASSING = Path(__file__).parent / f"passing_{BACKEND}.txt"

# Cases whose expected numbers show nothing but the rounding of whoever computed them.
UNDETERMINED = {
    # Its weights are all one constant, so its logits are equal but for rounding, and large: softmax picks any of them.
    "test_squeezenet_cpu",
    # Every step in half precision; two units in the last place are more than the tolerance.
    "test_attention_4d_causal_fp16_expanded_cpu",
}


class TestedBackend(OnnxBackend):
    backend = BACKEND


@cache
def cases() -> dict[str, Callable[[], None]]:
    """Every case for CPUs, by name: a function that raises where it doesn't pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite's own, of NumPy functions that it calls
        classes = BackendTest(TestedBackend, __name__).test_cases.values()
    found = {}
    for test_case in classes:
        for name in dir(test_case):
            if name.startswith("test_") and name.endswith("_cpu") and name not in UNDETERMINED:
                found[name] = getattr(test_case(name), name)
    return dict(sorted(found.items()))


def passing() -> list[str]:
    """The names in the list."""
    return PASSING.read_text().split() if PASSING.exists() else []


def passes(name: str) -> bool:
    """Whether a case passes; False where graphc refuses it. What else goes wrong is raised."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["ONNX_HOME"] = folder  # the suite keeps inputs and outputs of models there
        try:
            cases()[name]()
        except (UnsupportedOpError, ModelError, unittest.SkipTest):
            return False
    return True


def _outcome(name: str) -> str:
    try:
        return "passes" if passes(name) else "refused"
    except Exception as error:  # noqa: BLE001  whatever a case does, the others are tried too
        return f"{type(error).__name__}: {error}"[:300]


def main() -> None:
    """Runs every case and adds to the list those that pass."""
    with multiprocessing.Pool() as pool:
        outcomes = dict(zip(cases(), pool.map(_outcome, cases(), chunksize=16), strict=True))
    listed = set(passing())
    found = {name for name, outcome in outcomes.items() if outcome == "passes"}
    for name, outcome in outcomes.items():
        if outcome not in ("passes", "refused"):
            print(f"{name}: {outcome}")
    for name in sorted(listed - found):
        print(f"{name}: in the list, but {outcomes.get(name, 'unknown')}")
    PASSING.write_text("\n".join(sorted(listed | found)) + "\n")
    print(f"{len(found)} of {len(outcomes)} pass, {len(found - listed)} of them new")


if __name__ == "__main__":
    main()
