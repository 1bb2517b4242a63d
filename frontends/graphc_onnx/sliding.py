"""What convolutions and pools share: strides, dilations and padding as ONNX gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.ir.graph import Value
from graphc.ir.symbolic import Dim, Expr
from graphc_onnx.call import Call
from graphc_onnx.imported import Refused


@dataclass(frozen=True)
class Sliding:
    """A window over the spatial axes; padding is in (low, high) pairs."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]

    def extent(self, i: int) -> int:
        """How many elements a dilated window spans."""
        return (self.window[i] - 1) * self.dilation[i] + 1


def spatial_dims(c: Call, x: Value) -> tuple[Dim, ...]:
    """The spatial dims of (N, C, *spatial)."""
    rank = x.type.rank - 2
    if rank < 1:
        raise c.wrong("x needs a batch, channels and spatial axes", x.type)
    if rank > 3:
        raise Refused("more than three spatial axes aren't supported")
    return x.type.shape[2:]


def sliding(c: Call, x: Value, window: Sequence[int]) -> Sliding:
    """The node's window over x, its padding worked out."""
    sizes = spatial_dims(c, x)
    rank = len(sizes)
    strides = tuple(c.get("strides") or (1,) * rank)
    dilation = tuple(c.get("dilations") or (1,) * rank)
    for name, values in (("kernel_shape", window), ("strides", strides), ("dilations", dilation)):
        if len(values) != rank or min(values) < 1:
            raise c.wrong(f"{name} needs {rank} positive numbers", list(values))
    frame = Sliding(tuple(window), strides, dilation, (0,) * 2 * rank)
    return Sliding(tuple(window), strides, dilation, _padding(c, sizes, frame))


def _padding(c: Call, sizes: Sequence[Dim], frame: Sliding) -> tuple[int, ...]:
    rank = len(sizes)
    auto = c.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return (0,) * 2 * rank
    if auto == "NOTSET":
        pads = c.get("pads") or (0,) * 2 * rank
        if len(pads) != 2 * rank or min(pads) < 0:
            raise c.wrong("pads needs a begin and an end for each spatial axis", list(pads))
        return tuple(p for i in range(rank) for p in (pads[i], pads[rank + i]))
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise c.wrong("unknown auto_pad", auto)
    pairs: list[int] = []
    for i, size in enumerate(sizes):
        pairs += halves(_same(size, frame.strides[i], frame.extent(i)), auto == "SAME_UPPER")
    return tuple(pairs)


def _same(size: Dim, stride: int, extent: int) -> int:
    """The padding that makes ceil(size / stride) windows."""
    if stride == 1:
        return extent - 1
    if isinstance(size, Expr):
        raise Refused("auto_pad over a dynamic axis with a stride isn't supported")
    return max((-(-size // stride) - 1) * stride + extent - size, 0)


def halves(total: int, upper: bool) -> tuple[int, int]:
    """(low, high): of an odd number the larger half goes to the end if `upper`."""
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)
