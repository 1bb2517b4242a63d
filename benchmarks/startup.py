"""How long graphc takes until a model runs, in processes of their own: compiled with an empty cache, and loaded with a warm one.

python benchmarks/startup.py resnet50 bert
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from architectures import NAMES, onnx_file
from compare import CLOCKS

COMPILE = """
import resource, sys, time
import graphc
now = getattr(time, sys.argv[3])
start = now()
executable = graphc.compile(sys.argv[1], threads=1)
print(now() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
executable.save(sys.argv[2])
"""
LOAD = """
import sys, time
now = getattr(time, sys.argv[3])
start = now()
import graphc
graphc.load(sys.argv[2])
print(now() - start)
"""


def startup(path: str, clock: str = "wall") -> dict[str, float]:
    """Seconds to compile (without `import graphc`) and to load (with it), by a clock of `compare`, and the highest memory."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GRAPHC_CACHE_DIR": folder}
        artifact = str(Path(folder) / "model.graphc")

        def run(code: str) -> list[float]:
            command = [sys.executable, "-c", code, path, artifact, CLOCKS[clock].__name__]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            return [float(x) for x in done.stdout.split()]

        compiled, peak = run(COMPILE)
        run(LOAD)  # what an artifact needs beyond what compiling kept is kept now
        (loaded,) = run(LOAD)
    return {"compile_s": round(compiled, 2), "compile_peak_mb": round(peak * 1e-6), "load_s": round(loaded, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"ONNX files, or of: {', '.join(NAMES)} (default: all)")
    arguments = parser.parse_args()
    for model in arguments.models or NAMES:
        path = str(model if Path(model).suffix == ".onnx" else onnx_file(model))
        print(json.dumps({"model": model, **startup(path)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
