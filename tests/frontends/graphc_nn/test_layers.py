"""Every layer against torch's with the same weights, forwards and backwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import graphc
import graphc_nn as gn
from graphc.interpreter import interpret

RNG = np.random.default_rng(7)


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


IMAGE, SIGNAL, VOLUME = array(2, 4, 9, 8), array(2, 4, 11), array(2, 4, 5, 6, 5)

LAYERS = {
    "linear": (gn.Linear(8, 5), nn.Linear(8, 5), array(3, 8)),
    "linear without bias": (gn.Linear(8, 5, bias=False), nn.Linear(8, 5, bias=False), array(2, 3, 8)),
    "conv1d": (gn.Conv1d(4, 6, 3, 2, 1), nn.Conv1d(4, 6, 3, 2, 1), SIGNAL),
    "conv2d": (gn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1), IMAGE),
    "conv2d same": (gn.Conv2d(4, 6, 5, padding="same"), nn.Conv2d(4, 6, 5, padding="same"), IMAGE),
    "conv2d dilated": (gn.Conv2d(4, 6, 3, 1, 2, 2), nn.Conv2d(4, 6, 3, 1, 2, 2), IMAGE),
    "conv2d grouped": (gn.Conv2d(4, 6, (3, 2), groups=2), nn.Conv2d(4, 6, (3, 2), groups=2), IMAGE),
    "depthwise": (gn.depthwise(4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1, groups=4), IMAGE),
    "conv3d": (gn.Conv3d(4, 3, 2), nn.Conv3d(4, 3, 2), VOLUME),
    "transposed 1d": (gn.ConvTranspose1d(4, 6, 4, 2, 1), nn.ConvTranspose1d(4, 6, 4, 2, 1), SIGNAL),
    "transposed 2d": (gn.ConvTranspose2d(4, 6, 3, 2, 1, 1), nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), IMAGE),
    "transposed grouped": (gn.ConvTranspose2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2), IMAGE),
    "transposed 3d": (gn.ConvTranspose3d(4, 2, 2, 2), nn.ConvTranspose3d(4, 2, 2, 2), VOLUME),
    "batch norm": (gn.BatchNorm(4), nn.BatchNorm2d(4), IMAGE),
    "layer norm": (gn.LayerNorm(8), nn.LayerNorm(8), IMAGE),
    "layer norm of two axes": (gn.LayerNorm((9, 8)), nn.LayerNorm((9, 8)), IMAGE),
    "group norm": (gn.GroupNorm(2, 4), nn.GroupNorm(2, 4), IMAGE),
    "instance norm": (gn.InstanceNorm(4), nn.InstanceNorm2d(4, affine=True), IMAGE),
    "rms norm": (gn.RMSNorm(8, 1e-6), nn.RMSNorm(8, 1e-6), IMAGE),
    "prelu": (gn.PReLU(4), nn.PReLU(4), IMAGE),
    "max pool": (gn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1), IMAGE),
    "max pool 1d": (gn.MaxPool1d(2), nn.MaxPool1d(2), SIGNAL),
    "max pool 3d": (gn.MaxPool3d(2), nn.MaxPool3d(2), VOLUME),
    "average pool": (gn.AveragePool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1), IMAGE),
    "average pool 1d": (gn.AveragePool1d(2), nn.AvgPool1d(2), SIGNAL),
    "average pool 3d": (gn.AveragePool3d(2), nn.AvgPool3d(2), VOLUME),
    "lp pool": (gn.LpPool2d(2.0, 2), nn.LPPool2d(2.0, 2), np.abs(IMAGE) + 0.1),
    "adaptive average pool": (gn.AdaptiveAveragePool2d((3, 2)), nn.AdaptiveAvgPool2d((3, 2)), IMAGE),
    "adaptive average pool of other sizes": (gn.AdaptiveAveragePool2d((4, 3)), nn.AdaptiveAvgPool2d((4, 3)), IMAGE),
    "adaptive average pool 1d": (gn.AdaptiveAveragePool1d(3), nn.AdaptiveAvgPool1d(3), SIGNAL),
    "adaptive average pool 3d": (gn.AdaptiveAveragePool3d(2), nn.AdaptiveAvgPool3d(2), VOLUME),
    "adaptive max pool": (gn.AdaptiveMaxPool2d((4, 2)), nn.AdaptiveMaxPool2d((4, 2)), IMAGE),
    "adaptive max pool 1d": (gn.AdaptiveMaxPool1d(4), nn.AdaptiveMaxPool1d(4), SIGNAL),
    "adaptive max pool 3d": (gn.AdaptiveMaxPool3d((2, 3, 5)), nn.AdaptiveMaxPool3d((2, 3, 5)), VOLUME),
    "lp pool 1d": (gn.LpPool1d(3.0, 2), nn.LPPool1d(3.0, 2), np.abs(SIGNAL) + 0.1),
    "lp pool 3d": (gn.LpPool3d(2.0, 2), nn.LPPool3d(2.0, 2), np.abs(VOLUME) + 0.1),
    "global average pool": (gn.GlobalAveragePool(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGE),
    "global max pool": (gn.GlobalMaxPool(), nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()), IMAGE),
    "flatten": (gn.Flatten(), nn.Flatten(), IMAGE),
    "embedding": (gn.Embedding(10, 6), nn.Embedding(10, 6), RNG.integers(0, 10, (3, 5))),
    "dropout": (gn.Dropout(0.5), nn.Dropout(0.5), IMAGE),
    **{
        name: (gn.Sequential(ours), theirs, IMAGE)
        for name, ours, theirs in (
            ("sigmoid", gn.sigmoid, nn.Sigmoid()), ("tanh", gn.tanh, nn.Tanh()), ("relu", gn.relu, nn.ReLU()),
            ("relu6", gn.relu6, nn.ReLU6()), ("leaky_relu", gn.leaky_relu, nn.LeakyReLU()), ("elu", gn.elu, nn.ELU()),
            ("selu", gn.selu, nn.SELU()), ("gelu", gn.gelu, nn.GELU()), ("silu", gn.silu, nn.SiLU()),
            ("mish", gn.mish, nn.Mish()), ("softplus", gn.softplus, nn.Softplus()), ("softsign", gn.softsign, nn.Softsign()),
            ("hard_sigmoid", gn.hard_sigmoid, nn.Hardsigmoid()), ("hard_swish", gn.hard_swish, nn.Hardswish()),
            ("hard_tanh", gn.hard_tanh, nn.Hardtanh()), ("glu", gn.glu, nn.GLU()),
            ("softmax", gn.softmax, nn.Softmax(-1)), ("log_softmax", gn.log_softmax, nn.LogSoftmax(-1)),
        )
    },
}  # fmt: skip


def same_weights(ours: gn.Module, theirs: nn.Module) -> None:
    """Copies our parameters, in order, into torch's; shapes of one element a channel may differ in their axes."""
    targets = list(theirs.parameters())
    arrays = list(ours.parameters.values())
    assert [a.size for a in arrays] == [t.numel() for t in targets]
    with torch.no_grad():
        for target, a in zip(targets, arrays, strict=True):
            target.copy_(torch.tensor(a).reshape(target.shape))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_follow_torch(name):
    ours, theirs, x = LAYERS[name]
    ours.initialize(3)
    for held in ours.parameters.values():
        held += 0.1 * RNG.normal(size=held.shape).astype(np.float32)
    same_weights(ours, theirs)
    graph = graphc.import_model(ours, example_inputs=(x,))
    expected = theirs.eval()(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(interpret(graph, [x])[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "conv2d", "transposed 2d", "batch norm", "layer norm", "embedding", "prelu"])
def test_a_training_step_follows_torch(name):
    ours, theirs, x = LAYERS[name]
    ours.initialize(5)
    same_weights(ours, theirs)
    theirs.train()
    for buffer, start in (("running_mean", 0.0), ("running_var", 1.0)):
        if hasattr(theirs, buffer):
            getattr(theirs, buffer).fill_(start)
    y = np.zeros_like(theirs(torch.tensor(x)).detach().numpy())
    if hasattr(theirs, "reset_running_stats"):
        theirs.reset_running_stats()
    step = graphc.compile_training(
        ours, loss="mse", optimizer=graphc.SGD(0.1), example_inputs=(x, y), backend="reference", cache=False
    )
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(theirs(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        optimizer.step()
        assert float(step(x, y)) == pytest.approx(loss.item(), rel=1e-4)
    for ours_after, after in zip(step.parameters.values(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(ours_after, after.detach().numpy().reshape(ours_after.shape), rtol=1e-3, atol=1e-5)
    for state in step.state:
        np.testing.assert_allclose(step.state[state], getattr(theirs, state).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_follows_torch(causal):
    x = array(2, 6, 8)
    ours = gn.MultiHeadAttention(8, 2, causal=causal).initialize(2)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    p = ours.parameters
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.tensor(np.concatenate([p[f"{n}.weight"] for n in ("query", "key", "value")])))
        theirs.in_proj_bias.copy_(torch.tensor(np.concatenate([p[f"{n}.bias"] for n in ("query", "key", "value")])))
        theirs.out_proj.weight.copy_(torch.tensor(p["out.weight"]))
        theirs.out_proj.bias.copy_(torch.tensor(p["out.bias"]))
    t = torch.tensor(x)
    mask = nn.Transformer.generate_square_subsequent_mask(6) if causal else None
    expected = theirs(t, t, t, attn_mask=mask, need_weights=False)[0].detach().numpy()
    graph = graphc.import_model(ours, example_inputs=(x,))
    np.testing.assert_allclose(interpret(graph, [x])[0], expected, rtol=1e-4, atol=1e-5)


def test_a_mask_hides_keys():
    x, other, seen = array(2, 5, 8), array(2, 5, 8), np.array([[[[True, True, True, False, False]]]] * 2)
    other[:, :3] = x[:, :3]
    layer = gn.TransformerEncoderLayer(8, 2).initialize(1)
    graph = graphc.import_model(layer, example_inputs={"x": x, "mask": seen})
    y, same = (interpret(graph, [a, seen])[0][:, :3] for a in (x, other))
    np.testing.assert_allclose(y, same, rtol=1e-6)
    shorter = interpret(graphc.import_model(layer, example_inputs=(x[:, :3],)), [x[:, :3]])[0]
    np.testing.assert_allclose(y, shorter, rtol=1e-5, atol=1e-6)


def test_an_encoder_layer_follows_torch():
    x = array(2, 6, 8)
    ours = gn.TransformerEncoderLayer(8, 2, 16).initialize(4)
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    p = ours.parameters
    a = "attention."
    with torch.no_grad():
        for w in ("weight", "bias"):
            joined = np.concatenate([p[f"{a}{n}.{w}"] for n in ("query", "key", "value")])
            getattr(theirs.self_attn, f"in_proj_{w}").copy_(torch.tensor(joined))
            getattr(theirs.self_attn.out_proj, w).copy_(torch.tensor(p[f"{a}out.{w}"]))
            getattr(theirs.linear1, w).copy_(torch.tensor(p[f"feed_forward.first.{w}"]))
            getattr(theirs.linear2, w).copy_(torch.tensor(p[f"feed_forward.second.{w}"]))
    expected = theirs(torch.tensor(x)).detach().numpy()
    graph = graphc.import_model(ours, example_inputs=(x,))
    np.testing.assert_allclose(interpret(graph, [x])[0], expected, rtol=1e-4, atol=1e-5)


def test_an_empty_window_has_no_gradient():
    x = array(1, 1, 4, 4)
    x[:, :, :2, :2] = 0
    graph = graphc.grad(graphc.import_model(gn.LpPool2d(2.0, 2), example_inputs=(x,)))
    t = torch.tensor(x, requires_grad=True)
    nn.LPPool2d(2.0, 2)(t).sum().backward()
    np.testing.assert_allclose(interpret(graph, [x])[0], t.grad, rtol=1e-5)


def test_rotary_positions_keep_what_lies_between():
    """Scores depend on how far apart two positions are, and lengths stay."""

    class Turned(gn.Module):
        def forward(self, x):
            return gn.rotary(x)

    x = np.broadcast_to(array(1, 1, 1, 6), (1, 1, 5, 6)).copy()
    (y,) = interpret(graphc.import_model(Turned(), example_inputs=(x,)), [x])
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    scores = y[0, 0] @ y[0, 0].T
    for apart in range(4):
        np.testing.assert_allclose(np.diag(scores, apart), scores[0, apart], rtol=1e-4)


def test_sinusoidal_positions():
    x = np.zeros((1, 4, 6), np.float32)
    (y,) = interpret(graphc.import_model(gn.SinusoidalPositions(6), example_inputs=(x,)), [x])
    place, i = 3, 2
    assert y[0, place, 2 * i] == pytest.approx(np.sin(place / 10000 ** (2 * i / 6)), rel=1e-5)
    assert y[0, place, 2 * i + 1] == pytest.approx(np.cos(place / 10000 ** (2 * i / 6)), rel=1e-5)


def test_a_decoder_layer_reads_its_memory_and_nothing_later():
    layer = gn.TransformerDecoderLayer(8, 2).initialize(1)
    x, memory = array(1, 5, 8), array(1, 3, 8)
    graph = graphc.import_model(layer, example_inputs=(x, memory))
    (y,) = interpret(graph, [x, memory])
    later = x.copy()
    later[0, 4] += 1
    np.testing.assert_allclose(interpret(graph, [later, memory])[0][0, :4], y[0, :4], rtol=1e-5, atol=1e-6)
    assert np.abs(interpret(graph, [x, memory + 1])[0] - y).max() > 1e-3


def test_pieces_of_a_few_lines():
    x = array(3, 4)
    step = gn.Sequential(gn.step)
    np.testing.assert_array_equal(interpret(graphc.import_model(step, example_inputs=(x,)), [x])[0], x >= 0)
    maxout = gn.Maxout(4, 2, 3).initialize(0)
    p = maxout.parameters
    made = (x @ p["all.weight"].T + p["all.bias"]).reshape(3, 2, 3).max(2)
    np.testing.assert_allclose(interpret(graphc.import_model(maxout, example_inputs=(x,)), [x])[0], made, rtol=1e-5)
    radial = gn.RadialBasis(4, 5).initialize(0)
    centers = radial.parameters["centers"]
    near = np.exp(-((x[:, None] - centers) ** 2).sum(2) / 4)
    np.testing.assert_allclose(interpret(graphc.import_model(radial, example_inputs=(x,)), [x])[0], near, rtol=1e-4)
    shortest = interpret(graphc.import_model(gn.MinPool1d(2), example_inputs=(SIGNAL,)), [SIGNAL])[0]
    np.testing.assert_array_equal(shortest, -nn.MaxPool1d(2)(torch.tensor(-SIGNAL)).numpy())
    least = gn.MinPool2d(2)
    found = interpret(graphc.import_model(least, example_inputs=(IMAGE,)), [IMAGE])[0]
    np.testing.assert_array_equal(found, -nn.MaxPool2d(2)(torch.tensor(-IMAGE)).numpy())
    bilinear, y = gn.Bilinear(4, 3, 2).initialize(0), array(3, 3)
    w = bilinear.parameters["weight"]
    made = np.einsum("ni,oij,nj->no", x, w, y)
    np.testing.assert_allclose(interpret(graphc.import_model(bilinear, example_inputs=(x, y)), [x, y])[0], made, rtol=1e-4)
