"""Activations: functions of a tensor, and the few with parameters as modules."""

from __future__ import annotations

from graphc.errors import ShapeError
from graphc.ir.types import f32
from graphc_nn.initializers import Constant, Normal
from graphc_nn.linear import Linear
from graphc_nn.module import Module, Parameter
from graphc_nn.tensor import Tensor


def step(x: Tensor) -> Tensor:
    """1 where x >= 0, else 0. It has no gradient."""
    return x.op("ge", x.full(0)).op("cast", dtype=x.dtype)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return x.op("sigmoid")


def tanh(x: Tensor) -> Tensor:
    return x.op("tanh")


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return x.op("relu")


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6)."""
    return x.op("relu").op("min", x.full(6))


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    """x where x >= 0, else slope * x."""
    return x.op("leaky_relu", alpha=slope)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha * (exp(x) - 1)."""
    return x.op("elu", alpha=alpha)


def selu(x: Tensor) -> Tensor:
    """ELU, scaled so that signals keep mean and variance. Source: Klambauer et al., 2017."""
    return x.op("elu", alpha=1.6732632423543772) * 1.0507009873554805


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x * (share of a normal distribution below x), by erf or ("tanh") approximated."""
    return x.op("gelu", approximate=approximate)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return x.op("silu")


def mish(x: Tensor) -> Tensor:
    """x * tanh(softplus(x))."""
    return x * x.op("softplus").op("tanh")


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return x.op("softplus")


def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return x / (x.op("abs") + 1)


def hard_sigmoid(x: Tensor) -> Tensor:
    """min(max(x / 6 + 1/2, 0), 1)."""
    return (x * (1 / 6) + 0.5).op("max", x.full(0)).op("min", x.full(1))


def hard_swish(x: Tensor) -> Tensor:
    """x * hard_sigmoid(x)."""
    return x * hard_sigmoid(x)


def hard_tanh(x: Tensor) -> Tensor:
    """min(max(x, -1), 1)."""
    return x.op("max", x.full(-1)).op("min", x.full(1))


def glu(x: Tensor, axis: int = -1) -> Tensor:
    """a * sigmoid(b), where a and b are the halves of x along an axis. Source: Dauphin et al., 2016."""
    size = x.shape[axis]
    if not isinstance(size, int) or size % 2:
        raise ShapeError("glu cuts an axis in halves", seen=x.value.type, expected="an even size")
    return x.part(axis, 0, size // 2) * sigmoid(x.part(axis, size // 2, size))


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return x.op("softmax", axis=axis % x.rank)


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    return x.op("log_softmax", axis=axis % x.rank)


class PReLU(Module):
    """x where x >= 0, else slope * x; one slope learned for each channel (axis 1). Source: He et al., 2015."""

    def __init__(self, channels: int, slope: float = 0.25) -> None:
        self.slope = Parameter((channels,), Constant(slope))

    def forward(self, x: Tensor) -> Tensor:
        scaled = x * x.of(self.slope).along(1 if x.rank > 1 else 0, x.shape)
        return x.op("ge", x.full(0)).op("select", x, scaled)


class Maxout(Module):
    """The greatest of `pieces` affine functions, for each output. Source: Goodfellow et al., 2013."""

    def __init__(self, inputs: int, outputs: int, pieces: int = 2) -> None:
        self.outputs, self.pieces = outputs, pieces
        self.all = Linear(inputs, outputs * pieces)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.all(x)
        return made.reshape(*made.shape[:-1], self.outputs, self.pieces).reduce("max", -1)


class RadialBasis(Module):
    """exp(-width_j * |x - center_j|^2) for `units` learned centers and widths: (N, inputs) to (N, units).

    Widths begin at 1 / inputs, where normally distributed inputs give values about exp(-2).
    """

    def __init__(self, inputs: int, units: int) -> None:
        self.inputs = inputs
        self.centers = Parameter((units, inputs), Normal(0.0, 1.0), f32)
        self.widths = Parameter((units,), Constant(1 / inputs), f32)

    def forward(self, x: Tensor) -> Tensor:
        if x.rank != 2 or x.shape[1] != self.inputs:
            raise ShapeError("RadialBasis takes (N, inputs)", seen=x.value.type, expected=f"{self.inputs} inputs")
        centers = x.of(self.centers)
        units = centers.shape[0]
        shape = (x.shape[0], units, self.inputs)
        builder = x.trace.builder
        spread = Tensor(x.trace, builder.broadcast(x.value, shape, (0, 2)))
        apart = spread - Tensor(x.trace, builder.broadcast(centers.value, shape, (1, 2)))
        distance = (apart * apart).reduce("sum", 2)
        return (-(distance * x.of(self.widths).along(1, distance.shape))).op("exp")
