"""Whole models: names, seeds, errors with paths, dynamic batches, and training."""

from __future__ import annotations

import numpy as np
import pytest

import graphc
import graphc_nn as gn
from graphc.errors import GraphcError, ModelError, ShapeError
from graphc.interpreter import interpret


class Net(gn.Module):
    """A small network of images."""

    def __init__(self) -> None:
        self.features = gn.Sequential(
            gn.Conv2d(1, 8, 3, padding=1, bias=False), gn.BatchNorm(8), gn.relu, gn.MaxPool2d(2),
            gn.Residual(gn.Sequential(gn.Conv2d(8, 8, 3, padding=1), gn.silu)),
        )  # fmt: skip
        self.dropout = gn.Dropout(0.1)
        self.head = gn.Linear(8 * 16, 10)

    def forward(self, image):
        h = self.features(image)
        return self.head(self.dropout(gn.Flatten()(h)))


def data(count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images[:count, None] / 16).astype(np.float32), digits.target[:count].astype(np.int64)


def test_names_are_paths():
    model = Net()
    assert list(model.parameters) == [
        "features.steps.0.weight", "features.steps.1.weight", "features.steps.1.bias",
        "features.steps.4.inner.steps.0.weight", "features.steps.4.inner.steps.0.bias", "head.weight", "head.bias",
    ]  # fmt: skip
    assert list(model.state) == ["features.steps.1.running_mean", "features.steps.1.running_var"]


def test_a_seed_and_a_name_make_the_bits():
    first, second, other = Net().initialize(1), Net().initialize(1), Net().initialize(2)
    for name, value in first.parameters.items():
        np.testing.assert_array_equal(value, second.parameters[name])
    assert not np.array_equal(first.parameters["head.weight"], other.parameters["head.weight"])


def test_it_trains_and_runs_as_it_was_trained():
    x, y = data()
    model = Net().initialize(0)
    step = graphc.compile_training(
        model, loss="cross_entropy", optimizer=graphc.Adam(1e-2), example_inputs=(x, y), cache=False, threads=1
    )
    losses = [float(step(x, y)) for _ in range(25)]
    assert losses[-1] < 0.3 * losses[0]
    exe = step.inference(example_inputs=None, cache=False)
    assert (exe(x).argmax(1) == y).mean() > 0.9
    step.write_back()
    graph = graphc.import_model(model, example_inputs=(x,))
    np.testing.assert_allclose(exe(x), interpret(graph, [x])[0], rtol=1e-3, atol=1e-4)


def test_equal_seeds_train_to_equal_bits():
    x, y = data()

    def trained(seed: int) -> np.ndarray:
        step = graphc.compile_training(
            Net().initialize(0), loss="cross_entropy", optimizer=graphc.SGD(0.1), example_inputs=(x, y), seed=seed
        )
        for _ in range(3):
            step(x, y)
        return step.parameters["head.weight"].copy()

    np.testing.assert_array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))  # another dropout


def test_the_batch_may_be_dynamic():
    x, _ = data(8)
    model = Net().initialize(0)
    exe = graphc.compile(
        model, example_inputs=(x,), dynamic={"image": {0: graphc.Dim("batch", 1, 64)}}, cache=False, threads=1
    )
    np.testing.assert_allclose(exe(x[:3]), exe(x)[:3], rtol=1e-4, atol=1e-5)


def test_a_parameter_in_two_places_is_one():
    class Tied(gn.Module):
        def __init__(self):
            self.embedding, self.out = gn.Embedding(12, 6), gn.Linear(6, 12, bias=False)
            self.out.weight = self.embedding.weight

        def forward(self, x):
            return self.out(self.embedding(x))

    model = Tied()
    assert list(model.parameters) == ["embedding.weight"]
    x = np.arange(5)
    (y,) = interpret(graphc.import_model(model, example_inputs=(x,)), [x])
    table = model.parameters["embedding.weight"]
    np.testing.assert_allclose(y, table[x] @ table.T, rtol=1e-4, atol=1e-5)


def test_inputs_go_by_their_names():
    x, y = (np.random.default_rng(0).normal(size=(3, n)).astype(np.float32) for n in (4, 2))
    model = gn.Bilinear(4, 2, 5).initialize(1)
    graph = graphc.import_model(model, example_inputs={"y": y, "x": x})
    assert [v.name for v in graph.inputs] == ["x", "y"]
    np.testing.assert_array_equal(
        interpret(graph, [x, y])[0], interpret(graphc.import_model(model, example_inputs=(x, y)), [x, y])[0]
    )


def test_loading_some_arrays_leaves_the_others_to_the_seed():
    model, given = gn.Linear(3, 2), np.ones((2,), np.float32)
    model.load({"bias": given})
    np.testing.assert_array_equal(model.parameters["bias"], given)
    np.testing.assert_array_equal(model.parameters["weight"], gn.Linear(3, 2).initialize(0).parameters["weight"])


@pytest.mark.parametrize(
    "key", [0, -1, (slice(None), -1), (slice(1, 3), slice(None), 2), (slice(None, -1), slice(1, None, 2)), slice(1, 99)]
)
def test_indexing_is_numpys(key):
    class Indexed(gn.Module):
        def forward(self, x):
            return x[key]

    x = np.arange(60, dtype=np.float32).reshape(4, 5, 3)
    np.testing.assert_array_equal(interpret(graphc.import_model(Indexed(), example_inputs=(x,)), [x])[0], x[key])


def test_layers_tell_where_they_are():
    graph = graphc.import_model(Net(), example_inputs=(data(2)[0],))
    origins = {o for n in graph.nodes for o in n.origin}
    assert {"features.steps.1", "features.steps.4.inner.steps.0", "head"} <= origins


@pytest.mark.parametrize(
    ("model", "x", "path", "message"),
    [
        (gn.Sequential(gn.Linear(4, 5), gn.Linear(6, 2)), np.zeros((2, 4), np.float32), "steps.1", "inputs"),
        (gn.Sequential(gn.relu, gn.Conv2d(3, 4, 3)), np.zeros((2, 4, 8, 8), np.float32), "steps.1", "Conv2d"),
        (gn.Sequential(gn.Conv2d(3, 4, 9)), np.zeros((2, 3, 8, 8), np.float32), "steps.0", "conv"),
        (gn.Sequential(gn.Embedding(3, 4)), np.zeros((2,), np.float32), "steps.0", "integers"),
        (gn.Sequential(gn.AdaptiveAveragePool2d(3)), np.zeros((1, 8, 8), np.float32), "steps.0", "Adaptive"),
        (gn.Sequential(gn.glu), np.zeros((2, 5), np.float32), "Sequential", "halves"),
    ],
)
def test_shapes_are_checked_with_the_path(model, x, path, message):
    with pytest.raises(ShapeError, match=message) as error:
        graphc.import_model(model, example_inputs=(x,))
    assert error.value.layer == path


def test_what_makes_no_sense_is_refused():
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(GraphcError, match="divide"):
        gn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(GraphcError, match="heads"):
        gn.MultiHeadAttention(8, 3)
    with pytest.raises(GraphcError, match="with tensors"):
        gn.Linear(4, 2)(x)
    with pytest.raises(ModelError, match="example inputs"):
        graphc.import_model(gn.Linear(4, 2))
    with pytest.raises(ModelError, match="no such input"):
        graphc.import_model(gn.Linear(4, 2), example_inputs={"y": x})
    with pytest.raises(GraphcError, match="no such array"):
        gn.Linear(4, 2).load({"wieght": x})

    with pytest.raises(ModelError, match="lack some"):
        graphc.import_model(gn.Bilinear(4, 4, 2), example_inputs=(x,))
    with pytest.raises(ModelError, match="no array"):
        graphc.import_model(gn.Linear(4, 2), example_inputs=([1.0, 2.0],))
    with pytest.raises(GraphcError, match="modules and functions"):
        gn.Sequential(gn.Linear(4, 2), gn.Flatten)
    with pytest.raises(GraphcError, match="no such padding"):
        gn.Conv2d(4, 2, 3, padding="valid")
    normal = gn.Sequential(gn.Linear(4, 4), gn.BatchNorm(4))
    with pytest.raises(ShapeError, match="more than one value"):
        graphc.import_training(normal, example_inputs=(x,))
    with pytest.raises(ShapeError, match="memory"):
        graphc.import_model(gn.TransformerDecoderLayer(4, 2), example_inputs=(np.zeros((1, 3, 4), np.float32), x))

    class Silent(gn.Module):
        def forward(self, x):
            return 3

    with pytest.raises(ModelError, match="must return tensors"):
        graphc.import_model(Silent(), example_inputs=(x,))

    class Loose(gn.Module):
        def forward(self, x):
            return gn.Linear(4, 2)(x)

    with pytest.raises(GraphcError, match="attribute of a module"):
        graphc.import_model(Loose(), example_inputs=(x,))


@pytest.mark.parametrize(
    ("make", "shape", "deviation"),
    [
        (gn.initializers.xavier(), (300, 200), (2 / 500) ** 0.5),
        (gn.initializers.he(uniform=False), (300, 200), (2 / 200) ** 0.5),
        (gn.initializers.he(fan="out"), (30, 20, 3, 3), (2 / 270) ** 0.5),
        (gn.initializers.lecun(), (300, 200), (1 / 200) ** 0.5),
        (gn.initializers.Uniform(-1, 1), (300, 200), 3**-0.5),
        (gn.initializers.Normal(0, 0.3), (300, 200), 0.3),
        (gn.initializers.TruncatedNormal(0, 1.0, 2.0), (300, 200), 0.8796),
    ],
)
def test_initializers_have_their_spread(make, shape, deviation):
    drawn = make(shape, np.random.default_rng(0))
    assert drawn.std() == pytest.approx(deviation, rel=0.03)
    assert abs(drawn.mean()) < 0.03 * deviation
    if isinstance(make, gn.initializers.TruncatedNormal):
        assert np.abs(drawn).max() <= 2


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (3, 2, 2, 2)])
def test_orthogonal_rows(shape):
    drawn = gn.initializers.Orthogonal(2.0)(shape, np.random.default_rng(0)).reshape(shape[0], -1)
    small = drawn @ drawn.T if drawn.shape[0] <= drawn.shape[1] else drawn.T @ drawn
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-10)
