"""A broken claim on disk: the graph that went in, its constants and inputs, the pass, and the first wrong value."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.checking import Failure, Inputs
from graphc.claims import Breach
from graphc.errors import ArtifactError
from graphc.ir.graph import Graph
from graphc.ir.parser import parse_graph
from graphc.ir.tensor_data import TensorData
from graphc.ir.text import constants_of, print_graph
from graphc.ir.types import bf16

if TYPE_CHECKING:
    from graphc.backend import Numerics, Precision


@dataclass(frozen=True)
class Reproduction:
    """Everything that a pass needs to break its claim again."""

    graph: Graph
    inputs: Inputs
    name: str
    options: Mapping[str, Any]
    claim: str
    failure: Failure
    numerics: Numerics
    precision: Precision

    def save(self, under: Path | None) -> Path:
        """Writes graph.txt, constants.safetensors, inputs.safetensors and pass.json into a new folder, and names it."""
        if under is not None:
            under.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"reproduction-{self.name}-", dir=under))
        (folder / "graph.txt").write_text(print_graph(self.graph), encoding="utf-8")
        _save_arrays(folder / "constants.safetensors", {k: v.array for k, v in constants_of(self.graph).items()})
        _save_arrays(folder / "inputs.safetensors", self.inputs)
        description = {
            "pass": self.name,
            "options": dict(self.options),
            "claim": self.claim,
            "failure": asdict(self.failure),
            "numerics": self.numerics,
            "precision": self.precision,
        }
        (folder / "pass.json").write_text(json.dumps(description, indent=2, default=str) + "\n", encoding="utf-8")
        return folder


def load(folder: Path) -> Reproduction:
    """The reproduction that `save` wrote; raises ArtifactError where it is damaged."""
    try:
        constants = {k: TensorData(a) for k, a in _load_arrays(folder / "constants.safetensors").items()}
        graph = parse_graph((folder / "graph.txt").read_text(encoding="utf-8"), constants=constants)
        inputs = _load_arrays(folder / "inputs.safetensors")
        d = json.loads((folder / "pass.json").read_text(encoding="utf-8"))
        broken = d["failure"]["breach"]
        breach = Breach(tuple(broken["index"]), broken["seen"], broken["expected"])
        failure = Failure(d["failure"]["value"], d["failure"]["replacement"], breach)
        return Reproduction(
            graph, inputs, d["pass"], d["options"], d["claim"], failure, d["numerics"], d["precision"]
        )
    except (OSError, ValueError, KeyError, TypeError) as e:
        seen = f"{type(e).__name__}: {e}"
        raise ArtifactError("the reproduction can't be read", seen=seen, expected=str(folder)) from e


def options_of(value: object) -> dict[str, Any]:
    """The fields of a dataclass that JSON can hold; none for anything else."""
    if not is_dataclass(value):
        return {}
    found = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
    return {k: v for k, v in found.items() if isinstance(v, (str, int, float, bool, type(None)))}


def with_options(value: Any, options: Mapping[str, Any]) -> Any:
    """The dataclass with those fields; itself where there are none."""
    return replace(value, **options) if options else value


def _save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    # safetensors' NumPy side reads no bf16: its bits are kept, under a name that says so.
    plain = {}
    for name, a in arrays.items():
        if a.dtype == bf16.numpy:
            plain[f"{name}:bf16"] = np.ascontiguousarray(a).view(np.uint16)
        else:
            plain[name] = np.ascontiguousarray(a).reshape(a.shape)
    save_file(plain, path)


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    found = {}
    for name, a in load_file(path).items():
        base, _, kind = name.rpartition(":")
        if kind == "bf16" and base:
            found[base] = a.view(bf16.numpy)
        else:
            found[name] = a
    return found
