"""Models written in Python: modules, layers, initializers. A frontend of graphc.

from graphc_nn import Linear, Sequential, relu

model = Sequential(Linear(784, 128), relu, Linear(128, 10)).initialize(seed=0)
step = graphc.compile_training(model, loss="cross_entropy", optimizer=graphc.Adam(1e-3), example_inputs=(x, y))
"""

from __future__ import annotations

from graphc_nn import initializers
from graphc_nn.activations import (
    Maxout,
    PReLU,
    RadialBasis,
    elu,
    gelu,
    glu,
    hard_sigmoid,
    hard_swish,
    hard_tanh,
    leaky_relu,
    log_softmax,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    softsign,
    step,
    tanh,
)
from graphc_nn.attention import (
    FeedForward,
    MultiHeadAttention,
    SinusoidalPositions,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
    rotary,
)
from graphc_nn.convolution import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    depthwise,
    separable,
)
from graphc_nn.frontend import FRONTEND
from graphc_nn.linear import Bilinear, Dropout, Embedding, Flatten, Linear, Reshape
from graphc_nn.module import Module, Parameter, Residual, Sequential, State
from graphc_nn.normalization import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from graphc_nn.pooling import (
    AdaptiveAveragePool1d,
    AdaptiveAveragePool2d,
    AdaptiveAveragePool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AveragePool1d,
    AveragePool2d,
    AveragePool3d,
    GlobalAveragePool,
    GlobalMaxPool,
    LpPool1d,
    LpPool2d,
    LpPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MinPool1d,
    MinPool2d,
    MinPool3d,
)
from graphc_nn.recurrent import GRU, LSTM, RNN
from graphc_nn.tensor import Tensor, concat

__all__ = [
    "FRONTEND", "GRU", "LSTM", "RNN", "AdaptiveAveragePool1d", "AdaptiveAveragePool2d", "AdaptiveAveragePool3d",
    "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d", "AveragePool1d", "AveragePool2d", "AveragePool3d",
    "BatchNorm", "Bilinear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
    "Dropout", "Embedding", "FeedForward", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "GroupNorm",
    "InstanceNorm", "LayerNorm", "Linear", "LpPool1d", "LpPool2d", "LpPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d",
    "Maxout", "MinPool1d", "MinPool2d", "MinPool3d", "Module", "MultiHeadAttention", "PReLU", "Parameter", "RMSNorm",
    "RadialBasis", "Reshape", "Residual", "Sequential", "SinusoidalPositions", "State", "Tensor",
    "TransformerDecoderLayer", "TransformerEncoderLayer", "concat", "depthwise", "elu", "gelu", "glu", "hard_sigmoid",
    "hard_swish", "hard_tanh", "initializers", "leaky_relu", "log_softmax", "mish", "relu", "relu6", "rotary", "selu",
    "separable", "sigmoid", "silu", "softmax", "softplus", "softsign", "step", "tanh",
]  # fmt: skip
