"""Reading ONNX models that nobody vouches for: bytes in, a model whose structure is sound or a ModelError out.

Only protobuf parses what comes from outside. The rules of the format that graphc relies on are checked here and in
`structure`, in Python; `schemas` then checks each node against its operator's signature.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import FunctionProto, ModelProto, OperatorSetIdProto

from graphc.errors import ModelError
from graphc.ir.mapped import map_file
from graphc_onnx.in_place import without_large_tensors
from graphc_onnx.structure import FunctionKey, check_functions, check_model_graph, function_key

OLDEST_OPSET = 7
# Protobuf can't hold more in one message; larger models keep their weights in external data.
LARGEST_FILE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A model whose names, types of inputs, order and functions are sound; its nodes aren't checked yet.

    `opsets` maps each imported domain to its version; ONNX's own domain is "". `base_dir` is where external data lies,
    None where the model didn't come from a file. `stored` has the bytes of initializers that were left in the file, by index.
    """

    proto: ModelProto
    opsets: Mapping[str, int]
    functions: Mapping[FunctionKey, FunctionProto]
    base_dir: Path | None
    stored: Mapping[int, np.ndarray]


def read_model(source: str | os.PathLike[str] | bytes | ModelProto, *, base_dir: Path | None = None) -> OnnxModel:
    """The model in a file, in bytes or in a ModelProto, which stays as it is; ModelError if it isn't sound.

    `base_dir` is the folder of external data where `source` isn't a file.
    """
    stored: Mapping[int, np.ndarray] = {}
    if isinstance(source, ModelProto):
        proto = source
    elif isinstance(source, (bytes, bytearray, memoryview)):
        proto = _parse(bytes(source), "the byte string")
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        message, stored = without_large_tensors(_map_file(path))
        proto = _parse(message, f"the file {path}")
        base_dir = path.parent
    else:
        raise ModelError(
            "this isn't an ONNX model",
            seen=f"an object of {type(source).__module__}.{type(source).__qualname__}",
            expected="a path, the bytes of a file, or an onnx.ModelProto",
        )
    _check_text(proto)
    if not proto.HasField("graph"):
        raise ModelError("the model has no graph", hint="is this an ONNX model, and all of it?")
    if not 1 <= proto.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            "the model's IR version isn't known",
            seen=proto.ir_version,
            expected=f"1 to {onnx.IR_VERSION}",
            hint="is this an ONNX model? a newer onnx package knows newer versions",
        )
    opsets = read_opsets(proto.opset_import, "the model")
    functions: dict[FunctionKey, FunctionProto] = {}
    for function in proto.functions:
        key = function_key(function.domain, function.name, function.overload)
        if key in functions:
            raise ModelError("a function is defined twice", layer=function.name, seen=":".join(key))
        functions[key] = function
    check_functions(functions, proto.graph)
    check_model_graph(proto.graph)
    return OnnxModel(proto, MappingProxyType(opsets), MappingProxyType(functions), base_dir, stored)


def read_opsets(imports: Iterable[OperatorSetIdProto], whose: str) -> dict[str, int]:
    """The version of each imported domain ("" for ONNX's own); ModelError where it isn't one that onnx knows."""
    known = _domain_versions()
    opsets: dict[str, int] = {}
    for entry in imports:
        domain = normal_domain(entry.domain)
        if opsets.setdefault(domain, entry.version) != entry.version:
            raise ModelError(
                f"{whose} imports two versions of one domain",
                seen=f"{domain or 'ai.onnx'} {opsets[domain]} and {entry.version}",
            )
        oldest, newest = known.get(domain, (1, entry.version))
        if not oldest <= entry.version <= newest:
            raise ModelError(
                f"{whose} imports a version of {domain or 'ai.onnx'} that isn't supported",
                seen=entry.version,
                expected=f"{oldest} to {newest}",
                hint="export the model for a supported opset"
                if entry.version < oldest
                else "a newer onnx package knows newer opsets",
            )
    if not opsets:
        raise ModelError(f"{whose} doesn't say which opset it uses", hint="is this an ONNX model, and all of it?")
    return opsets


def normal_domain(domain: str) -> str:
    """The domain's one name: ONNX's own has two, "" and "ai.onnx"."""
    return "" if domain == "ai.onnx" else domain


@lru_cache(maxsize=1)
def _domain_versions() -> dict[str, tuple[int, int]]:
    versions = {normal_domain(name): limits for name, limits in onnx.defs.C.schema_version_map().items()}
    return versions | {"": (OLDEST_OPSET, onnx.defs.onnx_opset_version())}


def _map_file(path: Path) -> np.ndarray:
    try:
        # Opened without waiting, so that a pipe under the model's name can't block; only a regular file is then mapped.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{path} isn't a file", expected="an .onnx file")
            if status.st_size > LARGEST_FILE:
                raise ModelError(
                    f"{path} is too large for one message",
                    seen=f"{status.st_size} bytes",
                    expected=f"at most {LARGEST_FILE}",
                    hint="save the model with external data",
                )
            return map_file(file.fileno())
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ModelError(f"{str(path)!r} can't be read", seen=error) from error


def _parse(data: bytes, what: str) -> ModelProto:
    if not data:
        raise ModelError(f"{what} is empty", expected="an ONNX model")
    try:
        proto: ModelProto = ModelProto.FromString(data)
    except DecodeError as error:
        raise ModelError(
            f"{what} isn't an ONNX model, or is damaged",
            seen=error,
            hint="is it complete? export or copy it again",
        ) from error
    return proto


def _check_text(message: Message) -> None:
    """ModelError if a text in the model isn't UTF-8: protobuf hands such a text out as bytes."""
    pending = [message]
    while pending:
        message = pending.pop()
        texts, messages = _fields(message.DESCRIPTOR)
        for name in texts:
            value = getattr(message, name)
            for text in (value,) if isinstance(value, (str, bytes)) else value:
                if not isinstance(text, str):
                    raise ModelError(
                        f"a text of the model ({message.DESCRIPTOR.name}.{name}) isn't UTF-8",
                        seen=text[:60],
                        hint="the file is damaged; export or copy it again",
                    )
        for name in messages:
            value = getattr(message, name)
            if not isinstance(value, Message):
                pending.extend(value)
            elif message.HasField(name):
                pending.append(value)


@lru_cache(maxsize=64)
def _fields(descriptor: Descriptor) -> tuple[list[str], list[str]]:
    """The names of a message's text fields and of those that hold messages."""
    texts = [field.name for field in descriptor.fields if field.type == FieldDescriptor.TYPE_STRING]
    return texts, [field.name for field in descriptor.fields if field.type == FieldDescriptor.TYPE_MESSAGE]
