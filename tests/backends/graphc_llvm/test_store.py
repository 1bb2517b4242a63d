"""Compiled programs in the cache: what comes back is what went in, or nothing."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import graphc
from graphc.errors import ArtifactError
from graphc.ir.tensor_data import TensorData
from graphc.ir.types import DTYPES
from graphc_llvm.cache import Cache
from graphc_llvm.program_json import from_json, to_json
from graphc_llvm.segment import Code, Compiled
from graphc_llvm.sources import sources_digest
from graphc_llvm.store import _data, _data_json, _entry, restore, store
from graphc_llvm.target import NAMED_TARGETS

TEXT = """
graph @g(%x: f32[t,4], %i: i64[n]) where t >= 0, n <= 9 {
  %w: f32[4,20] = constant() {value=f32[4,20] sha256:%weights}
  %h: f32[20] = constant() {value=f32[20] sha256:%start}
  %y: f32[t,20] = matmul(%x, %w) from "dense"
  %last: f32[20], %all: f32[t,20] = scan(%h, %y) {carries=1, scanned=1, reverse=true} [
    body=graph @body(%c: f32[20], %s: f32[20]) {
      %z: f32[20] = add(%c, %s)
      return %z, %c
    }
  ] from "loop"
  %table: i64[3] = constant() {value=i64[3] [5, 7, 9]}
  %g: i64[n] = gather(%table, %i) {axis=0} from "table"
  %v: i64[n], %o: i64[n] = sort(%g) {axis=0}
  %m: f32[20] = reduce_max(%all) {axes=[0]}
  return %last, %all, %v, %table, %h, %m
}
"""


def model(seed: int = 0) -> graphc.Graph:
    rng = np.random.default_rng(seed)
    weights, start = (TensorData(rng.standard_normal(s).astype(np.float32)) for s in ((4, 20), (20,)))
    text = TEXT.replace("%weights", weights.digest).replace("%start", start.digest)
    return graphc.parse_graph(text, constants={d.digest: d for d in (weights, start)})


def compiled(executable: graphc.Executable) -> Compiled:
    found: Compiled = executable._segment.compiled  # type: ignore[attr-defined]
    return found


def same(a: Compiled, b: Compiled) -> bool:
    """Whether they are one compilation's results, up to kernels that a part doesn't run."""

    def part(c: Code) -> tuple[Any, ...]:
        return c.program, c.literals, [c.objects[key] for key, _ in c.program.kernels]

    return (part(a.main), part(a.prepare), a.weights, a.stages) == (part(b.main), part(b.prepare), b.weights, b.stages)


def call(executable: graphc.Executable) -> list[bytes]:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    return [y.tobytes() for y in executable(x, np.array([2, 0]))]


def test_programs_are_data() -> None:
    found = compiled(graphc.compile(model()))
    for code in (found.main, found.prepare):
        text = json.dumps(to_json(code.program))
        assert from_json(json.loads(text)) == code.program


def test_what_comes_back_is_what_went_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    first = graphc.compile(model())
    second = graphc.compile(model())
    assert (first.report.cached, second.report.cached) == (False, True)
    assert same(compiled(first), compiled(second))
    assert call(first) == call(second)
    assert [second.text(s) for s in second.stages] == [first.text(s) for s in first.stages]
    assert second.kernels == first.kernels
    other = graphc.compile(model(1))
    assert other.report.cached
    assert call(other) == call(graphc.compile(model(1), cache=False)) != call(first)


def test_a_program_whose_kernels_are_gone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    found = compiled(graphc.compile(model()))
    cache, empty = Cache(tmp_path), Cache(tmp_path / "another")
    for c in (cache, empty):
        store(found, "key", c)
    again = restore("key", cache)
    assert again is not None
    assert same(again, found)
    assert restore("key", empty) is None
    assert restore("another key", cache) is None


def test_nothing_is_kept_without_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    graphc.compile(model(), cache=False)
    assert list(tmp_path.iterdir()) == []


def test_options_that_change_code_have_entries_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    assert not graphc.compile(model()).report.cached
    assert not graphc.compile(model(), numerics="strict").report.cached
    assert not graphc.compile(model(), target="x86-64-v3").report.cached
    assert graphc.compile(model(), threads=1).report.cached
    assert graphc.compile(model(), target="x86-64-v3").report.cached


def test_another_version_of_the_generator_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    found = compiled(graphc.compile(model()))
    store(found, "key", Cache(tmp_path))
    assert restore("key", Cache(tmp_path)) is not None
    monkeypatch.setattr("graphc_llvm.store.sources_digest", lambda *_: "another")
    assert restore("key", Cache(tmp_path)) is None


def test_another_machine_on_the_same_folder_gets_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    graphc.compile(model())
    older = NAMED_TARGETS["x86-64-v3"]
    monkeypatch.setattr("graphc_llvm.target.host_target", lambda: older)
    monkeypatch.setattr("graphc_llvm.store.host_identity", lambda: "another machine")
    again = graphc.compile(model())
    assert not again.report.cached
    found = compiled(again)
    cold = compiled(graphc.compile(model(), target="x86-64-v3", cache=False))
    assert found.main.program.kernels == cold.main.program.kernels
    assert graphc.compile(model()).report.cached


def test_the_digest_of_the_sources_is_one_of_contents() -> None:
    assert sources_digest() == sources_digest()
    assert sources_digest(("graphc_llvm",)) != sources_digest(("graphc.lowering",))


@pytest.mark.parametrize("name", DTYPES)
def test_arrays_of_every_type_come_back_bit_for_bit(name: str) -> None:
    dtype = DTYPES[name].numpy
    for shape in ((), (0, 2), (3, 1, 2)):
        bits = (
            np.random.default_rng(0)
            .integers(0, 2 if name == "bool" else 256, (*shape, dtype.itemsize))
            .astype(np.uint8)
        )
        array = np.frombuffer(bits.tobytes(), dtype).reshape(shape)
        data = TensorData(array)
        again = _data(json.loads(json.dumps(_data_json(data))))
        assert again == data
        assert again.array.dtype == (ml_dtypes.bfloat16 if name == "bf16" else dtype)


LACKING = (
    ("main",),
    ("prepare", "program"),
    ("main", "program", "steps"),
    ("main", "literals"),
    ("weights",),
    ("stages",),
)


@pytest.mark.parametrize("path", LACKING, ids=".".join)
def test_entries_that_lack_something_are_refused(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    store(compiled(graphc.compile(model())), "key", Cache(tmp_path))
    cache = Cache(tmp_path)
    content = cache.get(_entry("key"))
    assert content is not None
    entry: Any = json.loads(content)
    inner = entry
    for part in path[:-1]:
        inner = inner[part]
    del inner[path[-1]]
    cache.put(_entry("key"), json.dumps(entry).encode())
    with pytest.raises(ArtifactError, match="damaged"):
        restore("key", cache)
