"""Kernels' source as modules: written to files, so that tracebacks, debuggers and worker processes find it."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from graphc import config
from graphc_triton.kernels import TritonKernel


def source_file(kernel: TritonKernel) -> Path:
    """The file k_<hash>.py in the user's cache, written whole or not at all."""
    folder = config.cache_dir() / "triton"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"k_{kernel.key[:32]}.py"
    text = kernel.source
    if not path.exists() or path.read_text() != text:  # what lies there may be another's, or damaged
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    return path


def load_module(kernel: TritonKernel) -> ModuleType:
    """The module of a kernel's functions. Imports Triton."""
    path = source_file(kernel)
    name = f"graphc_triton_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
