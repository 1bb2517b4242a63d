"""Canonical forms: each rule by a graph before and after."""

from __future__ import annotations

import pytest

from graphc.ir.parser import parse_graph
from graphc.ir.text import print_graph
from graphc_optimize.canonicalize import Canonicalize

CASES = {
    "reshapes": (
        "%a: f32[n,6] = reshape(%x) {shape=[n, 6]}\n%y: f32[6,n] = reshape(%a) {shape=[6, n]}",
        "%y: f32[6,n] = reshape(%x) {shape=[6, n]}",
    ),
    "reshape there and back": (
        "%a: f32[n,6] = reshape(%x) {shape=[n, 6]}\n%b: f32[n,2,3] = reshape(%a) {shape=[n, 2, 3]}\n%y: f32[n,2,3] = exp(%b)",
        "%y: f32[n,2,3] = exp(%x)",
    ),
    "transposes": (
        "%a: f32[2,3,n] = transpose(%x) {permutation=[1, 2, 0]}\n%y: f32[3,2,n] = transpose(%a) {permutation=[1, 0, 2]}",
        "%y: f32[3,2,n] = transpose(%x) {permutation=[2, 1, 0]}",
    ),
    "transposes that cancel": (
        "%a: f32[2,3,n] = transpose(%x) {permutation=[1, 2, 0]}\n%b: f32[n,2,3] = transpose(%a) {permutation=[2, 0, 1]}\n"
        "%y: f32[n,2,3] = exp(%b)",
        "%y: f32[n,2,3] = exp(%x)",
    ),
    "transpose of ones": (
        "%a: f32[n,1,2,3] = reshape(%x) {shape=[n, 1, 2, 3]}\n%b: f32[n,2,1,3] = transpose(%a) {permutation=[0, 2, 1, 3]}\n"
        "%y: f32[n,2,1,3] = exp(%b)",
        "%reshape_1: f32[n,2,1,3] = reshape(%x) {shape=[n, 2, 1, 3]}\n%y: f32[n,2,1,3] = exp(%reshape_1)",
    ),
    "broadcasts": (
        "%a: f32[n,2,2,3] = broadcast(%x) {shape=[n, 2, 2, 3], axes=[0, 1, 3]}\n"
        "%y: f32[5,n,2,2,3] = broadcast(%a) {shape=[5, n, 2, 2, 3], axes=[1, 2, 3, 4]}",
        "%y: f32[5,n,2,2,3] = broadcast(%x) {shape=[5, n, 2, 2, 3], axes=[1, 2, 4]}",
    ),
    "broadcast of kept dims": (
        "%s: f32[n,3] = reduce_sum(%x) {axes=[1]}\n%k: f32[n,1,3] = reshape(%s) {shape=[n, 1, 3]}\n"
        "%y: f32[n,2,3] = broadcast(%k) {shape=[n, 2, 3], axes=[0, 1, 2]}",
        "%s: f32[n,3] = reduce_sum(%x) {axes=[1]}\n%y: f32[n,2,3] = broadcast(%s) {shape=[n, 2, 3], axes=[0, 2]}",
    ),
    "broadcast that only adds ones": (
        "%y: f32[n,1,2,3] = broadcast(%x) {shape=[n, 1, 2, 3], axes=[0, 2, 3]}",
        "%y: f32[n,1,2,3] = reshape(%x) {shape=[n, 1, 2, 3]}",
    ),
    "transposed broadcast": (
        "%a: f32[4,n,2,3] = broadcast(%x) {shape=[4, n, 2, 3], axes=[1, 2, 3]}\n"
        "%y: f32[n,2,3,4] = transpose(%a) {permutation=[1, 2, 3, 0]}",
        "%y: f32[n,2,3,4] = broadcast(%x) {shape=[n, 2, 3, 4], axes=[0, 1, 2]}",
    ),
    "slices": (
        "%a: f32[n,2,2] = slice(%x) {starts=[0, 0, 0], limits=[n, 2, 3], strides=[1, 1, 2]}\n"
        "%b: f32[n,1,1] = slice(%a) {starts=[0, 1, 1], limits=[n, 2, 2], strides=[1, 1, 1]}\n%y: f32[n,1,1] = exp(%b)",
        None,  # of symbolic size: stays
    ),
    "whole slice": (
        "%a: f32[n,2,3] = slice(%x) {starts=[0, 0, 0], limits=[n, 2, 3], strides=[1, 1, 1]}\n%y: f32[n,2,3] = exp(%a)",
        "%y: f32[n,2,3] = exp(%x)",
    ),
    "cast, concat, pad and reverse of nothing": (
        "%a: f32[n,2,3] = cast(%x) {dtype=f32}\n%b: f32[n,2,3] = concat(%a) {axis=1}\n"
        "%v: f32[] = constant() {value=f32[] [0.0]}\n"
        "%c: f32[n,2,3] = pad(%b, %v) {low=[0, 0, 0], high=[0, 0, 0]}\n%d: f32[n,2,3] = reverse(%c) {axes=[]}\n"
        "%y: f32[n,2,3] = exp(%d)",
        "%y: f32[n,2,3] = exp(%x)",
    ),
    "view of one number": (
        "%v: f32[] = constant() {value=f32[] [2.0]}\n%a: f32[3,n,2] = broadcast(%v) {shape=[3, n, 2], axes=[]}\n"
        "%b: f32[n,2,3] = transpose(%a) {permutation=[1, 2, 0]}\n%y: f32[n,2,3] = sub(%x, %b)",
        "%constant_1: f32[] = constant() {value=f32[] [2.0]}\n"
        "%broadcast_1: f32[n,2,3] = broadcast(%constant_1) {shape=[n, 2, 3], axes=[]}\n%y: f32[n,2,3] = sub(%x, %broadcast_1)",
    ),
    "constant operand": (
        "%v: f32[] = constant() {value=f32[] [2.0]}\n%a: f32[n,2,3] = broadcast(%v) {shape=[n, 2, 3], axes=[]}\n"
        "%y: f32[n,2,3] = mul(%a, %x)",
        "%v: f32[] = constant() {value=f32[] [2.0]}\n%a: f32[n,2,3] = broadcast(%v) {shape=[n, 2, 3], axes=[]}\n"
        "%y: f32[n,2,3] = mul(%x, %a)",
    ),
    "order of max": (
        "%v: f32[] = constant() {value=f32[] [0.0]}\n%a: f32[n,2,3] = broadcast(%v) {shape=[n, 2, 3], axes=[]}\n"
        "%y: f32[n,2,3] = max(%a, %x)",
        None,  # it decides the sign of zero
    ),
    "reshape that mixes": (
        "%a: f32[2,n,3] = transpose(%x) {permutation=[1, 0, 2]}\n%y: f32[2,3*n] = reshape(%a) {shape=[2, 3*n]}",
        None,
    ),
}


def _text(body: str) -> str:
    result = body.rsplit("%y: ", 1)[1].split(" =")[0]
    lines = "\n".join(f"  {line}" for line in body.split("\n"))
    return f"graph @g(%x: f32[n,2,3]) {{\n{lines}\n  return %y\n}}\n" if result else ""


@pytest.mark.parametrize("name", CASES)
def test_form(name: str, run_passes) -> None:
    before, after = CASES[name]
    graph, _ = run_passes(_text(before), Canonicalize(), tolerance=0)
    expected = parse_graph(_text(before if after is None else after))
    assert _shape_of(graph) == _shape_of(expected)


def _shape_of(graph) -> str:
    """The text with values numbered in order, since fresh names don't matter here."""
    copy, _ = graph.clone()
    for v in list(copy.values()):
        copy.rename(v, "old")
    for i, v in enumerate(copy.values()):
        copy.rename(v, f"v{i}")
    return print_graph(copy)


def test_slices_of_known_size_merge(run_passes) -> None:
    graph, _ = run_passes(
        """
        graph @g(%x: f32[20]) {
          %a: f32[9] = slice(%x) {starts=[1], limits=[19], strides=[2]}
          %y: f32[3] = slice(%a) {starts=[2], limits=[8], strides=[2]}
          return %y
        }
        """,
        Canonicalize(),
        tolerance=0,
    )
    (node,) = graph.nodes
    assert (node["starts"], node["limits"], node["strides"]) == ((5,), (14,), (4,))


def test_it_is_done_after_one_run(run_passes) -> None:
    for before, _ in CASES.values():
        graph, context = run_passes(_text(before), Canonicalize(), tolerance=0)
        assert not Canonicalize().run(graph, context).changed
