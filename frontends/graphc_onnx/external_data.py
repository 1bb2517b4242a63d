"""Tensors whose bytes lie in files beside the model: found inside the model's folder, or refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from graphc.errors import ModelError
from graphc.ir.mapped import map_file


def map_external(tensor: TensorProto, size: int, base_dir: Path | None, layer: str) -> NDArray[np.uint8]:
    """The tensor's `size` bytes as a read-only view of the mapped file, nothing copied.

    The file must lie in `base_dir`, after every link is followed, and hold `size` bytes where the tensor says;
    ModelError otherwise.
    """
    fields = {entry.key: entry.value for entry in tensor.external_data}
    path = _locate(fields.get("location", ""), base_dir, layer)
    offset = _number(fields, "offset", 0, layer)
    length = _number(fields, "length", size, layer)
    if length != size:
        raise ModelError(
            "external data has the wrong length", layer=layer, seen=f"{length} bytes", expected=f"{size} bytes"
        )
    try:
        # Opened without waiting, so that a pipe can't block; only a regular file is then mapped.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError("external data isn't in a file", layer=layer, seen=path)
            if offset + size > status.st_size:
                raise ModelError(
                    "external data ends too early",
                    layer=layer,
                    seen=f"{path.name} has {status.st_size} bytes",
                    expected=f"{offset + size}: {size} bytes from byte {offset} on",
                    hint="is the file complete?",
                )
            return map_file(file.fileno())[offset : offset + size]
    except OSError as error:
        raise ModelError("external data can't be read", layer=layer, seen=error) from error


def _locate(location: str, base_dir: Path | None, layer: str) -> Path:
    """The real path of external data, which is in the model's folder."""
    if base_dir is None:
        raise ModelError(
            "external data has no folder to lie in",
            layer=layer,
            seen=f"location {location!r} in a model that isn't from a file",
            hint="give the model's path, or load the tensors first with onnx.external_data_helper",
        )
    relative = Path(location)
    if not location or "\0" in location or relative.is_absolute() or ".." in relative.parts or "\\" in location:
        raise ModelError(
            "external data isn't inside the model's folder",
            layer=layer,
            seen=f"location {location!r}",
            expected="a path inside the folder, without ..",
        )
    try:
        folder = base_dir.resolve(strict=True)
        path = (folder / relative).resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in circles
        raise ModelError(
            "external data can't be found", layer=layer, seen=error, expected=f"{location!r} beside the model"
        ) from error
    if not path.is_relative_to(folder):
        raise ModelError(
            "external data isn't inside the model's folder",
            layer=layer,
            seen=f"{location!r} is a link to {path}",
            expected="a file inside the folder",
        )
    return path


def _number(fields: dict[str, str], name: str, default: int, layer: str) -> int:
    text = fields.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(f"external data has a wrong {name}", layer=layer, seen=repr(text[:40]), expected="0 or more")
    return int(text)
