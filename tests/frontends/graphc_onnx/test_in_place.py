"""Initializers left in the file: the same model as protobuf reads, whole or damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphc.errors import GraphcError
from graphc.ir.text import print_graph
from graphc_onnx import import_model
from graphc_onnx.in_place import SMALLEST, without_large_tensors

SIDE = 160
LARGE = np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)


def model(*weights: TensorProto) -> ModelProto:
    last = len(weights)
    nodes = [helper.make_node("MatMul", [f"h{i}", w.name], [f"h{i + 1}"]) for i, w in enumerate(weights)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, SIDE]) for n in ("h0", f"h{last}")]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight(name: str, array: np.ndarray = LARGE) -> TensorProto:
    return numpy_helper.from_array(array, name)


def outcome(source: bytes | Path) -> str:
    """The graph's text, or what was raised."""
    try:
        return print_graph(import_model(source))
    except GraphcError as error:
        return type(error).__name__


CONTENT = model(weight("a"), weight("b", LARGE.T.copy())).SerializeToString()


def test_what_is_parsed_lacks_the_large_tensors_alone() -> None:
    message, stored = without_large_tensors(np.frombuffer(CONTENT, np.uint8))
    assert len(message) < 1000 and sorted(stored) == [0, 1]
    parsed = ModelProto.FromString(message)
    for i, array in enumerate((LARGE, LARGE.T)):
        assert parsed.graph.initializer[i].raw_data == b""
        assert stored[i].tobytes() == array.tobytes()
        parsed.graph.initializer[i].raw_data = array.tobytes()
    assert parsed == ModelProto.FromString(CONTENT)


@pytest.mark.parametrize("case", ["small", "typed", "twice", "two graphs", "group", "in a field of another kind"])
def test_what_is_left_to_protobuf(case: str, tmp_path: Path) -> None:
    proto = model(weight("a", LARGE), weight("b", LARGE))
    content = proto.SerializeToString()
    if case == "small":
        content = model(weight("a", LARGE[: SMALLEST // 4 // SIDE])).SerializeToString()
    elif case == "typed":
        content = model(helper.make_tensor("a", TensorProto.FLOAT, [SIDE, SIDE], LARGE.reshape(-1))).SerializeToString()
    elif case == "twice":  # the second one counts
        tensor = weight("a").SerializeToString() + weight("", LARGE + 1).SerializeToString()
        whole = model(weight("a"))
        whole.graph.initializer[0].CopyFrom(TensorProto.FromString(tensor))
        content = whole.SerializeToString()
    elif case == "two graphs":
        other = ModelProto()
        other.graph.doc_string = "more of it"
        content += other.SerializeToString()
    elif case == "group":
        content += b"\x0b\x0c"
    else:
        content += b"\x38\x01"
    (tmp_path / "m.onnx").write_bytes(content)
    assert outcome(tmp_path / "m.onnx") == outcome(content)


_TENSORS = [(CONTENT.index(w.tobytes()), w.nbytes) for w in (LARGE, LARGE.T)]
STRUCTURE = [k for k in range(len(CONTENT)) if not any(0 <= k - start < size for start, size in _TENSORS)]


@given(place=st.sampled_from(STRUCTURE), byte=st.integers(0, 255), cut=st.booleans())
def test_damage_has_the_same_outcome(
    place: int, byte: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = CONTENT[:place] if cut else CONTENT[:place] + bytes([byte]) + CONTENT[place + 1 :]
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    path.write_bytes(content)
    assert outcome(path) == outcome(content)
