"""`graphc compile` and what it writes."""

from pathlib import Path

import numpy as np
import pytest

import graphc


def test_it_writes_an_artifact(graphc_json, model: Path, weights, tmp_path: Path) -> None:
    output = tmp_path / "m.graphc"
    data = graphc_json("compile", model, "-o", output, "--backend", "reference", "--verify", "sample")
    assert data["output"] == str(output)
    assert data["bytes"] == output.stat().st_size
    w, b = weights
    x = np.ones((2, 8), np.float32)
    np.testing.assert_allclose(graphc.load(output)(x), np.maximum(x @ w + b, 0), rtol=1e-5)


def test_its_name_is_the_models(graphc_command, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "net.onnx"
    copy.write_bytes(model.read_bytes())
    status, out, _ = graphc_command("compile", copy, "--backend", "reference")
    assert status == 0
    assert out.startswith(str(tmp_path / "net.graphc"))
    assert (tmp_path / "net.graphc").is_file()


def test_an_axis_can_be_made_dynamic(graphc_json, tmp_path: Path, model: Path) -> None:
    output = tmp_path / "m.graphc"
    graphc_json("compile", model, "-o", output, "--backend", "reference", "--dynamic", "x:0=n:2:16")
    assert str(graphc.load(output).graph.inputs[0].type) == "f32[n,8]"
    data = graphc_json("inspect", output)
    assert data["dims"] == {"n": {"low": 2, "high": "16"}}


@pytest.mark.parametrize("bad", ["x", "x=n", "x:0", "x:a=n", "x:0=n:1", "x:0=n:a:b"])
def test_a_dynamic_axis_that_makes_no_sense_is_wrong_usage(graphc_command, model: Path, bad: str) -> None:
    with pytest.raises(SystemExit) as caught:
        graphc_command("compile", model, "--dynamic", bad)
    assert caught.value.code == 2


def test_nothing_is_written_where_it_fails(graphc_command, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x07nonsense")
    status, out, err = graphc_command("compile", broken, "-o", tmp_path / "m.graphc")
    assert (status, out) == (1, "")
    assert err.startswith("graphc: ")
    assert sorted(tmp_path.iterdir()) == [broken]
    status, _, err = graphc_command("compile", "none.onnx")
    assert status == 1
    assert "none.onnx" in err
