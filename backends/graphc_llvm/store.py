"""Compiled programs in the cache: what `Compiled` holds but weights, as JSON, with kernels under keys of their own."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from graphc.errors import ArtifactError
from graphc.ir.tensor_data import TensorData
from graphc.ir.types import DTYPES
from graphc_llvm.cache import Cache, cached_code
from graphc_llvm.program_json import from_json, to_json, walks_from_json, walks_to_json
from graphc_llvm.segment import Code, Compiled
from graphc_llvm.sources import PROGRAM_MAKERS, sources_digest
from graphc_llvm.target import host_identity


def store(compiled: Compiled, key: str, cache: Cache) -> None:
    """Keeps a compiled program whose kernels are in the cache."""
    entry = {
        "main": _code_json(compiled.main),
        "prepare": _code_json(compiled.prepare),
        "weights": [w if isinstance(w, int) else _data_json(w) for w in compiled.weights],
        "stages": dict(compiled.stages),
    }
    cache.put(_entry(key), json.dumps(entry).encode())


def restore(key: str, cache: Cache) -> Compiled | None:
    """What `store` kept under the key; None where the program or one of its kernels isn't there."""
    content = cache.get(_entry(key))
    if content is None:
        return None
    try:
        entry = json.loads(content)
        main, prepare = (_code(entry[part], cache) for part in ("main", "prepare"))
        weights = tuple(w if isinstance(w, int) else _data(w) for w in entry["weights"])
        stages = entry["stages"]
    except (KeyError, TypeError, ValueError) as e:
        raise ArtifactError("a cached program is damaged", seen=str(e)) from e
    return None if main is None or prepare is None else Compiled(main, prepare, weights, stages)


def _entry(key: str) -> str:
    """The host is part of it: options that name no target mean this machine, and others may share the cache's folder."""
    return f"program {key} {host_identity()} {sources_digest(PROGRAM_MAKERS)}"


def _code_json(code: Code) -> dict[str, Any]:
    literals = [_data_json(d) if isinstance(d, TensorData) else d for d in code.literals]
    walks = None if code.walks is None else walks_to_json(code.walks)
    return {"program": to_json(code.program), "literals": literals, "walks": walks, "threads": list(code.threads)}


def _code(entry: dict[str, Any], cache: Cache) -> Code | None:
    program = from_json(entry["program"])
    objects = {}
    for key, _ in program.kernels:
        found = cached_code(key, cache)
        if found is None:
            return None
        objects[key] = found
    literals = tuple(_data(d) if isinstance(d, list) else d for d in entry["literals"])
    walks = None if entry["walks"] is None else walks_from_json(entry["walks"])
    return Code(program, objects, literals, walks, tuple(map(int, entry["threads"])))


def _data_json(data: TensorData) -> list[Any]:
    raw = base64.b64encode(data.array.reshape(-1).view(np.uint8)).decode()
    return [data.type.dtype.name, list(data.array.shape), raw]


def _data(entry: list[Any]) -> TensorData:
    dtype, shape, raw = entry
    return TensorData(np.frombuffer(base64.b64decode(raw), DTYPES[dtype].numpy).reshape(shape))
