"""`graphc run`: inputs from files and at random, outputs to files."""

from pathlib import Path

import numpy as np
import pytest

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)


@pytest.mark.parametrize("named", [True, False])
def test_inputs_from_npy_and_outputs_to_npz(graphc_json, model, weights, tmp_path: Path, named: bool) -> None:
    np.save(tmp_path / "x.npy", X)
    entry = f"x={tmp_path / 'x.npy'}" if named else tmp_path / "x.npy"
    data = graphc_json("run", model, "-i", entry, "-o", tmp_path / "y.npz", "--backend", "reference")
    w, b = weights
    y = np.load(tmp_path / "y.npz")["y"]
    np.testing.assert_allclose(y, np.maximum(X @ w + b, 0), rtol=1e-5, atol=1e-6)
    assert data["outputs"]["y"]["type"] == "float32[3, 4]"
    assert data["outputs"]["y"]["greatest"] == pytest.approx(y.max())


def test_inputs_from_npz(graphc_json, model, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=X)
    given = graphc_json("run", model, "-i", tmp_path / "in.npz", "--backend", "reference")
    assert given["inputs"] == "given"


def test_random_inputs_are_seeded(graphc_json, model) -> None:
    def run(*more: object) -> dict:
        return graphc_json("run", model, "--backend", "reference", "--dim", "batch=5", *more)["outputs"]

    assert run() == run()
    assert run("--seed", 1) != run()
    assert run()["y"]["type"] == "float32[5, 4]"


def test_an_artifact_runs(graphc_json, graphc_command, model, tmp_path: Path) -> None:
    graphc_json("compile", model, "-o", tmp_path / "m.graphc", "--backend", "reference")
    assert graphc_json("run", tmp_path / "m.graphc") == graphc_json("run", model, "--backend", "reference")
    status, _, err = graphc_command("run", tmp_path / "m.graphc", "--backend", "llvm")
    assert status == 1
    assert "--backend" in err


def test_the_text_has_a_line_for_each_output(graphc_command, model) -> None:
    status, out, err = graphc_command("run", model, "--backend", "reference")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "inputs: random, seed 0"
    assert "float32[1, 4]" in out


def test_what_does_not_fit_is_told(graphc_command, model, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.astype(np.float64))
    (tmp_path / "text.npy").write_text("not an array")
    np.savez(tmp_path / "other.npz", z=X)
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    for entry, told in [
        (tmp_path / "x.npy", "dtype"),
        (tmp_path / "text.npy", "text.npy"),
        (tmp_path / "none.npy", "none.npy"),
        (tmp_path / "other.npz", "signature"),
        (tmp_path / "object.npy", "object.npy"),
        (f"z={tmp_path / 'x.npy'}", "signature"),
        (f"x={tmp_path / 'other.npz'}", "itself"),
    ]:
        status, out, err = graphc_command("run", model, "-i", entry, "--backend", "reference")
        assert (status, out) == (1, ""), entry
        assert told in err
    status, _, err = graphc_command("run", model, "--backend", "reference", "--dim", "colour=3")
    assert status == 1
    assert "colour" in err
