"""`graphc demo`, on the smallest of the light models; the whole of it, on ResNet-50, is slow."""

import numpy as np
import pytest
from PIL import Image

from graphc.cli import photograph
from graphc.testing.light_models import light_model, names


def test_the_photograph_is_decoded_as_pillow_does() -> None:
    path = photograph.resources.files("graphc.cli").joinpath("data/china.png")
    with path.open("rb") as file:
        expected = np.asarray(Image.open(file).convert("RGB"))
    np.testing.assert_array_equal(photograph.decode_png(path.read_bytes()), expected)
    image = photograph.photograph()
    assert image.shape == (1, 3, 224, 224)
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    assert abs(float(image.mean())) < 1 < float(image.std()) + 0.5


@pytest.mark.parametrize("model", ["squeezenet", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_it_tells_passes_kernels_latency_and_agreement(graphc_json, model: str) -> None:
    data = graphc_json("demo", "--model", model, "--seconds", 0.1)
    assert data["agrees"]
    assert {"fold-batch-norm", "channels-last"} <= {p["name"] for p in data["passes"]}
    assert len(data["kernels"]) == 10
    assert all(k["layers"] for k in data["kernels"])
    assert data["best_seconds"] > 0
    assert data["gflops_per_second"] > 0
    assert data["peak_bytes"] > 0
    assert data["logits"]["deviation"] > 0.1
    assert data["agreement"][0]["error"] < 1e-4


def test_an_unknown_model_is_told(graphc_command) -> None:
    status, _, err = graphc_command("demo", "--model", "resnet9000")
    assert status == 1
    assert "resnet50" in err


def test_light_models_are_seeded() -> None:
    assert len(names()) == 9
    first, again, other = light_model("squeezenet"), light_model("squeezenet"), light_model("squeezenet", seed=1)
    assert first.SerializeToString() == again.SerializeToString() != other.SerializeToString()
    assert [i.name for i in first.graph.input] == ["data_0"]
    assert all(n.name for n in first.graph.node)
    assert light_model("resnet50", logits=False).graph.node[-1].op_type == "Softmax"
