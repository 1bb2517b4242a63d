"""The thread pool: every index exactly once, whoever calls, and no thread that works for nothing."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import llvmlite.ir as ir
import numpy as np
import pytest

from graphc.errors import GraphcError
from graphc_llvm import emit
from graphc_llvm.abi import KERNEL_TYPE
from graphc_llvm.emit import I32, I64, PTR, i32, i64
from graphc_llvm.jit import compile_object
from graphc_llvm.linker import load_objects
from graphc_llvm.runtime import runtime, runtime_ir
from graphc_llvm.target import host_target, parse_target

_PART_TYPE = ir.FunctionType(I32, [PTR, I64, I64, I64])


def parallel_for(function, context, n, threads):
    address = runtime().library.address("parallel_for")
    call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)
    return call(function, context, n, threads)


def build(name, body):
    """The library of one `i32 name(context, begin, end, worker)`, emitted by `body(b, …the same)`."""
    module = ir.Module()
    function = ir.Function(module, _PART_TYPE, name)
    b = ir.IRBuilder(function.append_basic_block())
    b.ret(body(b, *function.args))
    return load_objects([compile_object(str(module), host_target())], [name])


def count_up(b, context, begin, end, worker):
    with emit.for_range(b, begin, end) as i:
        at = emit.offset(b, context, i, I64)
        emit.store(b, b.add(emit.load(b, at, I64), i64(1)), at)
    return i32(0)


@pytest.fixture(scope="module")
def counter():
    library = build("count_up", count_up)
    yield library.address("count_up")


def check(counter, n, threads):
    counts = np.zeros(max(n, 1), np.int64)
    assert parallel_for(counter, counts.ctypes.data, n, threads) == 0
    assert (counts[:n] == 1).all()


@pytest.mark.parametrize("threads", [-1, 0, 1, 2, 3, 7, 600])
def test_every_index_is_done_once(counter, threads):
    for n in (-1, 0, 1, 2, 3, 5, 8, 100, 999, 10_007):
        check(counter, n, threads)


def test_chunks_depend_on_n_and_threads_alone():
    """Each call notes the beginning of its chunk at the chunk's end."""

    def note(b, context, begin, end, worker):
        emit.store(b, begin, emit.offset(b, context, end, I64))
        return i32(0)

    library = build("note", note)
    for n, threads in ((10, 3), (2, 5), (100, 8), (7, 7)):
        noted = np.full(n + 1, -1, np.int64)
        assert parallel_for(library.address("note"), noted.ctypes.data, n, threads) == 0
        chunks = min(n, threads)
        sizes = [n // chunks + (k < n % chunks) for k in range(chunks)]
        ends = np.cumsum(sizes)
        expected = np.full(n + 1, -1)
        expected[ends] = ends - sizes
        np.testing.assert_array_equal(noted, expected)


def test_workers_that_run_at_the_same_time_have_numbers_of_their_own():
    """Each call raises its worker's flag, waits a little, and fails if the flag is up already."""

    def claim(b, context, begin, end, worker):
        flag = emit.offset(b, context, worker, I64)
        before = b.atomic_rmw("xchg", flag, i64(1), "seq_cst")
        waste = emit.local(b, I64)
        with emit.for_range(b, i64(0), i64(3000)) as i:
            b.store_atomic(i, waste, "monotonic", 8)
        b.atomic_rmw("xchg", flag, i64(0), "seq_cst")
        return b.trunc(before, I32)

    library = build("claim", claim)
    flags = np.zeros(8, np.int64)
    for _ in range(300):
        assert parallel_for(library.address("claim"), flags.ctypes.data, 64, 8) == 0


def test_the_first_failure_is_returned_and_ends_the_job():
    def fail(b, context, begin, end, worker):
        b.atomic_rmw("add", context, i64(1), "seq_cst")
        bad = b.icmp_signed("==", begin, i64(50))
        return b.select(bad, i32(7), i32(0))

    library = build("fail", fail)
    for threads in (2, 100):
        for _ in range(50):
            calls = np.zeros(1, np.int64)
            assert parallel_for(library.address("fail"), calls.ctypes.data, 100, threads) == 7
            assert 1 <= calls[0] <= threads


def nested_module():
    """`outer` runs `inner` over a hundred elements for each of its indices, through parallel_for again."""
    module = ir.Module()
    inner = ir.Function(module, _PART_TYPE, "inner")
    b = ir.IRBuilder(inner.append_basic_block())
    b.ret(count_up(b, *inner.args))
    outer = ir.Function(module, _PART_TYPE, "outer")
    b = ir.IRBuilder(outer.append_basic_block())
    context, begin, end, _ = outer.args
    call_type = ir.FunctionType(I32, [PTR, PTR, I64, I64])
    address = ir.Constant(I64, runtime().library.address("parallel_for"))
    function = b.inttoptr(address, call_type.as_pointer())
    with emit.for_range(b, begin, end) as i:
        b.call(function, [inner, emit.offset(b, context, b.mul(i, i64(100)), I64), i64(100), i64(4)])
    b.ret(i32(0))
    return load_objects([compile_object(str(module), host_target())], ["outer"])


def test_nested_calls_run_inline():
    library = nested_module()
    for _ in range(100):
        counts = np.zeros(800, np.int64)
        assert parallel_for(library.address("outer"), counts.ctypes.data, 8, 4) == 0
        assert (counts == 1).all()


def test_calls_from_several_python_threads_and_pauses_in_between(counter):
    """For two seconds, callers of all kinds; a lost wake-up or a worker that joins too late would hang or miscount."""
    end = time.monotonic() + 2

    def work(seed):
        random = np.random.default_rng(seed)
        while time.monotonic() < end:
            check(counter, int(random.integers(0, 2000)), int(random.integers(1, 9)))
            if random.random() < 0.05:
                time.sleep(random.random() / 1000)

    with ThreadPoolExecutor(4) as callers:
        for caller in [callers.submit(work, seed) for seed in range(4)]:
            caller.result(60)


def test_a_job_is_shared_when_it_is_long_enough(counter):
    """Two threads note who they are: with work for a millisecond, a second one must have joined in one of the tries."""

    def who(b, context, begin, end, worker):
        waste = emit.local(b, I64)
        with emit.for_range(b, i64(0), i64(300_000)) as i:
            b.store_atomic(i, waste, "monotonic", 8)
        emit.store(b, worker, emit.offset(b, context, begin, I64))
        return i32(0)

    library = build("who", who)
    seen = np.zeros(2, np.int64)
    for _ in range(200):
        assert parallel_for(library.address("who"), seen.ctypes.data, 2, 2) == 0
        assert set(seen) <= {0, 1}
        if set(seen) == {0, 1}:
            return
    pytest.fail("no worker ever joined")


def test_an_idle_pool_uses_no_time(counter):
    check(counter, 1000, 4)
    time.sleep(0.05)  # the workers' spinning ends
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.03


def run_in_child(function):
    """Fork; the child runs `function` and leaves. Returns its exit status, or fails the test if it hangs."""
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the forked child hangs")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own(counter):
    check(counter, 1000, 3)

    def child():
        for n in (1000, 10, 3):
            check(counter, n, 3)

    assert run_in_child(child) == 0
    check(counter, 1000, 3)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_in_the_middle_of_jobs(counter):
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            check(counter, 2000, 3)

    worker = threading.Thread(target=busy)
    worker.start()
    try:
        for _ in range(20):
            assert run_in_child(lambda: check(counter, 500, 3)) == 0
    finally:
        stop.set()
        worker.join()


def test_a_process_ends_quietly_with_workers_awake():
    code = """
import ctypes
from graphc_llvm.runtime import runtime
call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
    runtime().library.address("parallel_for"))
returns_its_argument = ctypes.cast(ctypes.CDLL(None).labs, ctypes.c_void_p)
print(call(returns_its_argument, None, 4, 4))
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_run_kernel_gives_each_worker_its_scratch():
    """A kernel over 64 rows; each row is written to the worker's scratch first, then summed from there."""
    module = ir.Module()
    kernel = ir.Function(module, KERNEL_TYPE, "kernel")
    pointers, dims, scratch, begin, end = kernel.args
    b = ir.IRBuilder(kernel.append_basic_block())
    out = emit.load(b, pointers, PTR)
    width = emit.load(b, dims, I64)
    with emit.for_range(b, begin, end) as row:
        with emit.for_range(b, i64(0), width) as i:
            emit.store(b, b.mul(row, i), emit.offset(b, scratch, i, I64))
        with emit.fold_range(b, i64(0), width, initial=[i64(0)]) as total:
            total.update([b.add(total.carried[0], emit.load(b, emit.offset(b, scratch, total.index, I64), I64))])
        emit.store(b, total.results[0], emit.offset(b, out, row, I64))
    b.ret(i32(0))
    library = load_objects([compile_object(str(module), host_target())], ["kernel"])
    words = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3
    run_kernel = ctypes.CFUNCTYPE(ctypes.c_int32, *words)(runtime().library.address("run_kernel"))
    for threads in (1, 2, 5):
        out, scratch = np.zeros(64, np.int64), np.zeros((threads, 32), np.int64)
        table, dims = (ctypes.c_void_p * 1)(out.ctypes.data), (ctypes.c_int64 * 1)(32)
        where = (library.address("kernel"), ctypes.addressof(table), ctypes.addressof(dims), scratch.ctypes.data)
        for _ in range(50):
            out[:] = 0
            assert run_kernel(*where, 8 * 32, 64, threads) == 0
            np.testing.assert_array_equal(out, np.arange(64) * (31 * 32 // 2))


@pytest.mark.parametrize("name", ["x86-64-v3", "aarch64+neon"])
def test_the_module_compiles_for_other_targets(name):
    target = parse_target(name)
    assert compile_object(runtime_ir(target), target)[:4] == b"\x7fELF"


def test_an_unknown_cpu_is_refused():
    with pytest.raises(GraphcError, match="no thread pool"):
        runtime_ir(dataclasses.replace(host_target(), triple="riscv64-unknown-linux-gnu"))
