"""The onnx package's light models with weights that make them worth running.

The nine `light_*.onnx` files hold whole networks whose weights are filled with one number, so that their results are
constant. With seeded random weights the logits are finite and vary.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto


def names() -> list[str]:
    """What `light_model` takes: "resnet50", "vgg19", ..."""
    return sorted(p.stem.removeprefix("light_") for p in _folder().glob("light_*.onnx"))


def light_model(name: str, seed: int = 0, *, logits: bool = True) -> ModelProto:
    """The light model of that name with seeded random weights; same name and seed, same bits.

    With `logits`, a softmax at the end is cut off. The only input is the image, f32[1,3,224,224]. Layers are named after
    their weights, or their operators: the files only number them.
    """
    import onnx

    from graphc.testing.seeded_weights import with_seeded_weights

    model = with_seeded_weights(onnx.load(str(_folder() / f"light_{name}.onnx")), seed)
    graph = model.graph
    if logits and graph.node[-1].op_type == "Softmax":
        graph.output[0].name = graph.node[-1].input[0]
        del graph.node[-1]
    weights = {t.name for t in graph.initializer}
    for i, node in enumerate(graph.node):
        node.name = next((x for x in node.input if x in weights), f"{node.op_type}_{i}")
    return model


def _folder() -> Path:
    import onnx

    return Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
