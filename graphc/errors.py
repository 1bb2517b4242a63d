"""What graphc raises: a `GraphcError` says what, in which layer, what was seen, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class GraphcError(Exception):
    """`what` went wrong in `layer` of the user's model: `seen` instead of `expected`, and a `hint` at what to do.

    The message is `what` on the first line, then one indented line for each field that is given. Each is kept as an
    attribute, None where it doesn't apply; code that knows the layer where the raiser didn't sets `layer`.
    """

    def __init__(
        self,
        what: str,
        *,
        layer: str | None = None,
        seen: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.layer = layer
        self.seen = None if seen is None else str(seen)
        self.expected = None if expected is None else str(expected)
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        fields = (("layer", self.layer), ("seen", self.seen), ("expected", self.expected), ("hint", self.hint))
        lines = [self.what]
        for name, text in fields:
            if text is not None:
                lines.append(f"  {name + ':':<10}" + text.replace("\n", "\n" + " " * 12))
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments aren't part of Exception.args, so the default would lose them between processes.
        return (_rebuild, (type(self), self.what, dict(self.__dict__)))


def _rebuild(cls: type[GraphcError], what: str, fields: dict[str, object]) -> GraphcError:
    error = cls.__new__(cls)
    Exception.__init__(error, what)
    error.__dict__.update(fields)
    return error


class ModelError(GraphcError):
    """A frontend can't take the model: the file is damaged, or breaks the format's rules."""


class VerifyError(GraphcError):
    """A graph breaks an invariant of the IR, or a pass broke the equivalence that it claims."""


class ShapeError(GraphcError):
    """Shapes or dtypes don't fit: between operands, with a guard, or between a call's arguments and the signature."""


class NumericError(GraphcError):
    """A run met what has no value: an integer division by zero, a bad index, a NaN that was asked to raise."""


class PluginError(GraphcError):
    """A plugin is unknown, is defined twice, or can't be loaded."""


class ArtifactError(GraphcError):
    """A saved executable or a cache entry is damaged, foreign, or made for another machine."""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """One node that can't be taken: its operator, the layer of the user's model, and the reason.

    origin: all layers that the node stands for, where it was fused of several.
    """

    op: str
    layer: str
    reason: str
    origin: tuple[str, ...] = ()


class UnsupportedOpError(GraphcError):
    """Nodes that `who` (a frontend, a pass or a backend) can't take: all of them at once, each with its reason."""

    def __init__(self, who: str, unsupported: Iterable[Unsupported], *, hint: str | None = None) -> None:
        self.who = who
        self.unsupported = tuple(unsupported)
        if not self.unsupported:
            raise ValueError("an UnsupportedOpError needs at least one node")
        count = len(self.unsupported)
        what = f"{who} doesn't support {count} {'node' if count == 1 else 'nodes'} of this model"
        # Nodes of a large model repeat one reason: each reason is told once, with the layers it concerns.
        layers: dict[tuple[str, str], list[str]] = {}
        for node in self.unsupported:
            layers.setdefault((node.op, node.reason), []).append(node.layer)
        seen = "\n".join(f"{op}: {reason} (in {_some(names)})" for (op, reason), names in layers.items())
        super().__init__(what, layer=_some([node.layer for node in self.unsupported]), seen=seen, hint=hint)


def _some(names: list[str], most: int = 3) -> str:
    unique = list(dict.fromkeys(names))
    rest = len(unique) - most
    return ", ".join(unique[:most]) + (f" and {rest} more" if rest > 0 else "")
