"""What users may give wrongly: told where it is given, with what was seen and what is expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc
from graphc.errors import GraphcError, ShapeError
from graphc.ir.graph import Graph
from graphc.ir.types import f32
from graphc.training import losses, schedules
from graphc.training.callbacks import EarlyStopping
from graphc.training.lbfgs import LBFGS, fit_lbfgs
from graphc.training.trainable import trainable_graph

X, Y = np.zeros((4, 3), np.float32), np.zeros((4, 2), np.float32)


def model(batch: Any = 4) -> Graph:
    b = graphc.Builder()
    x = b.input("x", f32, (batch, 3))
    return b.returns(b.op("matmul", x, b.constant(np.ones((3, 2), np.float32), "w")))


def compiled(graph: Any = None, **options: Any) -> Any:
    given = {"loss": "mse", "optimizer": graphc.SGD(0.1), "example_inputs": (X, Y), "backend": "reference", **options}
    return graphc.compile_training(model() if graph is None else graph, **given)


def trained(graph: Any = None, data: Any = (X, Y), *, epochs: Any = 1, batch_size: Any = 4, **options: Any) -> Any:
    given = {"loss": "mse", "optimizer": graphc.SGD(0.1), "backend": "reference", "progress": False, **options}
    return graphc.Trainer(model() if graph is None else graph, **given).fit(data, epochs=epochs, batch_size=batch_size)


OPTIMIZERS = {
    "a text": (lambda: graphc.SGD("0.1"), "SGD: rate", "'0.1'"),
    "no rate": (lambda: graphc.Adam(None), "Adam: rate", "None"),
    "NaN": (lambda: graphc.SGD(float("nan")), "SGD: rate", "nan"),
    "more than floats hold": (lambda: graphc.SGD(10**400), "SGD: rate", "10000"),
    "a falling rate": (lambda: graphc.SGD(-1.0), "SGD: rate", "-1.0"),
    "a class": (lambda: graphc.SGD(schedules.Cosine), "SGD: rate", "Cosine"),
    "one beta": (lambda: graphc.Adam(1e-3, betas=0.9), "Adam: betas", "0.9"),
    "three betas": (lambda: graphc.AdamW(1e-3, betas=(0.9, 0.9, 0.9)), "AdamW: betas", "0.9, 0.9, 0.9"),
    "a beta of 1": (lambda: graphc.NAdam(1e-3, betas=(0.9, 1.0)), "NAdam: betas", "1.0"),
    "no flag": (lambda: graphc.SGD(0.1, momentum=0.9, nesterov="yes"), "SGD: nesterov", "'yes'"),
    "steps of 0": (lambda: graphc.Lookahead(graphc.SGD(0.1), k=0), "Lookahead: k", "0"),
    "sizes": (lambda: graphc.Rprop(1e-2, step_sizes=(1e-6, "big")), "Rprop: step_sizes", "big"),
    "decay": (lambda: graphc.Lion(weight_decay=-1), "Lion: weight_decay", "-1"),
    "schedule": (lambda: schedules.CosineRestarts(1e-3, 10, multiply=0), "CosineRestarts: multiply", "0"),
    "milestones": (lambda: schedules.MultiStep(0.1, 3), "MultiStep: milestones", "3"),
    "warm-up": (lambda: schedules.WarmUp("a", 3), "WarmUp: after", "'a'"),
    "plateau": (lambda: schedules.Plateau(0.1, mode="mean"), "Plateau: mode", "'mean'"),
    "reduction": (lambda: losses.MSE("average"), "MSE: reduction", "'average'"),
    "smoothing": (lambda: losses.CrossEntropy(label_smoothing=2), "CrossEntropy: label_smoothing", "2"),
    "weights": (lambda: losses.NLL(weight="abc"), "NLL: weight", "'abc'"),
    "delta": (lambda: losses.Huber(delta=0), "Huber: delta", "0"),
    "L-BFGS": (lambda: LBFGS(max_iter="many"), "LBFGS: max_iter", "'many'"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_hyperparameters_are_checked_where_they_are_given(name: str) -> None:
    make, what, seen = OPTIMIZERS[name]
    with pytest.raises(GraphcError, match=f"{what} has no such value") as raised:
        make()
    assert seen in str(raised.value.seen) and raised.value.expected is not None


def test_numbers_of_every_kind_are_taken() -> None:
    graphc.SGD(np.float32(0.1), momentum=1)
    graphc.Adam(schedules.Cosine(1e-3, np.int64(10)), betas=[0.9, 0.99])
    losses.CrossEntropy(weight=np.ones(3), label_smoothing=np.float64(0.1), ignore_index=-100)
    losses.BinaryCrossEntropyWithLogits(pos_weight=(1.0, 2.0))
    assert schedules.OneCycle(1e-3, 10, pct_start=0.1)(0) == 1e-3  # no way up


STEPS: dict[str, tuple[dict[str, Any], str]] = {
    "a seed beyond 63 bits": ({"seed": 2**70}, "seed has no such value"),
    "a seed of a float": ({"seed": 1.5}, "seed has no such value"),
    "a negative seed": ({"seed": -1}, "seed has no such value"),
    "a budget in words": ({"memory_budget": "1GB"}, "memory_budget has no such value"),
    "a norm in words": ({"clip_norm": "1"}, "clip_norm has no such value"),
    "no optimizer": ({"optimizer": None}, "no such optimizer"),
    "an array": ({"example_inputs": X}, "no example inputs"),
    "one too many": ({"example_inputs": (X, X, Y)}, "aren't as many"),
    "another width": ({"example_inputs": (Y, Y)}, "wrong shape"),
    "another type": ({"example_inputs": (X.astype(np.float64), Y)}, "wrong dtype"),
    "several backends": ({"backend": ["llvm", "reference"]}, "no backend of a training step"),
    "a pattern that is a number": ({"frozen": (5,)}, "list of patterns"),
    "a group alone": ({"groups": graphc.Group(("w",), graphc.SGD(0.1))}, "groups is a list"),
    "a metric that is a number": ({"metrics": {"accuracy": 3}}, "is no function"),
    "dims that aren't": ({"dynamic": {"x": 0}}, "isn't of its form"),
    "dims of a graph": ({"dynamic": {"x": {0: graphc.Dim("n")}}}, "a graph's dims are its own"),
    "no loss, of a model without one": ({"loss": None, "example_inputs": (X,)}, "rank 0"),
    "a loss that is a number": ({"loss": 3}, "no such loss"),
}


@pytest.mark.parametrize("name", STEPS)
def test_options_are_checked_before_anything_is_compiled(name: str) -> None:
    options, what = STEPS[name]
    with pytest.raises(GraphcError, match=what):
        compiled(**options)


FITS: dict[str, tuple[Callable[[], Any], str]] = {
    "a seed": (lambda: trained(seed=2**70), "seed has no such value"),
    "epochs": (lambda: trained(epochs="3"), "epochs has no such value"),
    "batch size": (lambda: trained(batch_size=2.5), "batch_size has no such value"),
    "callbacks": (lambda: trained(callbacks=[3]), "no such callback"),
    "a class of callbacks": (lambda: trained(callbacks=[EarlyStopping]), "no such callback"),
    "an option": (lambda: trained(clipnorm=1.0), "there is no such option"),
    "L-BFGS's loss": (lambda: fit_lbfgs(model(), loss="msee", batch=(X, Y)), "there is no such loss"),
    "L-BFGS's batch": (lambda: fit_lbfgs(model(), loss="mse", batch=()), "lacks the loss's targets"),
}


@pytest.mark.parametrize("name", FITS)
def test_a_trainer_checks_too(name: str) -> None:
    run, what = FITS[name]
    with pytest.raises(GraphcError, match=what):
        run()


@pytest.mark.parametrize("rate", ["0.1", float("nan"), None])
def test_a_schedule_that_gives_no_number(rate: Any) -> None:
    step = compiled(optimizer=graphc.SGD(lambda steps: rate))
    with pytest.raises(GraphcError, match="the learning rate of step 0"):
        step(X, Y)


# A graph's own dims


@pytest.mark.parametrize("make", [model, lambda: trainable_graph(model())])
def test_a_graph_has_the_dims_that_it_has(make: Callable[[], Any]) -> None:
    with pytest.raises(GraphcError, match="a graph's dims are its own"):
        graphc.import_training(make(), dynamic={"x": {0: graphc.Dim("n")}})
    if isinstance(make(), Graph):
        with pytest.raises(GraphcError, match="a graph's dims are its own"):
            graphc.compile(make(), dynamic={"x": {0: graphc.Dim("n")}})


def test_examples_of_a_graph_are_held_against_its_inputs() -> None:
    assert graphc.import_model(model(), example_inputs={"x": X}).inputs
    assert graphc.import_model(model(graphc.Dim("n")), example_inputs=(X[:3],)).inputs
    for examples, what in (((X, X), "as many"), ((X[:3],), "wrong shape"), ({"z": X}, "aren't those of the graph")):
        with pytest.raises(ShapeError, match=what):
            graphc.import_model(model(), example_inputs=examples)


def test_a_trainer_leaves_a_graph_its_dims() -> None:
    """Uneven batches: a graph with a symbol takes them, a fixed one says so, and a wish for a symbol is told of."""
    data = (np.ones((6, 3), np.float32), np.zeros((6, 2), np.float32))
    assert len(trained(model(graphc.Dim("n")), data)) == 1
    with pytest.raises(ShapeError, match="the model's batch has a fixed size"):
        trained(data=data)
    with pytest.raises(GraphcError, match="a graph's dims are its own"):
        trained(data=data, dynamic=True)
