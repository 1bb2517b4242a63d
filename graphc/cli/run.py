"""`graphc run`: a model on inputs from files, or on random ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc.cli.options import add_dims, add_model, executable_of, random_inputs
from graphc.cli.report import Report, progress, table
from graphc.errors import GraphcError

if TYPE_CHECKING:
    import numpy as np

    from graphc.ir.graph import Graph

HELP = "run a model on inputs from .npy and .npz files, or on random ones"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "-i", "--input", action="append", default=[], metavar="[NAME=]FILE",
        help="an .npz of inputs by name, or an .npy of one input; may be repeated (default: random inputs)",
    )  # fmt: skip
    add_dims(parser)
    parser.add_argument("-o", "--output", type=Path, help="an .npz that gets the outputs by name")


def run(arguments: argparse.Namespace) -> Report:
    executable = executable_of(arguments)
    given = read_inputs(arguments.input, executable.graph)
    inputs = given or random_inputs(executable.graph, arguments)
    with progress(arguments, "running"):
        outputs = dict(zip(executable.output_names, executable.run(None, inputs), strict=True))
    if arguments.output is not None:
        from graphc.artifact import write_whole

        write_whole(arguments.output, _npz(outputs))
    described = {name: describe(array) for name, array in outputs.items()}
    data = {"inputs": "given" if given else f"random, seed {arguments.seed}", "outputs": described}
    rows = [("output", "type", "least", "mean", "greatest")]
    rows += [(n, d["type"], *(f"{d[k]:.6g}" for k in ("least", "mean", "greatest"))) for n, d in described.items()]
    return Report(data, f"inputs: {data['inputs']}\n{table(rows, right=(2, 3, 4))}")


def read_inputs(entries: list[str], graph: Graph) -> dict[str, np.ndarray]:
    """The arrays of the files by the inputs' names; a lone .npy is the model's only input."""
    found: dict[str, np.ndarray] = {}
    for entry in entries:
        name, named, file = entry.rpartition("=")
        arrays = _read(Path(file))
        if not isinstance(arrays, dict):
            if not named and len(graph.inputs) != 1:
                expected = f"NAME={file}, with one of {', '.join(v.name for v in graph.inputs)}"
                raise GraphcError("the model has several inputs: which is this?", seen=entry, expected=expected)
            arrays = {name if named else graph.inputs[0].name: arrays}
        elif named:
            raise GraphcError("an .npz names its arrays itself", seen=entry, expected=file)
        found.update(arrays)
    return found


def _read(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    import zipfile

    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise GraphcError(f"{path} is no .npy or .npz file that can be read", seen=error) from error


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def describe(array: np.ndarray) -> dict[str, Any]:
    """An array's type and range; without numbers where it is empty."""
    import numpy as np

    wide = array.astype(np.float64)
    numbers = [float(f(wide)) for f in (np.min, np.mean, np.max)] if array.size else [float("nan")] * 3
    least, mean, greatest = numbers
    return {"type": f"{array.dtype}{list(array.shape)}", "least": least, "mean": mean, "greatest": greatest}
