"""Saved executables: whole or absent, the same program again, and nothing trusted."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import graphc
from graphc import artifact
from graphc.errors import ArtifactError
from graphc.ir.types import f32

W = np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)


def net() -> graphc.Graph:
    b = graphc.Builder(graphc.Graph("net"), origin=("fc1",))
    x = b.input("x", f32, (graphc.Dim("n"), 32))
    return b.returns(b.op("relu", b.op("matmul", x, b.constant(W))))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.graphc"
    graphc.compile(net(), backend="reference").save(path)
    return path


def test_it_is_the_same_program_again(saved: Path) -> None:
    again = graphc.load(saved)
    assert again.text() == graphc.print_graph(net())
    assert again.options.backend == "reference"
    np.testing.assert_array_equal(again(X), np.maximum(X @ W, 0))


def test_a_fresh_process_loads_it_and_needs_no_frontend(saved: Path) -> None:
    source = (
        "import sys, graphc, numpy as np\n"
        f"y = graphc.load({str(saved)!r})(np.ones((2, 32), np.float32))\n"
        "assert not {'onnx', 'graphc_onnx', 'torch'} & set(sys.modules)\n"
        "print(y.shape)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 8)\n"


def test_the_file_is_a_safetensors_file_that_others_read(saved: Path) -> None:
    (weights,) = load_file(saved).values()
    assert weights.tobytes() == W.tobytes()


def test_the_llvm_backends_program_comes_back(tmp_path: Path) -> None:
    executable = graphc.compile(net(), threads=1, numerics="strict")
    executable.save(tmp_path / "m.graphc")
    again = graphc.load(tmp_path / "m.graphc", threads=2)
    assert again.options.numerics == "strict"
    assert again.options.threads == 2
    np.testing.assert_array_equal(again(X), executable(X))


def test_threads_are_the_loaders_choice(saved: Path) -> None:
    assert graphc.load(saved).options.threads is None
    assert graphc.load(saved, threads=2).options.threads == 2


def test_saving_leaves_the_old_file_where_it_fails(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(artifact.os, "replace", full)
    with pytest.raises(graphc.ArtifactError, match="no space"):
        graphc.compile(net(), backend="reference").save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="can't be written"):
        graphc.compile(net(), backend="reference").save(tmp_path / "none" / "m.graphc")


def test_passes_given_by_hand_are_not_lost_in_silence(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="passes given by hand"):
        graphc.compile(net(), backend="reference", passes=["dce"]).save(tmp_path / "m.graphc")
    assert list(tmp_path.iterdir()) == []
    graphc.compile(graphc.run_passes(net(), ["dce"]), backend="reference").save(tmp_path / "m.graphc")


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="can't be written"):
        graphc.compile(net(), backend="reference").save(tmp_path)


def test_every_truncation_is_an_error(saved: Path) -> None:
    content = saved.read_bytes()
    cut = saved.with_name("cut.graphc")
    for length in [*range(0, len(content) - 1, 97), len(content) - 1]:
        cut.write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            graphc.load(cut)


def test_every_flipped_byte_is_an_error_or_harmless(saved: Path) -> None:
    """Weights and IR have digests, so a flip that goes unnoticed hits an option at most."""
    content = saved.read_bytes()
    expected = np.maximum(X @ W, 0)
    flipped = saved.with_name("flipped.graphc")
    rng = np.random.default_rng(0)
    for at in sorted(rng.choice(len(content), 300, replace=False)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        flipped.write_bytes(damaged)
        try:
            executable = graphc.load(flipped)
        except graphc.GraphcError:
            continue
        np.testing.assert_array_equal(executable(X), expected)


def rewritten(saved: Path, ir: str | None = None, **changes: object) -> Path:
    """The artifact with another text, or other entries of its manifest; the text's digest fits."""
    content = saved.read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    ir = metadata["ir"] if ir is None else ir
    manifest = {**json.loads(metadata["graphc"]), "ir_sha256": hashlib.sha256(ir.encode()).hexdigest(), **changes}
    path = saved.with_name("rewritten.graphc")
    save_file(load_file(saved), path, {"ir": ir, "graphc": json.dumps(manifest)})
    return path


def test_another_format_and_other_operators_are_told(saved: Path) -> None:
    with pytest.raises(ArtifactError, match="another format"):
        graphc.load(rewritten(saved, format=99))
    with pytest.raises(ArtifactError, match="operator relu") as caught:
        graphc.load(rewritten(saved, operators={"constant": 1, "matmul": 1, "relu": 7}))
    assert "compile the model again" in (caught.value.hint or "")
    for wrong in ({"colour": "red"}, [], None):
        with pytest.raises(ArtifactError, match="manifest"):
            graphc.load(rewritten(saved, options=wrong))
    with pytest.raises(ArtifactError, match="digest"):
        graphc.load(rewritten(saved, ir_sha256="0" * 64))


def test_damaged_text_and_lost_weights_are_told(saved: Path) -> None:
    text = graphc.load(saved).text()
    with pytest.raises(ArtifactError, match="IR is damaged"):
        graphc.load(rewritten(saved, ir=text.replace("matmul", "matmil")))
    with pytest.raises(ArtifactError, match="IR is damaged"):
        graphc.load(rewritten(saved, ir=text.replace("f32[n,8] = relu", "f32[n,9] = relu")))
    digest = text.partition("sha256:")[2][:64]
    with pytest.raises(ArtifactError, match="lacks a constant"):
        graphc.load(rewritten(saved, ir=text.replace(digest, "0" * 64)))
    with pytest.raises(ArtifactError, match="wrong size"):
        graphc.load(rewritten(saved, ir=text.replace("f32[32,8] sha256", "f32[32,9] sha256")))


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 64, b"PK\x03\x04" + b"\0" * 60])
def test_what_is_no_artifact(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.graphc"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        graphc.load(path)
    with pytest.raises(ArtifactError):
        artifact.from_bytes(content)
