"""Symbolic integers against plain Python arithmetic, over random expressions and all values in range."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.ir.symbolic import (
    Expr,
    as_symbol,
    bounds,
    ceildiv,
    evaluate,
    floordiv,
    free_symbols,
    linear,
    maximum,
    minimum,
    mod,
    nonnegative,
    parse_dim,
    product,
    substitute,
    symbol,
)

n = symbol("n", low=1)
m = symbol("m", low=0)
s = symbol("s", low=1, high=6)
z = symbol("z", low=-4, high=3)
i = symbol("i", low=0, high=n - 1)
j = symbol("j", low=0, high=7)
SYMBOLS = {"n": n, "m": m, "s": s, "z": z, "i": i, "j": j}


@st.composite
def environments(draw):
    values = {
        "n": draw(st.integers(1, 12)),
        "m": draw(st.integers(0, 12)),
        "s": draw(st.integers(1, 6)),
        "z": draw(st.integers(-4, 3)),
        "j": draw(st.integers(0, 7)),
    }
    return values | {"i": draw(st.integers(0, values["n"] - 1))}


leaves = st.one_of(st.sampled_from(list(SYMBOLS)), st.integers(-6, 12))
divisors = st.one_of(st.integers(1, 8), st.sampled_from(["n", "s", "(n+1)", "(n*s)", "(m+2)", "(2*n)"]))


def _extend(children):
    return st.one_of(
        st.builds("({} {} {})".format, children, st.sampled_from("+-"), children),
        st.builds("({} * {})".format, children, st.one_of(leaves, children)),
        st.builds("({} {} {})".format, children, st.sampled_from(["//", "%"]), divisors),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), children, children),
    )


texts = st.recursive(leaves, _extend, max_leaves=8).map(str)


def build(text):
    return parse_dim(text, SYMBOLS)


def direct(text, values):
    return eval(text, {"min": min, "max": max, "__builtins__": {}}, dict(values))


@settings(max_examples=1500, deadline=None)
@given(texts, st.lists(environments(), min_size=6, max_size=6))
def test_canonical_form_has_the_same_value(text, environments):
    e = build(text)
    for values in environments:
        assert evaluate(e, values) == direct(text, values)


@settings(max_examples=500, deadline=None)
@given(texts)
def test_canonical_form_is_stable(text):
    e = build(text)
    again = parse_dim(str(e), SYMBOLS)
    assert again == e
    assert str(again) == str(e)
    assert substitute(e, {name: SYMBOLS[name] for name in SYMBOLS}) == e


@settings(max_examples=500, deadline=None)
@given(texts, environments())
def test_bounds_hold(text, values):
    e = build(text)
    low, high = bounds(e)
    value = direct(text, values)
    assert low is None or low <= value
    assert high is None or value <= high
    assert not nonnegative(e) or value >= 0


@settings(max_examples=500, deadline=None)
@given(texts, texts, st.sampled_from(list(SYMBOLS)), environments())
def test_substitution_is_evaluation_in_two_steps(text, inner, name, values):
    e, f = build(text), build(inner)
    inside = direct(inner, values)
    s = as_symbol(SYMBOLS[name])
    high = None if s.high is None else evaluate(s.high, values)
    if inside < s.low or (high is not None and inside > high) or (name == "n" and inside <= values["i"]):
        return  # outside the range that canonical forms may rely on
    try:
        g = substitute(e, {name: f})
    except ValueError:  # a divisor isn't known to be positive any more
        return
    assert evaluate(g, values) == direct(text, values | {name: inside})


@settings(max_examples=300, deadline=None)
@given(texts, st.sets(st.sampled_from(list(SYMBOLS))), environments())
def test_linear_form_adds_up(text, names, values):
    e = build(text)
    parts = linear(e, names)
    if parts is None:
        return
    coefficients, rest = parts
    total = evaluate(rest, values) + sum(evaluate(c, values) * values[k] for k, c in coefficients.items())
    assert total == direct(text, values)
    assert not {t.name for c in (*coefficients.values(), rest) for t in free_symbols(c)} & names


@settings(max_examples=300, deadline=None)
@given(texts, texts)
def test_arithmetic_laws_are_equalities(a, b):
    x, y = build(a), build(b)
    assert x + y == y + x
    assert x - x == 0
    assert x * y == y * x
    assert (x + y) - y == x
    assert 2 * (x + y) == 2 * x + 2 * y
    assert minimum(x, y) == minimum(y, x)
    assert maximum(x, x) == x


def test_simplifications_that_lowering_relies_on():
    assert (2 * n + 6) // 2 - n == 3
    assert (n * s) // s == n
    assert (n * s) % n == 0
    assert (j // 4) * 4 + j % 4 == j
    assert n * (m // n) + m % n == m
    assert j // 8 == 0
    assert j % 8 == j
    assert i // n == 0
    assert i % n == i
    assert (n * m + i) // n == m
    assert (n * m + i) % n == i
    assert ((j // 2) // 2) == j // 4
    assert (4 * m + j % 4) // 4 == m
    assert (m % 12) % 4 == m % 4
    assert (m // 4) % 3 * 4 + m % 4 == m % 12
    assert ceildiv(4 * n, 4) == n
    assert ceildiv(n, 1) == n
    assert minimum(n, n + 1) == n
    assert maximum(n, 1) == n
    assert minimum(j, 7) == j
    assert product([n, 2, m]) == 2 * m * n
    assert product([]) == 1


def test_unflattening_a_flat_index_gives_back_the_index():
    k = symbol("k", low=0, high=m + 4)
    flat = (i * (m + 5) + k) * 3 + 2
    assert flat // 3 == i * (m + 5) + k
    assert flat % 3 == 2
    assert (flat // 3) // (m + 5) == i
    assert (flat // 3) % (m + 5) == k


def test_constants_are_ints():
    assert type(n - n) is int
    assert type(0 * n) is int
    assert type(n // n) is int
    assert type(mod(7, 4)) is int
    assert floordiv(-7, 2) == -4
    assert mod(-7, 2) == 1


@pytest.mark.parametrize("divisor", [0, -1, m, z, n - 1])
def test_divisors_must_be_positive(divisor):
    for divide in (floordiv, mod):
        with pytest.raises(ValueError, match="positive"):
            divide(n, divisor)


def test_missing_values_are_named():
    with pytest.raises(KeyError, match="no value for m"):
        evaluate(n + m, {"n": 3})


@pytest.mark.parametrize("text", ["", "n +", "q", "n / 2", "f(n)", "n ** 2", "1.5", "n if n else 1", "min(n)", "True"])
def test_parsing_refuses_what_is_no_integer_expression(text):
    with pytest.raises(ValueError, match="integer expression"):
        parse_dim(text, SYMBOLS)


def test_equality_includes_ranges():
    assert symbol("n", 1) != symbol("n", 0)
    assert symbol("n", 1) == n
    assert hash(symbol("n", 1)) == hash(n)


def test_as_symbol():
    assert as_symbol(n).name == "n"
    assert as_symbol(n + 1) is None
    assert as_symbol(2 * n) is None
    assert as_symbol(5) is None


def test_deep_sums_stay_fast():
    e = 0
    for k in range(200):
        e = e + (n + k) * (s + k)
    assert isinstance(e, Expr)
    assert evaluate(e, {"n": 3, "s": 2}) == sum((3 + k) * (2 + k) for k in range(200))
