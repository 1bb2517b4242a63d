"""graphc compiles neural networks: a model in, a native program out.

    exe = graphc.compile("model.onnx")
    y = exe(x)

The public names below are imported on first use, so that importing graphc itself is quick and loads no plugin.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graphc.version import __version__

if TYPE_CHECKING:
    from graphc.autodiff import grad, value_and_grad
    from graphc.dims import dim as Dim
    from graphc.driver import compile, import_model, import_training, load, run_passes
    from graphc.errors import (
        ArtifactError,
        GraphcError,
        ModelError,
        NumericError,
        PluginError,
        ShapeError,
        UnsupportedOpError,
        VerifyError,
    )
    from graphc.executable import Executable
    from graphc.export import export_onnx
    from graphc.interpreter import interpret
    from graphc.ir.builder import Builder
    from graphc.ir.graph import Graph
    from graphc.ir.parser import parse_graph
    from graphc.ir.text import print_graph
    from graphc.training.compile import compile_training
    from graphc.training.optimizers import (
        LAMB,
        SGD,
        Adadelta,
        Adagrad,
        Adam,
        Adamax,
        AdamW,
        Lion,
        Lookahead,
        NAdam,
        RMSprop,
        Rprop,
    )
    from graphc.training.recipe import Group
    from graphc.training.step import TrainingStep
    from graphc.training.trainer import Trainer

_HOME = {
    "compile": "driver", "import_model": "driver", "import_training": "driver", "load": "driver", "run_passes": "driver",
    "Executable": "executable", "interpret": "interpreter", "Builder": "ir.builder", "Graph": "ir.graph",
    "parse_graph": "ir.parser", "print_graph": "ir.text", "grad": "autodiff", "value_and_grad": "autodiff",
    "compile_training": "training.compile", "Trainer": "training.trainer", "TrainingStep": "training.step",
    "Group": "training.recipe", "export_onnx": "export",
    **dict.fromkeys(
        ("LAMB", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "Lookahead", "NAdam", "RMSprop", "Rprop"),
        "training.optimizers"),
    **dict.fromkeys(
        ("ArtifactError", "GraphcError", "ModelError", "NumericError", "PluginError", "ShapeError", "UnsupportedOpError",
         "VerifyError"), "errors"),
}  # fmt: skip

__all__ = [
    "LAMB",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "ArtifactError",
    "Builder",
    "Dim",
    "Executable",
    "Graph",
    "GraphcError",
    "Group",
    "Lion",
    "Lookahead",
    "ModelError",
    "NAdam",
    "NumericError",
    "PluginError",
    "RMSprop",
    "Rprop",
    "ShapeError",
    "Trainer",
    "TrainingStep",
    "UnsupportedOpError",
    "VerifyError",
    "__version__",
    "compile",
    "compile_training",
    "export_onnx",
    "grad",
    "import_model",
    "import_training",
    "interpret",
    "load",
    "parse_graph",
    "print_graph",
    "run_passes",
    "value_and_grad",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "Dim":
        from graphc.dims import dim

        return dim
    if name not in _HOME:
        raise AttributeError(f"module 'graphc' has no attribute {name!r}")
    return getattr(importlib.import_module(f"graphc.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
