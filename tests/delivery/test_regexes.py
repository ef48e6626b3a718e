"""What looking for a regular expression costs: little for what RE2 does quickly, much for what it does not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connections.metering import EVENT_STEPS, Meter, OutOfWorkError
from delivery.filters import compile_filter
from delivery.regexes import compile_regex

TEXT = "lorem ipsum dolor sit amet 4711 " * 640
"""20 KB."""


def steps(pattern: str, text: str = TEXT) -> int:
    meter = Meter(10**9)
    compile_regex(pattern).is_found(text, meter)
    return meter.spent


ORDINARY = [
    r"\pL+", r"^.{1,255}@example\.com", r"(?i)hello", r"[a-z]+@[a-z]+\.com", r"^\S+@\S+\.\S+$", r"\d{3}-\d{4}",
    r"^[\pL\pN ]+$", r"(?i)^[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}$", r"\bvip\b", r"https?://[^/]+/pricing", r".*=.*x",
    r"(lorem|ipsum|foo){1,20}!", r"[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}", r"(?P<a>a+b)+c",
    r"(\w+\s){5}\w+#", r"[[:alpha:]]+9", r"(x+x+)+y", r"\p{Greek}+x", r"^(?:GET|POST) /",
]  # fmt: skip


@pytest.mark.parametrize("pattern", ORDINARY)
@pytest.mark.parametrize("text", [TEXT, "5" * 20_000, "ab@cd.ef " * 2_200], ids=["words", "digits", "addresses"])
def test_an_ordinary_expression_on_a_long_text_is_cheap(pattern, text):
    assert steps(pattern, text) < EVENT_STEPS / 20


DEAR = [r"a(a|b){40}c", r"a.{100}c", r"(a.{30}c|b.{30}d|a.{29}e)", r".{1,255}@example\.com", r"[ab]*a[ab]{60}c"]


@pytest.mark.parametrize("pattern", DEAR)
def test_an_expression_whose_states_cannot_be_kept_is_charged_for_them(pattern):
    assert not compile_regex(pattern).is_tame
    assert steps(pattern, "ab" * 10_000) > 20_000
    with pytest.raises(OutOfWorkError):
        compile_filter({"payload.a": {"$regex": pattern}}).explain(
            {"payload": {"a": ["ab" * 10_000] * 20}}, Meter(EVENT_STEPS)
        )


def test_an_expression_that_must_begin_with_the_text_is_charged_for_so_much_of_it():
    assert steps(r"^.{1,255}@example\.com", "x" * 1_000) == steps(r"^.{1,255}@example\.com", "x" * 200_000)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"^a{1,3}$", "aaa", True),
        (r"^a{1,3}$", "aaaa", False),
        (r"^a{1,3}\b", "aaab", False),
        (r"(?m)^a{2}$", "b\naa\nb", True),
        (r"^.{1,255}@example\.com", "ada@example.com and more" * 1_000, True),
        (r"^.{1,255}@example\.com", "x" * 300 + "@example.com", False),
        (r"a+?", "xxa", True),
        (r"(?U)a+b", "xaab", True),
        (r"\pL+", "1234 é", True),
        (r"\pL+", "1234", False),
        (r"^é{2}$", "éé", True),
        (r"^a|b{2}$", "xbb", True),
        (r"(^a|b)c", "xxbc", True),
    ],
)
def test_what_is_found_stays_what_re2_finds(pattern, text, found):
    assert compile_regex(pattern).is_found(text, Meter(EVENT_STEPS)) is found


PIECES = [
    "a",
    "b",
    ".",
    "[ab]",
    "(a|b)",
    "(?:ab)",
    r"\w",
    r"\d",
    "^",
    "$",
    r"\b",
    "x{2}",
    "a{1,3}",
    "[^a]",
    "(?i)b",
    "|",
]


@given(
    st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(["", "*", "+", "?", "+?"])), min_size=1, max_size=6),
    st.text("ab1B xé", max_size=40),
)
def test_any_expression_is_read_and_finds_what_pythons_does(pieces, text):
    pattern = "".join(
        piece if piece in {"^", "$", r"\b", "(?i)b", "|"} or piece.endswith("}") else piece + sign
        for piece, sign in pieces
    )
    regex = compile_regex(pattern)
    expected = re.search(_as_python(pattern), text, re.ASCII)
    assert regex.is_found(text, Meter(EVENT_STEPS)) is (expected is not None)


def _as_python(pattern: str) -> str:
    """Python wants flags in the middle to be scoped, and its `$` also stands before a last line break."""
    while "(?i)" in pattern:
        before, _, after = pattern.partition("(?i)")
        rest, bar, others = after.partition("|")
        pattern = f"{before}(?i:{rest}{bar}{others})" if not bar else f"{before}(?i:{rest})|(?i:{others})"
    return pattern.replace("$", r"\Z")
