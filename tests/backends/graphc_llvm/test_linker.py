"""Object files into the process: what is linked, what is refused, and that running needs no LLVM."""

from __future__ import annotations

import ctypes
import gc
import platform
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import graphc
from graphc.errors import ArtifactError
from graphc_llvm import linker
from graphc_llvm.jit import compile_object
from graphc_llvm.linker import load_objects
from graphc_llvm.target import host_target

own = pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere LLVM links")


def integer(library: linker.Library, symbol: str, *arguments: int) -> int:
    return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * len(arguments))(library.address(symbol))(*arguments)


VARIABLES = """
@counter = internal global i64 40, align 128
@zeros = internal global [1000 x i64] zeroinitializer, align 64
@table = internal constant [3 x i64] [i64 5, i64 7, i64 9]
define i64 @count() {
  %n = load volatile i64, ptr @counter
  %m = add i64 %n, 1
  store volatile i64 %m, ptr @counter
  ret i64 %m
}
define i64 @keep(i64 %i, i64 %x) {
  %p = getelementptr [1000 x i64], ptr @zeros, i64 0, i64 %i
  %old = load volatile i64, ptr %p
  store volatile i64 %x, ptr %p
  ret i64 %old
}
define i64 @look(i64 %i) {
  %p = getelementptr [3 x i64], ptr @table, i64 0, i64 %i
  %x = load i64, ptr %p
  ret i64 %x
}
define i64 @place() {
  %p = ptrtoint ptr @counter to i64
  ret i64 %p
}
"""


@pytest.mark.parametrize("machine", [platform.machine(), "some other machine"])
def test_variables_constants_and_zeros(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By our linker and, as on machines that it doesn't know, by LLVM's."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    one, other = (
        load_objects([compile_object(VARIABLES, host_target())], ["count", "keep", "look", "place"]) for _ in "ab"
    )
    assert [integer(one, "count"), integer(one, "count"), integer(other, "count")] == [41, 42, 41]
    assert [integer(one, "keep", 999, 3), integer(one, "keep", 999, 4), integer(other, "keep", 999, 5)] == [0, 3, 0]
    assert [integer(one, "look", i) for i in range(3)] == [5, 7, 9]
    assert integer(one, "place") % 128 == 0


@own
def test_nothing_is_writable_and_executable() -> None:
    library = load_objects([compile_object(VARIABLES, host_target())], ["count", "place"])
    rights = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, mode = line.split()[:2]
        start, end = (int(x, 16) for x in span.split("-"))
        rights |= {s: mode for s, at in (("code", library.address("count")), ("data", integer(library, "place")))
                   if start <= at < end}  # fmt: skip
    assert rights == {"code": "r-xp", "data": "rw-p"}


@own
def test_a_dropped_library_is_unmapped(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[tuple[int, int]] = []
    unmap = linker._unmap
    monkeypatch.setattr(linker, "_unmap", lambda address, size: (freed.append((address, size)), unmap(address, size)))
    library = load_objects([compile_object(VARIABLES, host_target())], ["count"])
    address = library.address("count")
    assert not freed
    del library
    gc.collect()
    assert any(start <= address < start + size for start, size in freed)


@own
def test_a_symbol_of_two_objects_is_an_error() -> None:
    data = compile_object("define i64 @f() { ret i64 1 }", host_target())
    with pytest.raises(ArtifactError, match="defines a symbol twice"):
        load_objects([data, data], ["f"])


@own
def test_data_of_another_library_is_refused() -> None:
    text = "@environ = external global ptr\ndefine i64 @f() { %x = ptrtoint ptr @environ to i64 ret i64 %x }"
    with pytest.raises(ArtifactError, match="damaged") as caught:
        load_objects([compile_object(text, host_target())], ["f"])
    assert "environ" in str(caught.value)


@own
@pytest.mark.parametrize("harm", ["empty", "text", "machine", "cut", "relocation"])
def test_what_is_no_object_of_ours_is_refused(harm: str) -> None:
    data = bytearray(compile_object(VARIABLES, host_target()))
    if harm == "machine":
        struct.pack_into("<H", data, 18, 183)
    elif harm == "relocation":
        at = next(i for i in range(0, len(data) - 24, 8) if struct.unpack_from("<QIIq", data, i)[1:] in RELATIVE)
        struct.pack_into("<I", data, at + 8, 23)  # R_X86_64_TPOFF32
    given = {"empty": b"", "text": b"no object" * 20, "cut": bytes(data[: len(data) // 2])}.get(harm, bytes(data))
    with pytest.raises(ArtifactError, match="damaged"):
        load_objects([given], ["count"])


RELATIVE = [(2, symbol, addend) for symbol in range(1, 12) for addend in range(-4, 4)]
"""What a relocation of kind R_X86_64_PC32 holds after its place."""


@own
def test_a_saved_model_is_loaded_and_run_without_llvm(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 5)).eval()
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    exe = graphc.compile(model, example_inputs=[x], backend="llvm", threads=2)
    exe.save(tmp_path / "model.graphc")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", exe(x))
    script = (
        "import sys, numpy as np, graphc\n"
        f"exe = graphc.load({str(tmp_path / 'model.graphc')!r})\n"
        f"y = exe(np.load({str(tmp_path / 'x.npy')!r}))\n"
        f"assert (y == np.load({str(tmp_path / 'y.npy')!r})).all()\n"
        "print([name for name in sys.modules if name.startswith('llvmlite.binding')])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
