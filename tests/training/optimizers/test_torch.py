"""Each optimizer that torch has follows torch's own for 20 steps, in f64, to 1e-10 of the parameters' norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from graphc.training import optimizers

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"momentum": 0.5, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1, "amsgrad": True}),
    ("Adam", {"maximize": True}),
    ("AdamW", {"weight_decay": 0.3}),
    ("Adamax", {"weight_decay": 0.1}),
    ("Adamax", {"maximize": True}),
    ("NAdam", {}),
    ("NAdam", {"weight_decay": 0.1, "momentum_decay": 0.02}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.2, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}),
    ("Adagrad", {"maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.5}),
    ("RMSprop", {"centered": True, "eps": 1e-2, "maximize": True}),
    ("Adadelta", {"weight_decay": 0.1}),
    ("Adadelta", {"rho": 0.5, "eps": 1e-4, "maximize": True}),
    ("Rprop", {}),
    ("Rprop", {"etas": (0.3, 1.5), "step_sizes": (1e-2, 0.05), "maximize": True}),
]


def _name(value: object) -> str | None:
    return ",".join(map(str, value)) or "plain" if isinstance(value, dict) else None


@pytest.mark.parametrize(("name", "options"), CASES, ids=_name)
def test_follows_torch(
    train: Callable[..., Any], train_in_torch: Callable[..., Any], check_trained: Callable[..., None], name: str,
    options: dict[str, Any],
) -> None:  # fmt: skip
    expected = train_in_torch(getattr(torch.optim, name), lr=0.03, **options)
    check_trained(train(getattr(optimizers, name)(0.03, **options)), expected)


def test_defaults_of_adamw_are_those_of_torch(
    train: Callable[..., Any], train_in_torch: Callable[..., Any], check_trained: Callable[..., None]
) -> None:
    check_trained(train(optimizers.AdamW()), train_in_torch(torch.optim.AdamW))
