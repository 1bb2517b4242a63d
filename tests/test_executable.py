"""What an executable takes, gives and tells."""

import copy
import pickle
import threading

import numpy as np
import pytest

import graphc
from graphc.errors import GraphcError, ShapeError

TEXT = """
graph @two(%a: f32[n,2], %b: i64[n]) where n <= 16 {
  %s: f32[n,2] = add(%a, %a) from "double"
  %t: i64[n] = neg(%b) from "minus"
  return %s, %t
}
"""
A = np.arange(6, dtype=np.float32).reshape(3, 2)
B = np.array([1, -2, 3])
BACKENDS = ("reference", "llvm")


@pytest.fixture(scope="module", params=BACKENDS)
def two(request: pytest.FixtureRequest) -> graphc.Executable:
    return graphc.compile(graphc.parse_graph(TEXT), backend=request.param)


def test_several_outputs_come_as_a_tuple_and_one_comes_bare(two: graphc.Executable) -> None:
    s, t = two(A, B)
    np.testing.assert_array_equal(s, 2 * A)
    np.testing.assert_array_equal(t, -B)
    single = graphc.parse_graph("graph @g(%x: f32[2]) {\n%y: f32[2] = neg(%x)\nreturn %y\n}")
    one = graphc.compile(single, backend="reference")
    np.testing.assert_array_equal(one(np.float32([1, 2])), [-1, -2])


def test_run_takes_and_gives_by_name(two: graphc.Executable) -> None:
    assert two.input_names == ["a", "b"]
    assert two.output_names == ["s", "t"]
    (t,) = two.run(["t"], {"b": B, "a": A})
    np.testing.assert_array_equal(t, -B)
    assert [y.dtype for y in two.run(None, {"a": A, "b": B})] == [np.float32, np.int64]
    with pytest.raises(ShapeError, match="no such output") as caught:
        two.run(["u"], {"a": A, "b": B})
    assert "s" in (caught.value.expected or "")
    with pytest.raises(ShapeError, match="signature"):
        two.run(None, {"a": A})


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        (A.astype(np.float64), B, "input a has the wrong dtype"),
        (A, B.astype(np.int32), "input b has the wrong dtype"),
        (A[:, :1], B, "dim 1 of input a"),
        (A[0], B, "input a has the wrong shape"),
        (A, B[:2], "input b"),
        (np.zeros((17, 2), np.float32), np.zeros(17, np.int64), "input a"),
        (np.zeros((0, 2), np.float32), np.zeros(0, np.int64), "input a"),
    ],
)
def test_inputs_that_do_not_fit_are_named(two: graphc.Executable, a: np.ndarray, b: np.ndarray, names: str) -> None:
    with pytest.raises(ShapeError, match=names):
        two(a, b)


def test_the_number_of_inputs_is_checked(two: graphc.Executable) -> None:
    with pytest.raises(ShapeError, match="number of inputs") as caught:
        two(A)
    assert "a, b" in (caught.value.expected or "")


def test_memory_is_taken_as_it_comes(two: graphc.Executable) -> None:
    wide = np.arange(24, dtype=np.float32).reshape(6, 4)
    strided = wide[::2, 1:3]
    np.testing.assert_array_equal(two(strided, B)[0], 2 * strided)
    np.testing.assert_array_equal(two(wide[3::-1, :2][:3], B)[0], 2 * wide[3::-1, :2][:3])
    np.testing.assert_array_equal(two(np.broadcast_to(np.float32([1, 2]), (3, 2)), B)[0], [[2, 4]] * 3)
    np.testing.assert_array_equal(two(A.astype(">f4"), B.astype(">i8"))[1], -B)
    odd = np.frombuffer(b"\0" + A.tobytes(), np.uint8)[1:].view(np.float32).reshape(3, 2)
    assert odd.ctypes.data % 4
    np.testing.assert_array_equal(two(odd, B)[0], 2 * A)
    fixed = A.copy()
    fixed.flags.writeable = False
    np.testing.assert_array_equal(two(fixed, B)[0], 2 * A)


def test_outputs_are_fresh_memory(two: graphc.Executable) -> None:
    first, _ = two(A, B)
    first[:] = 7
    second, _ = two(A, B)
    np.testing.assert_array_equal(second, 2 * A)
    assert not np.shares_memory(first, second)


def test_torch_tensors_come_back_as_torch_tensors(two: graphc.Executable) -> None:
    torch = pytest.importorskip("torch")
    s, t = two(torch.from_numpy(A), torch.from_numpy(B))
    assert isinstance(s, torch.Tensor)
    assert torch.equal(s, torch.from_numpy(2 * A))
    assert torch.equal(t, torch.from_numpy(-B))


def test_what_is_no_array_is_refused(two: graphc.Executable) -> None:
    with pytest.raises(ShapeError, match="input a"):
        two([[1.0, 2.0]], B)


def test_it_tells_what_it_is(two: graphc.Executable) -> None:
    assert "a: f32[n,2]" in repr(two)
    assert two.stages[0] == "imported"
    assert two.text() == graphc.print_graph(two.graph)
    for stage in two.stages:
        assert two.text(stage)
    with pytest.raises(GraphcError, match="no such stage") as caught:
        two.text("nonsense")
    assert "imported" in (caught.value.expected or "")


def test_kernels_name_their_layers_and_can_be_timed(two: graphc.Executable) -> None:
    assert {o for k in two.kernels for o in k.origin} == {"double", "minus"}
    rows = two.profile(A, B).rows
    assert [r.layers for r in rows] == [k.origin for k in two.kernels]
    assert all(r.seconds >= 0 for r in rows)
    assert two.cost["flops"] == sum(k.flops for k in two.kernels)


def test_memory_grows_with_the_dims() -> None:
    text = """graph @g(%x: f32[n,64]) {
      %h: f32[n,64] = exp(%x)
      %r: f32[n] = reduce_max(%h) {axes=[1]}
      %b: f32[n,64] = broadcast(%r) {shape=[n, 64], axes=[0]}
      %y: f32[n,64] = div(%h, %b)
      return %y
    }"""
    executable = graphc.compile(graphc.parse_graph(text), backend="reference")
    small, large = executable.memory_at({"n": 1}), executable.memory_at({"n": 100})
    assert executable.memory == small
    assert large.arena == 100 * small.arena > 0
    assert large.peak == large.arena + large.constants + large.scratch


def test_threads_may_call_it_at_once(two: graphc.Executable) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            n = int(rng.integers(1, 17))
            a, b = rng.standard_normal((n, 2)).astype(np.float32), rng.integers(-9, 9, n)
            s, t = two(a, b)
            if not (np.array_equal(s, a + a) and np.array_equal(t, -b)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_it_pickles_and_copies(two: graphc.Executable) -> None:
    for again in (pickle.loads(pickle.dumps(two)), copy.copy(two), copy.deepcopy(two)):
        assert again.text() == two.text()
        assert again.options.backend == two.options.backend
        np.testing.assert_array_equal(again(A, B)[0], 2 * A)
