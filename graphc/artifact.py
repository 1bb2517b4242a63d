"""Artifacts: an executable as one safetensors file, whose metadata holds the IR's text and a manifest.

Any safetensors reader reads the file; nothing in it is code. Tensors are the graph's big constants, named by digest and
stored as bytes (their types stand in the IR).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from graphc.backend import CompileOptions
from graphc.errors import ArtifactError, GraphcError
from graphc.executable import Executable
from graphc.ir.graph import Graph
from graphc.ir.mapped import map_file
from graphc.ir.parser import parse_graph
from graphc.ir.tensor_data import TensorData
from graphc.ir.text import constants_of, operators_of, print_graph
from graphc.ir.types import DTYPES
from graphc.ir.verifier import verify

FORMAT = 1
_TYPE_OF_DIGEST = r"(\w+)\[([0-9,]*)\] sha256:([0-9a-f]{64})"


def to_bytes(executable: Executable) -> bytes:
    """The artifact's content."""
    from safetensors.numpy import save as save_tensors

    if executable.report.given_passes:
        raise ArtifactError(
            "an executable of passes given by hand can't be kept: loading runs the backend's own pipeline",
            hint="run_passes(graph, passes) first, and compile its result",
        )
    graph = executable.graph
    text = print_graph(graph)
    manifest = {
        "format": FORMAT,
        "options": asdict(executable.options),
        "operators": operators_of(graph),
        "ir_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    tensors = {d: data.array.reshape(-1).view(np.uint8) for d, data in constants_of(graph).items()}
    content: bytes = save_tensors(tensors, {"graphc": json.dumps(manifest), "ir": text})
    return content


def save(executable: Executable, path: Path) -> None:
    """Writes the artifact by rename. Raises ArtifactError where the folder can't be written."""
    write_whole(path, to_bytes(executable))


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is either whole or absent. Raises ArtifactError where it can't be written."""
    if path.is_dir():
        raise ArtifactError(f"{path} can't be written", seen="a folder", expected="a file's path")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as e:
        raise ArtifactError(f"{path} can't be written", seen=e.strerror) from e
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content)
        os.replace(temporary, path)
    except OSError as e:
        os.unlink(temporary)
        raise ArtifactError(f"{path} can't be written", seen=e.strerror or str(e)) from e
    except BaseException:
        os.unlink(temporary)
        raise


def from_bytes(content: bytes) -> Executable:
    """The executable of an artifact's content."""
    return _rebuild(*_parts(np.frombuffer(content, np.uint8), "this"), None, True)


def load(path: str | os.PathLike[str], *, threads: int | None, cache: bool) -> Executable:
    """The executable of an artifact file. Raises ArtifactError for a missing, damaged or foreign one."""
    try:
        # Opened without waiting, so that a pipe can't block. It is mapped: what isn't in use needn't be in memory.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            content = map_file(file.fileno())
    except OSError as e:
        raise ArtifactError(f"{os.fspath(path)} is no graphc artifact, or it can't be read", seen=str(e)) from e
    return _rebuild(*_parts(content, os.fspath(path)), threads, cache)


def _parts(content: np.ndarray, what: str) -> tuple[Mapping[str, str], dict[str, np.ndarray]]:
    """The metadata of a safetensors file, and its tensors' bytes: views of the content.

    The form: the header's length (8 bytes, little-endian), the header (JSON), the tensors.
    """
    data_start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    tensors = {}
    try:
        header = json.loads(content[8:data_start].tobytes())
        metadata = header.pop("__metadata__", {})
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if entry["dtype"] != "U8" or not 0 <= begin <= end <= content.size - data_start:
                raise ValueError(f"tensor {name[:80]}")
            tensors[name] = content[data_start + begin : data_start + end]
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as e:
        raise ArtifactError(f"{what} is no graphc artifact, or it is damaged", seen=str(e)) from e
    return metadata, tensors


def _rebuild(
    metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray], threads: int | None, cache: bool
) -> Executable:
    try:
        manifest: dict[str, Any] = json.loads(metadata["graphc"])
        text = metadata["ir"]
        version = manifest["format"]
        options = CompileOptions(**{**_tuples(manifest["options"]), "cache": cache, "verify": "off"})
    except (KeyError, TypeError, ValueError) as e:
        raise ArtifactError("this is no graphc artifact: its manifest is missing or damaged", seen=str(e)) from e
    if version != FORMAT:
        raise ArtifactError("the artifact has another format", seen=version, expected=FORMAT)
    if hashlib.sha256(text.encode()).hexdigest() != manifest.get("ir_sha256"):
        raise ArtifactError("the artifact's IR is damaged", seen="another digest than its manifest's")
    if threads is not None:
        options = CompileOptions(**{**asdict(options), "threads": threads})
    constants = _constants(text, tensors)
    with ThreadPoolExecutor(1) as beside:  # hashing takes as long as all the rest, and needs no Python
        checked = beside.submit(_check_digests, constants)
        from graphc.driver import compile_graph, installed_backend

        try:
            graph = parse_graph(text, constants=constants)
            verify(graph)
        except GraphcError as e:
            raise ArtifactError("the artifact's IR is damaged", seen=str(e)) from e
        _check_operators(graph, manifest.get("operators", {}))
        for name in (options.backend,) if isinstance(options.backend, str) else options.backend:
            installed_backend(name)
        checked.result()
    return compile_graph(graph, options)


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they were: JSON makes lists of tuples."""

    def back(x: Any) -> Any:
        return tuple(map(back, x)) if isinstance(x, list) else x

    return {name: back(value) for name, value in {**options}.items()}


def _constants(text: str, tensors: Mapping[str, np.ndarray]) -> dict[str, TensorData]:
    import re

    found: dict[str, TensorData] = {}
    for dtype, dims, digest in re.findall(_TYPE_OF_DIGEST, text):
        if digest in found:
            continue
        if dtype not in DTYPES or digest not in tensors:
            raise ArtifactError("the artifact lacks a constant", seen=digest)
        shape = tuple(int(d) for d in dims.split(",") if d)
        raw = tensors[digest]
        if raw.dtype != np.uint8 or raw.nbytes != int(np.prod(shape, dtype=object)) * DTYPES[dtype].bytes:
            expected = f"{dtype}[{dims}]"
            raise ArtifactError("a constant of the artifact has the wrong size", seen=raw.nbytes, expected=expected)
        found[digest] = TensorData(raw.reshape(-1).view(DTYPES[dtype].numpy).reshape(shape))
    return found


def _check_digests(constants: Mapping[str, TensorData]) -> None:
    for digest, data in constants.items():
        if data.digest != digest:
            raise ArtifactError("a constant of the artifact is damaged", seen=data.digest, expected=digest)


def _check_operators(graph: Graph, versions: Mapping[str, int]) -> None:
    for name, version in operators_of(graph).items():
        if versions.get(name) != version:
            raise ArtifactError(
                f"operator {name} has another version than the artifact was made with",
                seen=versions.get(name),
                expected=version,
                hint="compile the model again",
            )
