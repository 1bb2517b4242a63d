"""Dense layers, embeddings, dropout, and changes of shape."""

from __future__ import annotations

from graphc.errors import ShapeError
from graphc.ir.symbolic import product
from graphc.ops.random import dropout
from graphc.training.hyperparameters import SHARE, check_value
from graphc_nn.initializers import Initializer, Normal, Scaled, Zeros, lecun
from graphc_nn.module import Module, Parameter
from graphc_nn.tensor import Tensor

TORCH_LIKE = Scaled(3**-0.5, "in")
"""Uniform within 1 / sqrt(fan_in), as torch's layers begin."""


class Linear(Module):
    """x W^T + b over the last axis: (..., inputs) to (..., outputs); weight (outputs, inputs)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool = True,
        *,
        weight: Initializer = TORCH_LIKE,
        first_bias: Initializer = Zeros,
    ) -> None:
        self.weight = Parameter((outputs, inputs), weight)
        self.bias = Parameter((outputs,), first_bias) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        inputs = self.weight.shape[1]
        if x.rank < 1 or x.shape[-1] != inputs:
            raise ShapeError("Linear takes tensors whose last axis is its inputs", seen=x.value.type, expected=inputs)
        y = x.op("dot", x.of(self.weight), lhs_contract=(x.rank - 1,), rhs_contract=(1,))
        return y if self.bias is None else y + x.of(self.bias).along(-1, y.shape)


class Bilinear(Module):
    """x A y + b for each output's matrix A: (N, left) and (N, right) to (N, outputs)."""

    def __init__(self, left: int, right: int, outputs: int, bias: bool = True) -> None:
        self.weight = Parameter((outputs, left, right), lecun())
        self.bias = Parameter((outputs,)) if bias else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.rank != 2 or y.rank != 2 or (x.shape[1], y.shape[1]) != self.weight.shape[1:]:
            raise ShapeError(
                "Bilinear takes two matrices", seen=f"{x.value.type}, {y.value.type}", expected=self.weight.shape
            )
        half = x.op("dot", x.of(self.weight), lhs_contract=(1,), rhs_contract=(1,))  # N, outputs, right
        z = half.op("dot", y, lhs_batch=(0,), rhs_batch=(0,), lhs_contract=(2,), rhs_contract=(1,))
        return z if self.bias is None else z + x.of(self.bias).along(-1, z.shape)


class Embedding(Module):
    """The row of a table for each index: integers (...) to (..., size). Indices outside of it raise NumericError."""

    def __init__(self, count: int, size: int, *, weight: Initializer = Normal(0.0, 1.0)) -> None:  # noqa: B008 - frozen
        self.weight = Parameter((count, size), weight)

    def forward(self, x: Tensor) -> Tensor:
        if not x.dtype.is_integer:
            raise ShapeError("Embedding takes integers", seen=x.value.type)
        return x.of(self.weight).op("gather", x, axis=0)


class Dropout(Module):
    """In training, zeros with probability `rate`, and the rest divided by 1 - rate; else the input itself."""

    def __init__(self, rate: float = 0.5) -> None:
        check_value("Dropout: rate", rate, SHARE)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not x.trace.training or self.rate == 0:
            return x
        key, stream = x.trace.random()
        return Tensor(x.trace, dropout(x.trace.builder, x.value, key, self.rate, stream))


class Flatten(Module):
    """(N, ...) to (N, product of the rest), or from another axis on."""

    def __init__(self, axis: int = 1) -> None:
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[: self.axis], product(x.shape[self.axis :]))


class Reshape(Module):
    """(N, ...) to (N, *shape)."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.shape)
