"""What the launcher asks of the CUDA driver, told by a stub of it that keeps device memory on the host."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cuda.bindings")
HERE = Path(__file__).parent

Log = list[list[str]]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], Log]:
    """(what the session printed, the calls in order)."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the stub takes a C compiler")
    library = tmp_path_factory.mktemp("stub") / "libcuda.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *flags, "-o", str(library), str(HERE / "stub_cuda.c"), "-ldl"], check=True)
    command = [sys.executable, "-W", "ignore", str(HERE / "stub_session.py"), str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], [line.split() for line in done.stderr.splitlines()]


def between(log: Log, first: str, last: str) -> Log:
    """The calls after one line up to another."""
    lines = [" ".join(line) for line in log]
    start = lines.index(first)
    return log[start + 1 : lines.index(last, start + 1)]


def test_the_target_is_the_gpu_that_is_there(session: tuple[list[dict[str, object]], Log]) -> None:
    assert session[0][0]["target"] == "sm_90"


def test_a_run_is_one_launch_of_one_graph(session: tuple[list[object], Log]) -> None:
    _, log = session
    lines = [" ".join(line) for line in log]
    second = log[lines.index("run 3", lines.index("run 3") + 1) + 1 : lines.index("run 5")]
    assert [line[0] for line in second] == [
        "send", "launch", "kernel", "kernel", "copy", "receive", "receive", "synchronize",
    ]  # fmt: skip


def test_new_dims_get_a_graph_and_memory_of_their_own(session: tuple[list[object], Log]) -> None:
    _, log = session
    calls = [line[0] for line in between(log, "run 5", "profile")]
    assert calls.count("instantiate") == calls.count("allocate") == 1


def test_parameters_are_buffers_then_dims_then_tritons_scratch(session: tuple[list[dict[str, int]], Log]) -> None:
    told, log = session
    run = between(log, "run 5", "profile")
    (start, size) = next(map(int, line[1:]) for line in run if line[0] == "allocate")
    sent = int(next(line for line in run if line[0] == "send")[1])
    received = [int(line[1]) for line in run if line[0] == "receive"]
    product, softmax = (line for line in run if line[0] == "kernel")
    x, weights, middle, *rest = map(int, product[5:])
    assert (x, rest) == (sent, [5, 0, 0])
    assert not start <= weights < start + size  # constants have memory of their own
    source, out, *rest = map(int, softmax[5:])
    assert (source, out, rest) == (middle, received[0], [5, 0, 0])
    assert all(start <= p < start + size and p % 16 == 0 for p in (x, middle, out))
    copy = next(line for line in run if line[0] == "copy")
    assert [int(n) for n in copy[1:]] == [received[1], received[0], 5 * 24 * 4]
    assert told[0]["arena"] == 3 * 24 * 4 + (-3 * 24 * 4) % 64


def test_blocks_are_what_the_kernel_was_compiled_for(session: tuple[list[object], Log]) -> None:
    _, log = session
    kernels = [line for line in between(log, "run 5", "profile") if line[0] == "kernel"]
    assert all(int(line[3]) % 32 == 0 and 32 <= int(line[3]) <= 512 for line in kernels)
    assert all(int(line[2]) == 1 for line in kernels)  # 5 rows fit one tile


def test_profiling_waits_for_each_step(session: tuple[list[object], Log]) -> None:
    _, log = session
    calls = [line[0] for line in between(log, "profile", "end")]
    assert "launch" not in calls
    assert calls.count("synchronize") >= calls.count("kernel") + calls.count("copy")


def test_memory_is_given_back(session: tuple[list[object], Log]) -> None:
    _, log = session
    end = [" ".join(line) for line in log].index("end")
    before, after = log[:end], log[end:]
    allocated = {line[1] for line in before if line[0] == "allocate"}
    assert allocated <= {line[1] for line in (*before, *after) if line[0] == "free"}


def test_a_status_becomes_an_error_with_the_layer_and_is_cleared(session: tuple[list[object], Log]) -> None:
    told = session[0]
    assert len(told) == 2
    assert "embedding" in str(told[1])
    assert "index out of bounds" in str(told[1])


def test_the_host_reads_a_condition_and_launches_one_branch(session: tuple[list[object], Log]) -> None:
    _, log = session
    for first, last, name in (("condition True", "condition False", "tanh"), ("condition False", "done", "exp")):
        calls = between(log, first, last)
        assert [line[2] for line in calls if line[0] == "receive"][:2] == ["1", "1"]
        (kernel,) = (line for line in calls if line[0] == "kernel")
        assert kernel[1].startswith(name)
        assert [line[0] for line in calls].count("launch") == 1
