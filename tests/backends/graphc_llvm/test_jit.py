"""Compilation to objects and their loading."""

from __future__ import annotations

import ctypes
import re
import resource
import subprocess
import sys

import llvmlite.ir as ir
import pytest

from graphc.errors import ArtifactError
from graphc_llvm import emit
from graphc_llvm.emit import F32, PTR, i32, i64
from graphc_llvm.jit import assembly, compile_object
from graphc_llvm.linker import load_objects
from graphc_llvm.target import NAMED_TARGETS, host_target, parse_target


def dot_product(lanes: int):
    """A loop over vectors whose sum is carried in a register."""

    def body(b, x, y):
        zero = emit.constant(ir.VectorType(F32, lanes), 0.0)
        with emit.fold_range(b, i64(0), i64(1024), lanes, [zero]) as loop:
            a, c = (emit.load_vector(b, emit.offset(b, p, loop.index, F32), F32, lanes) for p in (x, y))
            loop.update([emit.fma(b, a, c, loop.carried[0])])
        return emit.reduce_vector(b, "fadd", loop.results[0])

    return body


@pytest.fixture
def dot_ir(emit_function):
    return lambda target: emit_function([PTR, PTR], dot_product(target.lanes(4)), F32)


@pytest.mark.parametrize(
    ("name", "instruction"),
    [("x86-64-v3", r"vfmadd\w+ps.*%ymm"), ("x86-64-v4", r"vfmadd\w+ps.*%zmm"), ("aarch64+neon", r"fmla\s+v\d+\.4s")],
)
@pytest.mark.parametrize("level", ["light", "full"])
def test_each_target_gets_its_vector_instructions(dot_ir, name, instruction, level):
    target = parse_target(name)
    text = assembly(dot_ir(target), target, level)
    assert re.search(instruction, text)
    assert "call" not in text


def test_light_and_full_leave_the_same_inner_loop(dot_ir):
    target = parse_target("x86-64-v4")
    for level in ("light", "full"):
        assert "rsp" not in assembly(dot_ir(target), target, level)  # nothing is spilled


@pytest.mark.parametrize("name", list(NAMED_TARGETS))
def test_equal_texts_give_equal_objects(dot_ir, name):
    target = NAMED_TARGETS[name]
    text = dot_ir(target)
    first = compile_object(text, target)
    assert first == compile_object(text, target)
    assert first[:4] == b"\x7fELF"


def test_objects_are_the_same_in_another_process(dot_ir, tmp_path):
    target = parse_target("x86-64-v3")
    source = tmp_path / "f.ll"
    source.write_text(dot_ir(target))
    code = (
        "import hashlib, sys; from graphc_llvm.jit import compile_object; from graphc_llvm.target import parse_target;"
        "print(hashlib.sha256(compile_object(open(sys.argv[1]).read(), parse_target('x86-64-v3'))).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code, str(source)], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(runs) == 1


def test_objects_call_each_other_and_the_c_library():
    target = host_target()
    texts = [
        "declare i64 @strlen(ptr)\ndefine i64 @inner(ptr %s) { %n = call i64 @strlen(ptr %s) ret i64 %n }",
        "declare i64 @inner(ptr)\n"
        "define i64 @outer(ptr %s) { %n = call i64 @inner(ptr %s) %m = add i64 %n, 1 ret i64 %m }",
    ]
    library = load_objects([compile_object(text, target) for text in texts], ["outer"])
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(library.address("outer"))
    assert function(b"four") == 5


@pytest.mark.parametrize("missing", ["in the object", "outside"])
def test_a_symbol_that_is_nowhere_is_an_error(missing):
    if missing == "in the object":
        symbol, text = "g", "define i32 @f() { ret i32 0 }"
    else:
        symbol, text = "f", "declare i32 @graphc_no()\ndefine i32 @f() { %n = call i32 @graphc_no() ret i32 %n }"
    with pytest.raises(ArtifactError, match="can't be linked"):
        load_objects([compile_object(text, host_target())], [symbol])


def test_a_dropped_library_gives_its_memory_back():
    text = '@big = global [4000000 x i8] c"' + "x" * 4000000 + '"\ndefine ptr @f() { ret ptr @big }'
    data = compile_object(text, host_target())
    load_objects([data], ["f"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(30):
        load_objects([data], ["f"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB; all thirty would take 120,000


def test_libraries_with_equal_symbols_live_side_by_side(native):
    functions = [native(host_target(), [], lambda b, n=n: i32(n)) for n in range(3)]
    assert [function() for function in functions] == [0, 1, 2]
    assert functions[0]() == 0


_FRAGMENTED = """
import ctypes, mmap
from graphc_llvm.jit import compile_object
from graphc_llvm.linker import load_objects
from graphc_llvm.target import host_target

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

def reserve(pages):
    return libc.mmap(None, pages * mmap.PAGESIZE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)

# Code of several pages that reads a table, which is a section of one page.
steps = "".join(
    f"store volatile i32 %v{k}, ptr %s\\n%x{k} = load volatile i32, ptr %s\\n%v{k + 1} = xor i32 %x{k}, {k * 99991}\\n"
    for k in range(1500)
)
text = (
    "@table = internal constant [2 x i32] [i32 5, i32 7]\\n"
    "define i32 @f(i64 %i) {\\n%s = alloca i32\\n%a = getelementptr [2 x i32], ptr @table, i64 0, i64 %i\\n"
    f"%v0 = load i32, ptr %a\\n{steps}ret i32 %v1500\\n}}"
)
data = compile_object(text, host_target())

def run(library):
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64)(library.address("f"))
    return [function(0), function(1)]

expected = run(load_objects([data], ["f"]))
holes = [reserve(3) for _ in range(200)]
stacks = reserve(5 * 2**30 // mmap.PAGESIZE)
for hole in holes:
    libc.munmap(hole + mmap.PAGESIZE, mmap.PAGESIZE)
while reserve(4) > stacks:  # no place above the stacks is left but for the holes of a page
    pass
libraries = [load_objects([data], ["f"]) for _ in range(5)]
assert all(run(library) == expected for library in libraries)
"""


def test_code_reaches_its_constants_where_the_address_space_is_fragmented():
    """As after a pool of hundreds of threads: free pages here and there, and the next free place gigabytes away."""
    run = subprocess.run([sys.executable, "-c", _FRAGMENTED], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
