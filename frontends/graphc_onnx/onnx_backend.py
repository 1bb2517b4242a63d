"""graphc as an `onnx.backend.base.Backend`, so that ONNX's own test suite runs on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto
from onnx.backend.base import Backend, BackendRep

import graphc
from graphc.errors import GraphcError, ModelError, UnsupportedOpError
from graphc.executable import Executable
from graphc_onnx.convert import NeedsConstants, convert
from graphc_onnx.reading import OnnxModel, read_model
from graphc_onnx.symbols import Symbols

# Elements of an input whose contents may be compiled in: shapes, axes, numbers of repetitions.
_MOST_CONSTANT_ELEMENTS = 1024


class OnnxBackendRep(BackendRep):
    """A prepared model. Where shapes depend on an input's contents, it is compiled once for each contents seen."""

    def __init__(self, model: OnnxModel, backend: str) -> None:
        self._model = model
        self._backend = backend
        self._executables: dict[tuple[tuple[Any, ...], ...], Executable] = {}
        self._compiled_in: frozenset[str] = frozenset()
        initializers = {t.name for t in model.proto.graph.initializer}
        self._inputs = [i.name for i in model.proto.graph.input if i.name not in initializers]
        try:
            self._executables[()] = self._compile({})
        except NeedsConstants as e:
            self._compiled_in = e.inputs

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs for inputs in order, or by name."""
        given = _by_name(self._inputs, inputs)
        executable = self._executable(given)
        outputs = executable(*(given[name] for name in self._inputs if name not in self._compiled_in))
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def _executable(self, given: Mapping[str, np.ndarray]) -> Executable:
        key = tuple((n, given[n].dtype.str, given[n].shape, given[n].tobytes()) for n in sorted(self._compiled_in))
        if key not in self._executables:
            self._executables[key] = self._specialize(given)
        return self._executables[key]

    def _specialize(self, given: Mapping[str, np.ndarray]) -> Executable:
        """An executable for these contents of the inputs that shapes depend on."""
        while True:
            constants = {name: given[name] for name in self._compiled_in}
            if any(a.size > _MOST_CONSTANT_ELEMENTS for a in constants.values()):
                raise UnsupportedOpError("graphc_onnx", self._why(constants))
            try:
                return self._compile(constants)
            except NeedsConstants as e:
                if e.inputs <= self._compiled_in:
                    raise
                self._compiled_in |= e.inputs

    def _why(self, constants: Mapping[str, np.ndarray]) -> Any:
        try:
            convert(self._model, Symbols(None))
        except UnsupportedOpError as e:
            return e.unsupported
        raise AssertionError(f"the model needs no constants, but {sorted(constants)} were asked for")

    def _compile(self, constants: Mapping[str, np.ndarray]) -> Executable:
        graph = convert(self._model, Symbols(None), constants)
        return graphc.compile(graph, backend=self._backend)


def _by_name(names: Sequence[str], inputs: Any) -> dict[str, np.ndarray]:
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise ModelError("inputs don't match the signature", seen=sorted(map(str, inputs)), expected=list(names))
        return {name: np.asarray(x) for name, x in inputs.items()}
    if isinstance(inputs, np.ndarray):
        inputs = [inputs]
    if len(inputs) != len(names):
        raise ModelError("wrong number of inputs", seen=len(inputs), expected=f"{len(names)}: {', '.join(names)}")
    return dict(zip(names, map(np.asarray, inputs), strict=True))


class OnnxBackend(Backend):
    """Runs ONNX models through `graphc.compile`; `backend` names the graphc backend, subclasses may choose another."""

    backend = "llvm"

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the model can be imported."""
        try:
            convert(read_model(model), Symbols(None))
        except NeedsConstants:
            return True
        except GraphcError:
            return False
        return True

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> OnnxBackendRep:
        """The model, compiled. Raises UnsupportedOpError or ModelError."""
        if not cls.supports_device(device):
            raise ModelError("the device isn't supported", seen=device, expected="CPU")
        return OnnxBackendRep(read_model(model), cls.backend)

    @classmethod
    def run_model(cls, model: ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """The outputs of one run."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """The results of one node for arrays in the order of its operands (those left out are skipped)."""
        names = list(dict.fromkeys(name for name in node.input if name))
        given = _by_name(names, inputs)
        graph = onnx.helper.make_graph(
            [node],
            "node",
            [
                onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
                for n, x in given.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )
        opset = int(kwargs.get("opset_version", onnx.defs.onnx_opset_version()))
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, opset)])
        return cls.run_model(model, given, device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """CPUs alone."""
        return device.partition(":")[0] == "CPU"
