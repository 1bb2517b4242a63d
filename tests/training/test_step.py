"""The compiled step: against torch's own training, and what it keeps, saves and refuses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import graphc
from graphc.errors import ArtifactError, GraphcError, ShapeError
from graphc.interpreter import interpret
from graphc.ir.types import bool_, f16, f32, i64
from graphc.training.losses import MSE
from graphc.training.scaling import GROWTH_INTERVAL, LARGEST, next_scale

CLASSES, FEATURES, BATCH = 4, 6, 8


def network(batch: object = BATCH) -> graphc.Graph:
    """Two dense layers with seeded weights."""
    rng = np.random.default_rng(0)
    b = graphc.Builder(graphc.Graph("net"))
    x = b.input("x", f32, (batch, FEATURES))
    h = x
    for i, (rows, columns) in enumerate(((FEATURES, 16), (16, CLASSES))):
        w = b.constant(rng.normal(size=(rows, columns)).astype(np.float32) * 0.3, name=f"layer{i}.weight")
        h = b.op("matmul", h, w)
        bias = b.constant(rng.normal(size=columns).astype(np.float32), name=f"layer{i}.bias")
        h = b.op("add", h, b.broadcast(bias, h.type.shape, (1,)))
        h = b.op("relu", h) if i == 0 else h
    return b.returns(h)


def batches(count: int, size: int = BATCH) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [(rng.normal(size=(size, FEATURES)).astype(np.float32), rng.integers(0, CLASSES, size)) for _ in range(count)]


def compiled(**options: object) -> graphc.TrainingStep:
    given = {"optimizer": graphc.Adam(1e-2), "loss": "cross_entropy", "cache": False, "threads": 1, **options}
    return graphc.compile_training(network(), example_inputs=batches(1)[0], **given)


class Torch:
    """The same network in torch."""

    def __init__(self, make_optimizer):
        start = {n: torch.tensor(np.array(a), requires_grad=True) for n, a in compiled().parameters.items()}
        self.parameters = start
        self.optimizer = make_optimizer(start)

    def loss(self, x, y):
        p = self.parameters
        h = (torch.tensor(x) @ p["layer0.weight"] + p["layer0.bias"]).relu()
        return F.cross_entropy(h @ p["layer1.weight"] + p["layer1.bias"], torch.tensor(y))

    def step(self, *batches, clip=None):
        self.optimizer.zero_grad()
        total = sum(self.loss(*batch) for batch in batches) / len(batches)
        total.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), clip)
        self.optimizer.step()
        return total.item()


def check_same(step: graphc.TrainingStep, reference: Torch) -> None:
    for name, expected in reference.parameters.items():
        np.testing.assert_allclose(step.parameters[name], expected.detach().numpy(), rtol=2e-4, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("backend", ["llvm", "reference"])
def test_steps_follow_torch(backend):
    step = compiled(backend=backend)
    reference = Torch(lambda p: torch.optim.Adam(p.values(), 1e-2))
    for batch in batches(5):
        assert float(step(*batch)) == pytest.approx(reference.step(batch), rel=1e-5)
    check_same(step, reference)
    assert step.steps == 5


def test_everything_is_updated_where_it_lies():
    step = compiled()
    before = {n: a.__array_interface__["data"][0] for n, a in step.parameters.items()}
    views = dict(step.parameters)
    old = {n: a.copy() for n, a in views.items()}
    step(*batches(1)[0])
    for name, value in step.parameters.items():
        assert value.__array_interface__["data"][0] == before[name]
        assert not np.array_equal(views[name], old[name])
        with pytest.raises(ValueError, match="read-only"):
            value[...] = 0


def test_gradients_are_accumulated():
    step = compiled(accumulate=3)
    reference = Torch(lambda p: torch.optim.Adam(p.values(), 1e-2))
    data = batches(6)
    for i in range(0, 6, 3):
        reference.step(*data[i : i + 3])
    for batch in data:
        step(*batch)
    check_same(step, reference)
    assert step.steps == 2


def test_norms_are_clipped():
    step = compiled(clip_norm=0.05, optimizer=graphc.SGD(1.0))
    reference = Torch(lambda p: torch.optim.SGD(p.values(), 1.0))
    for batch in batches(3):
        step(*batch)
        reference.step(batch, clip=0.05)
    check_same(step, reference)


def test_values_are_clipped():
    step = compiled(clip_value=1e-3, optimizer=graphc.SGD(1.0))
    before = {n: a.copy() for n, a in step.parameters.items()}
    step(*batches(1)[0])
    for name, old in before.items():
        assert 0 < np.abs(step.parameters[name] - old).max() <= 1.0001e-3


def test_groups_and_frozen_parameters():
    group = graphc.Group(("layer1.*",), graphc.SGD(0.5))
    step = compiled(groups=[group], frozen=["*0.bias"], optimizer=graphc.Adam(1e-2))
    kept = step.parameters["layer0.bias"].copy()

    def make(p):
        p["layer0.bias"].requires_grad_(False)
        own = [{"params": [p["layer1.weight"], p["layer1.bias"]]}]
        class Both:
            parts = torch.optim.SGD(own, 0.5), torch.optim.Adam([p["layer0.weight"]], 1e-2)
            def zero_grad(self): [o.zero_grad() for o in self.parts]
            def step(self): [o.step() for o in self.parts]
        return Both()  # fmt: skip

    reference = Torch(make)
    for batch in batches(3):
        step(*batch)
        reference.step(batch)
    check_same(step, reference)
    np.testing.assert_array_equal(step.parameters["layer0.bias"], kept)


def test_averages_follow_the_parameters():
    step = compiled(average=0.9)
    expected = {n: a.copy() for n, a in step.parameters.items()}
    for batch in batches(3):
        step(*batch)
        expected = {n: 0.9 * a + 0.1 * step.parameters[n] for n, a in expected.items()}
    for name, value in expected.items():
        np.testing.assert_allclose(step.averages[name], value, rtol=1e-5, atol=1e-7)
    x, _ = batches(1)[0]
    assert not np.array_equal(step.inference(average=True, cache=False)(x), step.inference(cache=False)(x))


def test_inference_runs_the_trained_values():
    step = compiled()
    for batch in batches(3):
        step(*batch)
    x, _ = batches(1)[0]
    p = step.parameters
    h = np.maximum(x @ p["layer0.weight"] + p["layer0.bias"], 0)
    np.testing.assert_allclose(
        step.inference(cache=False)(x), h @ p["layer1.weight"] + p["layer1.bias"], rtol=1e-4, atol=1e-5
    )


def test_a_checkpoint_goes_on_to_the_same_bits(tmp_path):
    data = batches(6)
    whole, first, second = compiled(accumulate=2), compiled(accumulate=2), compiled(accumulate=2)
    for batch in data:
        whole(*batch)
    for batch in data[:3]:  # between two updates
        first(*batch)
    first.save(tmp_path / "step.safetensors")
    second.load(tmp_path / "step.safetensors")
    for batch in data[3:]:
        second(*batch)
    for label, value in whole.snapshot().items():
        np.testing.assert_array_equal(second.snapshot()[label], value, err_msg=label)


def test_a_foreign_checkpoint_changes_nothing(tmp_path):
    step, other = compiled(), compiled(optimizer=graphc.SGD(0.1))
    other.save(tmp_path / "other")
    (tmp_path / "broken").write_bytes((tmp_path / "other").read_bytes()[:100])
    before = step.snapshot()
    for name, message in (("other", "another"), ("broken", "damaged"), ("missing", "damaged")):
        with pytest.raises(ArtifactError, match=message):
            step.load(tmp_path / name)
    for label, value in before.items():
        np.testing.assert_array_equal(step.snapshot()[label], value)


def test_an_overflow_leaves_out_the_update_and_halves_the_scale():
    step = compiled(loss_scale="dynamic", optimizer=graphc.SGD(0.1))
    reference = Torch(lambda p: torch.optim.SGD(p.values(), 0.1))
    data = batches(2)
    step(*data[0])
    reference.step(data[0])
    check_same(step, reference)
    before = step.snapshot()
    x = data[1][0].copy()
    x[0, 0] = np.inf
    step(x, data[1][1])
    after = step.snapshot()
    assert after["scale"] == before["scale"] / 2
    for label in (name for name in before if name.startswith("parameter") or name == "steps"):
        np.testing.assert_array_equal(after[label], before[label])


def test_updates_that_an_overflow_leaves_out_are_chosen_where_they_are_computed():
    """One loop reads the old values and the gradient and writes the new ones; candidates aren't kept beside them."""
    step = compiled(loss_scale="dynamic", optimizer=graphc.Adam(0.1))
    step(*batches(1)[0])
    updates = [k.name for k in step.executable.kernels if "sqrt" in k.name]
    assert len(updates) == len(step.parameters) and all(name.startswith("select") for name in updates)


def test_a_fixed_scale_changes_nothing_else():
    plain, scaled = compiled(), compiled(loss_scale=1024.0)
    for batch in batches(3):
        plain(*batch)
        scaled(*batch)
    for name, value in plain.parameters.items():
        np.testing.assert_allclose(scaled.parameters[name], value, rtol=1e-4, atol=1e-6)


def test_metrics_come_with_the_loss():
    def right(b, outputs, targets):
        hit = b.op("eq", b.cast(b.op("argmax", outputs[0], axis=1), targets[0].type.dtype), targets[0])
        return b.op("reduce_sum", b.cast(hit, f32), axes=(0,))

    step = compiled(metrics={"right": right})
    x, y = batches(1)[0]
    expected = int((compiled().inference(cache=False)(x).argmax(1) == y).sum())
    step(x, y)
    assert step.metrics == {"right": expected}


def test_the_batch_may_be_dynamic():
    size = graphc.Dim("batch", 1, 64)
    step = graphc.compile_training(
        network(size), loss="cross_entropy", optimizer=graphc.Adam(1e-2), example_inputs=batches(1)[0], cache=False
    )
    reference = Torch(lambda p: torch.optim.Adam(p.values(), 1e-2))
    for batch in (*batches(2, 8), *batches(2, 13)):
        assert float(step(*batch)) == pytest.approx(reference.step(batch), rel=1e-5)
    check_same(step, reference)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "l33t"}, "no such loss"),
        ({"accumulate": 0}, "accumulate has no such value"),
        ({"clip_norm": -1.0}, "above 0"),
        ({"average": 1.5}, "average has no such value"),
        ({"frozen": ["layer9"]}, "no parameter"),
        ({"frozen": ["*"]}, "nothing to train"),
        ({"loss": None}, "aren't as many"),
        ({"loss_scale": "much"}, "loss scale"),
        ({"loss": MSE}, "no such loss"),
        ({"optimizer": "adam"}, "no such optimizer"),
        ({"optimizer": graphc.Adam}, "no such optimizer"),
        ({"groups": [("*.bias", graphc.SGD(0.1))]}, "no such group"),
        ({"frozen": "*.bias"}, "frozen is a list"),
        ({"penalty": 0.01}, "is a function"),
        ({"metrics": ["accuracy"]}, "functions by name"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(GraphcError, match=message):
        compiled(**options)


def test_batches_that_dont_fit_are_refused():
    step = compiled()
    x, y = batches(1)[0]
    before = step.snapshot()
    with pytest.raises(ShapeError, match="x has the wrong shape"):
        step(x[:3], y)
    with pytest.raises(ShapeError, match="target0 has the wrong dtype"):
        step(x, y.astype(np.float32))
    with pytest.raises(GraphcError, match="index"):
        step(x, y + 100)
    for label, value in before.items():
        np.testing.assert_array_equal(step.snapshot()[label], value, err_msg=label)


def test_the_patterns_of_a_group_are_no_string():
    with pytest.raises(GraphcError, match="tuple of patterns"):
        graphc.Group("*.bias", graphc.SGD(0.1))


@pytest.mark.parametrize("target", [[1, 2], torch.zeros(BATCH, requires_grad=True)])
def test_a_target_that_is_no_array_is_refused(target):
    with pytest.raises(ShapeError, match="target0"):
        graphc.compile_training(
            network(), loss="mse", optimizer=graphc.SGD(0.1), example_inputs=(batches(1)[0][0], target)
        )


def test_parameters_may_be_data():
    size = 64
    b = graphc.Builder()
    x = b.input("x", f32, (size, size))
    start = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    graph = b.returns(b.op("matmul", x, b.constant(start, "w")))
    views, copies = (
        graphc.compile_training(
            graph, loss="mse", optimizer=graphc.SGD(5.0), example_inputs=(start, start), threads=1, cache=False
        )
        for _ in range(2)
    )
    views(views.parameters["w"], start)
    copies(copies.parameters["w"].copy(), start)
    views(start, views.parameters["w"])
    copies(start, copies.parameters["w"].copy())
    np.testing.assert_array_equal(views.parameters["w"], copies.parameters["w"])


def test_a_trained_graph_trains_on_under_the_same_names():
    step = compiled()
    step(*batches(1)[0])
    graph = step.trained_graph()
    again = graphc.compile_training(
        graph, loss="cross_entropy", optimizer=graphc.Adam(1e-2), example_inputs=batches(1)[0], backend="reference"
    )
    assert list(again.parameters) == list(step.parameters)
    for name, value in step.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], value, err_msg=name)


def test_norms_of_narrow_gradients_are_summed_wide():
    b = graphc.Builder()
    x = b.input("x", f16, (2,))
    w = b.constant(np.ones(2, np.float16), "w")
    graph = b.returns(b.op("reduce_sum", b.op("mul", x, w), axes=(0,)))
    x = np.array([3000, 4000], np.float16)  # whose squares f16 doesn't hold
    step = graphc.compile_training(
        graph, loss=None, optimizer=graphc.SGD(0.5), example_inputs=(x,), clip_norm=1.0, backend="reference"
    )
    step(x)
    np.testing.assert_allclose(step.parameters["w"], [1 - 0.3, 1 - 0.4], rtol=2e-3)


def test_a_scale_grows_to_no_infinity():
    b = graphc.Builder()
    scale, count = b.input("scale", f32, ()), b.input("count", i64, ())
    graph = b.returns(*next_scale(b, scale, count, b.scalar(True, bool_)))
    inputs = np.array(LARGEST, np.float32), np.array(GROWTH_INTERVAL - 1)
    assert [x.item() for x in interpret(graph, inputs)] == [LARGEST, 0]
