"""Modules: parts of a model that hold parameters and other modules, and say what they do to tensors."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np

from graphc.errors import GraphcError
from graphc.ir.types import DType, f32
from graphc.training.hyperparameters import SEED, check_value
from graphc_nn.initializers import Initializer, Zeros
from graphc_nn.tensor import Tensor


class Held:
    """An array that a module holds; made from its initializer when the model is initialized."""

    def __init__(self, shape: tuple[int, ...], initializer: Initializer = Zeros, dtype: DType = f32) -> None:
        if any(not isinstance(d, int) or d < 1 for d in shape):
            raise GraphcError("a parameter needs sizes of 1 or more", seen=shape)
        self.shape, self.initializer, self.dtype = tuple(shape), initializer, dtype
        self.array: np.ndarray | None = None

    def first(self, name: str, seed: int) -> np.ndarray:
        """The value that it begins with under that name."""
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        return self.initializer(self.shape, rng).astype(self.dtype.numpy)

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} {self.dtype}{list(self.shape)}>"


class Parameter(Held):
    """What training changes."""


class State(Held):
    """What the forward pass itself changes in training, as running statistics."""


class Module:
    """A part of a model. A subclass makes its parameters and modules in `__init__`, and has `forward`.

        class Net(Module):
            def __init__(self):
                self.hidden, self.out = Linear(784, 128), Linear(128, 10)

            def forward(self, x):
                return self.out(relu(self.hidden(x)))

    Attributes that are parameters, states, modules, or lists of modules, are found by their names: "hidden.weight".
    """

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the module makes of tensors: a tensor, or a tuple of them."""
        raise GraphcError("the module has no forward", seen=type(self).__name__)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """What `forward` makes of its arguments, one of which at least is a tensor."""
        tensor = next((x for x in (*inputs, *named.values()) if isinstance(x, Tensor)), None)
        if tensor is None:
            raise GraphcError(
                "a module is called with tensors, in forward", layer=type(self).__name__,
                hint="graphc.compile(model, example_inputs=(x,)) makes what runs on arrays",
            )  # fmt: skip
        with tensor.trace.inside(self):
            return self.forward(*inputs, **named)

    def initialize(self, seed: int = 0) -> Self:
        """Gives every parameter and state its first value, a function of the seed and of its name; itself."""
        check_value("seed", seed, SEED)
        for name, held in self.held():
            held.array = held.first(name, seed)
        return self

    def held(self) -> Iterator[tuple[str, Held]]:
        """Every parameter and state with its path; one that stands twice has its first."""
        seen: set[int] = set()
        for path, module in self.modules():
            for name, value in vars(module).items():
                if isinstance(value, Held) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def modules(self, path: str = "") -> Iterator[tuple[str, Module]]:
        """Itself and every module inside, with paths; each once."""
        seen: set[int] = set()
        stack: list[tuple[str, Module]] = [(path, self)]
        while stack:
            at, module = stack.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield at, module
            inside: list[tuple[str, Module]] = []
            for name, value in vars(module).items():
                here = f"{at}.{name}" if at else name
                if isinstance(value, Module):
                    inside.append((here, value))
                elif isinstance(value, (list, tuple)):
                    inside += [(f"{here}.{i}", m) for i, m in enumerate(value) if isinstance(m, Module)]
            stack += reversed(inside)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters' arrays by name; those that have no value yet get that of seed 0."""
        return self._arrays(Parameter)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The states' arrays by name."""
        return self._arrays(State)

    def _arrays(self, kind: type[Held]) -> dict[str, np.ndarray]:
        found = {}
        for name, held in self.held():
            if isinstance(held, kind):
                if held.array is None:
                    held.array = held.first(name, 0)
                found[name] = held.array
        return found

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Sets parameters and states by name. Raises GraphcError, and sets none, where one is unknown or doesn't fit."""
        known = dict(self.held())
        for name, array in arrays.items():
            if name not in known or known[name].shape != array.shape:
                expected = str(known[name]) if name in known else ", ".join(known)
                raise GraphcError(f"the model has no such array as {name!r}", seen=list(array.shape), expected=expected)
        for name, array in arrays.items():
            known[name].array = np.array(array, known[name].dtype.numpy)


class Sequential(Module):
    """Modules (or functions of a tensor), one after another."""

    def __init__(self, *steps: Callable[[Tensor], Any]) -> None:
        for step in steps:
            if isinstance(step, type) or not callable(step):
                raise GraphcError(
                    "Sequential takes modules and functions", seen=step, hint="MaxPool2d(2), not MaxPool2d"
                )
        self.steps = list(steps)

    def forward(self, x: Tensor) -> Any:
        for step in self.steps:
            x = step(x)
        return x


class Residual(Module):
    """x + inner(x), or shortcut(x) + inner(x). Source: He et al., 2015."""

    def __init__(self, inner: Module, shortcut: Module | None = None) -> None:
        self.inner, self.shortcut = inner, shortcut

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.shortcut is None else self.shortcut(x)
        made: Tensor = self.inner(x)
        return around + made
