"""Recurrent layers as operators of graphc's own while a module is exported.

Torch finds the result types of its own by running them step by step, which fixes the length of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@torch.library.custom_op("graphc::lstm", mutates_args=())
def lstm(
    input: Tensor, hx: list[Tensor], params: list[Tensor], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """torch.lstm."""
    return torch.lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


@lstm.register_fake
def _lstm_types(input: Tensor, hx: Sequence[Tensor], *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(input, hx[0], options), torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _outputs(input: Tensor, state: Tensor, options: Sequence[Any]) -> Tensor:
    """All hidden states of the last layer; `options` are params, has_biases … batch_first."""
    directions = 2 if options[5] else 1
    return input.new_empty((*input.shape[:2], state.shape[2] * directions))


def _one_state(name: str, function: Callable[..., tuple[Tensor, Tensor]]) -> Any:
    """The operator of a layer with one state."""

    def layer(
        input: Tensor, hx: Tensor, params: list[Tensor], has_biases: bool, num_layers: int, dropout: float,
        train: bool, bidirectional: bool, batch_first: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        return function(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)

    # The operator's schema is read from the annotations, which must be types here.
    layer.__annotations__ = {
        "input": Tensor, "hx": Tensor, "params": list[Tensor], "has_biases": bool, "num_layers": int, "dropout": float,
        "train": bool, "bidirectional": bool, "batch_first": bool, "return": tuple[Tensor, Tensor],
    }  # fmt: skip
    op = torch.library.custom_op(f"graphc::{name}", mutates_args=())(layer)
    op.register_fake(lambda input, hx, *options: (_outputs(input, hx, options), torch.empty_like(hx)))
    return op


_WHOLE: Mapping[Any, Any] = {
    torch.lstm: lstm,
    torch.gru: _one_state("gru", torch.gru),
    torch.rnn_tanh: _one_state("rnn_tanh", torch.rnn_tanh),
    torch.rnn_relu: _one_state("rnn_relu", torch.rnn_relu),
}


class KeepRecurrent(TorchFunctionMode):
    """Within it, recurrent layers over padded sequences are the operators above; packed ones stay torch's."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        whole = _WHOLE.get(func) if callable(func) and len(args) == 9 and isinstance(args[3], bool) else None
        return func(*args, **(kwargs or {})) if whole is None else whole(*args, **(kwargs or {}))
