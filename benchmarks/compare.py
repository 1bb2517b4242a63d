"""graphc beside other engines, on your model or on well-known architectures with seeded weights.

    python -m pip install -e ".[bench]"
    python benchmarks/compare.py resnet50 bert --threads 1
    python benchmarks/compare.py my_model.onnx --engines graphc,onnxruntime --json

Every engine has a process of its own, since threads that wait for work disturb others in the same one; the engines take
turns, so that a machine whose speed drifts is fair to all. "ahead" is the best other engine's median over graphc's,
taken round by round: above 1, graphc is faster.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from architectures import MODULES, NAMES, onnx_file, torch_module

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""What times are of; the processor's time of all threads counts those that wait for work, so it is for one thread."""
Feeds = dict[str, np.ndarray]


def prepare_graphc(path: str, feeds: Feeds, threads: int, precision: str) -> Callable[[], object]:
    import graphc

    exe = graphc.compile(path, threads=threads, precision=precision)
    inputs = [feeds[name] for name in sorted(feeds, key=list(feeds).index)]
    return lambda: exe(*inputs)


def prepare_onnxruntime(path: str, feeds: Feeds, threads: int, precision: str) -> Callable[[], object]:
    """In f32 whatever the precision: on CPUs it computes in no other."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def prepare_openvino(path: str, feeds: Feeds, threads: int, precision: str) -> Callable[[], object]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    inputs = list(feeds.values())
    return lambda: request.infer(inputs)


def prepare_torch_compile(path: str, feeds: Feeds, threads: int, precision: str) -> Callable[[], object]:
    """The module that the file was exported from, one of ours: torch reads no ONNX."""
    if Path(path).stem not in MODULES or Path(path) != onnx_file(Path(path).stem):
        raise ValueError(f"torch.compile needs the module that {path} was exported from")
    import torch
    import torch._inductor.config

    torch.set_num_threads(threads)
    torch._inductor.config.freezing = True
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    module = torch.compile(torch_module(Path(path).stem).eval().to(dtype))
    inputs = [torch.from_numpy(x) for x in feeds.values()]
    inputs = [x.to(dtype) if x.is_floating_point() else x for x in inputs]

    def run() -> object:
        with torch.inference_mode():
            return module(*inputs)

    return run


def prepare_xla(path: str, feeds: Feeds, threads: int, precision: str) -> Callable[[], object]:
    """graphc's own graph of the file, translated to JAX."""
    if precision != "f32":
        raise ValueError("the translation to JAX is f32 throughout")
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # its pool has as many threads as it sees cores
    import jax
    from in_jax import jax_function

    from graphc.driver import import_model

    function, weights = jax_function(import_model(path))
    compiled, inputs = jax.jit(function), list(feeds.values())
    return lambda: jax.block_until_ready(compiled(weights, *inputs))


PREPARE: dict[str, Callable[[str, Feeds, int, str], Callable[[], object]]] = {
    "graphc": prepare_graphc,
    "onnxruntime": prepare_onnxruntime,
    "openvino": prepare_openvino,
    "torch.compile": prepare_torch_compile,
    "xla": prepare_xla,
}
"""By engine: what gets a model ready, and returns a run of it."""
ENGINES = tuple(PREPARE)


def engines_for(model: str, precision: str) -> tuple[str, ...]:
    """The engines that can run a model: torch.compile needs its module, the translation to JAX f32."""
    without = set() if model in MODULES else {"torch.compile"}
    return tuple(e for e in ENGINES if e not in without and (e != "xla" or precision == "f32"))


def feeds_for(path: str) -> Feeds:
    """Seeded inputs of a model file, by name, in its order; unknown sizes are 1, integers are below 100."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {i.name for i in graph.initializer}
    rng = np.random.default_rng(0)
    feeds: Feeds = {}
    for value in graph.input:
        if value.name not in constants:
            tensor = value.type.tensor_type
            shape = [d.dim_value or 1 for d in tensor.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            real = np.issubdtype(dtype, np.floating)
            feeds[value.name] = (rng.standard_normal(shape) if real else rng.integers(0, 100, shape)).astype(dtype)
    return feeds


def serve(engine: str, path: str, threads: int, precision: str, clock: str, pipe: Connection) -> None:
    """An engine's process: tells the seconds of set-up, then answers each number of seconds with the times of its runs.

    At the end it tells the bytes of its memory: at the highest, and now.
    """
    now = CLOCKS[clock]
    start = now()
    run = PREPARE[engine](path, feeds_for(path), threads, precision)
    run()
    pipe.send(now() - start)
    while (seconds := pipe.recv()) is not None:
        times, end = [], time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            begin = now()
            run()
            times.append(now() - begin)
        pipe.send(times)
    pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, resident_bytes()))


def resident_bytes() -> int:
    """This process's memory that isn't shared with files: what the model and its engine take, but no mapped libraries."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]) * 1024


def compare(
    path: str, engines: Sequence[str], threads: int, precision: str, rounds: int, seconds: float, clock: str = "wall"
) -> dict[str, object]:
    """Median and best milliseconds of each engine, its set-up time and memory, and how far graphc is ahead."""
    os.environ.update(OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads))
    context = multiprocessing.get_context("spawn")
    pipes, setup = {}, {}
    for engine in engines:
        here, there = context.Pipe()
        context.Process(target=serve, args=(engine, path, threads, precision, clock, there), daemon=True).start()
        there.close()
        setup[engine], pipes[engine] = here.recv(), here
    taken: dict[str, list[list[float]]] = {engine: [] for engine in engines}
    for _ in range(rounds):
        for engine, pipe in pipes.items():
            pipe.send(seconds)
            taken[engine].append(pipe.recv())
    memory = {}
    for engine, pipe in pipes.items():
        pipe.send(None)
        memory[engine] = pipe.recv()
    medians = {e: [statistics.median(times) for times in rows] for e, rows in taken.items()}
    result: dict[str, object] = {
        engine: {
            "median_ms": round(statistics.median(medians[engine]) * 1e3, 4),
            "best_ms": round(min(map(min, taken[engine])) * 1e3, 4),
            "setup_s": round(setup[engine], 2),
            "peak_mb": round(memory[engine][0] * 1e-6),
            "running_mb": round(memory[engine][1] * 1e-6),
        }
        for engine in engines
    }
    others = [e for e in engines if e != "graphc"]
    if "graphc" in engines and others:
        ratios = [min(medians[e][i] for e in others) / medians["graphc"][i] for i in range(rounds)]
        result["ahead"] = round(statistics.median(ratios), 2)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"ONNX files, or of: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engines", type=lambda text: text.split(","), help="default: all that can")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each engine's turn")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: one thread on a busy machine")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for model in arguments.models or NAMES:
        path = str(model if Path(model).suffix == ".onnx" else onnx_file(model))
        engines = arguments.engines or engines_for(model, arguments.precision)
        row = compare(
            path, engines, arguments.threads, arguments.precision, arguments.rounds, arguments.seconds,
            arguments.clock,
        )  # fmt: skip
        if arguments.json:
            print(json.dumps({"model": model, "threads": arguments.threads, **row}), flush=True)
            continue
        cells = [f"{e} {row[e]['median_ms']:.3f} ms" for e in engines]  # type: ignore[index]
        print(f"{model:>14}: {', '.join(cells)}; ahead {row.get('ahead', '-')}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
