"""Files of a training under way: the step, where it is, its history, and what callbacks remember."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from graphc.artifact import write_whole
from graphc.errors import ArtifactError
from graphc.training.callbacks.callback import Callback, Logs
from graphc.training.progress import Progress
from graphc.training.step import TrainingStep

FORMAT = "graphc training 1"
OF_CALLBACK = "callback."


def save_training(
    path: str | os.PathLike[str], step: TrainingStep, progress: Progress, history: Sequence[Logs], callbacks: Sequence[Callback],
    data: str,
) -> None:  # fmt: skip
    """Writes a safetensors file, which is whole or absent: the step's snapshot, arrays of callbacks, the rest as metadata."""
    from safetensors.numpy import save

    arrays = step.snapshot()
    states = {}
    for name, callback in _named(callbacks).items():
        states[name], kept = callback.state()
        arrays |= {f"{OF_CALLBACK}{name}.{key}": value for key, value in kept.items()}
    metadata = {
        "format": FORMAT, "data": data, "progress": progress.to_json(), "history": json.dumps(history),
        "callbacks": json.dumps(states),
    }  # fmt: skip
    write_whole(Path(path), save(arrays, metadata))


def load_training(
    path: str | os.PathLike[str], step: TrainingStep, callbacks: Sequence[Callback], data: str
) -> tuple[Progress, list[Logs]]:
    """Puts the step and the callbacks back to where the file was written; progress and history then.

    Callbacks are found by their class and their number among those of it; one without a state in the file begins anew.
    Raises ArtifactError, and changes nothing, for a damaged file or one of another training.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as f:
            metadata = f.metadata() or {}
            arrays = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - safe_open has no iteration
    except (SafetensorError, OSError) as e:
        raise ArtifactError(f"{os.fspath(path)} is no checkpoint, or it is damaged", seen=str(e)) from e
    if metadata.get("format") != FORMAT:
        raise ArtifactError(f"{os.fspath(path)} is no checkpoint of a Trainer", seen=metadata.get("format"), expected=FORMAT)
    if metadata["data"] != data:
        raise ArtifactError("the checkpoint's training took its data in another order", seen=data, expected=metadata["data"])
    progress, history = Progress.from_json(metadata["progress"]), json.loads(metadata["history"])
    step.restore({name: a for name, a in arrays.items() if not name.startswith(OF_CALLBACK)})
    states = json.loads(metadata["callbacks"])
    for name, callback in _named(callbacks).items():
        if name in states:
            callback.load_state(states[name], _of(arrays, f"{OF_CALLBACK}{name}."))
    return progress, history


def _named(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """Callbacks by class and number."""
    found: dict[str, Callback] = {}
    for c in callbacks:
        kind = type(c).__name__
        number = sum(name.startswith(f"{kind}-") for name in found)
        found[f"{kind}-{number}"] = c
    return found


def _of(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
