"""Errors carry their fields, print one form, and survive pickling."""

import pickle

import pytest

from graphc.errors import (
    ArtifactError,
    GraphcError,
    ModelError,
    NumericError,
    PluginError,
    ShapeError,
    Unsupported,
    UnsupportedOpError,
    VerifyError,
)


def test_message_has_every_field_on_its_own_line() -> None:
    error = ShapeError(
        "matmul can't contract its operands",
        layer="encoder/dense",
        seen="f32[2,3] @ f32[4,5]",
        expected="equal inner dims",
        hint="transpose the second operand",
    )
    assert str(error) == (
        "matmul can't contract its operands\n"
        "  layer:    encoder/dense\n"
        "  seen:     f32[2,3] @ f32[4,5]\n"
        "  expected: equal inner dims\n"
        "  hint:     transpose the second operand"
    )


def test_fields_that_are_not_given_are_left_out() -> None:
    error = ModelError("the file is empty", seen=0)
    assert str(error) == "the file is empty\n  seen:     0"
    assert (error.layer, error.expected, error.hint) == (None, None, None)


def test_continued_lines_stay_in_their_column() -> None:
    assert str(GraphcError("x", seen="a\nb")) == "x\n  seen:     a\n            b"


@pytest.mark.parametrize("cls", [ModelError, VerifyError, ShapeError, NumericError, PluginError, ArtifactError])
def test_every_kind_is_a_graphc_error_and_pickles(cls: type[GraphcError]) -> None:
    error = cls("what", layer="conv1", expected=3)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert isinstance(copy, GraphcError)
    assert str(copy) == str(error)
    assert (copy.layer, copy.expected) == ("conv1", "3")


def test_unsupported_names_all_nodes_and_groups_equal_reasons() -> None:
    nodes = [Unsupported("Loop", f"block{i}/loop", "it has no bound") for i in range(5)]
    nodes.append(Unsupported("Mystery", "head", "the operator is unknown"))
    error = UnsupportedOpError("graphc_onnx", nodes, hint="export with a fixed length")
    text = str(error)
    assert text.startswith("graphc_onnx doesn't support 6 nodes of this model\n")
    assert text.count("it has no bound") == 1
    assert "block0/loop, block1/loop, block2/loop and 2 more" in text
    assert "Mystery: the operator is unknown (in head)" in text
    assert pickle.loads(pickle.dumps(error)).unsupported == error.unsupported


def test_unsupported_needs_a_node() -> None:
    with pytest.raises(ValueError, match="at least one"):
        UnsupportedOpError("llvm", [])
