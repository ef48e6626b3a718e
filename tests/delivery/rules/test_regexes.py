"""What looking for a regular expression costs: little for what RE2 does quickly, much for what it does not."""

import random

import pytest
import re2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from delivery.rules.filters import MAX_REGEX_WORK, compile_filter
from delivery.rules.patterns import RuleError
from delivery.rules.regexes import compile_regex, estimate_work
from meshes.kit.metering import EVENT_STEPS, Meter, OutOfWorkError

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


DEAR = [
    r"a(a|b){40}c", r"a.{100}c", r"(a.{30}c|b.{30}d|a.{29}e)", r".{1,255}@example\.com", r"[ab]*a[ab]{60}c",
    r"(?s)c\w{2,12}#", r"\x01[\x01\x02]{20}\x03", r"\b[\w ]{20}#", r"(?m)^[a\n]{20}c", r"(?m)$[a\n]{20}c",
    r"\B[\w ]{20}#", r"\pZ[\pZ\pS]{12}#",
]  # fmt: skip


@pytest.mark.parametrize("pattern", DEAR)
def test_an_expression_whose_states_cannot_be_kept_is_charged_for_them(pattern):
    assert compile_regex(pattern).states is None
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


FOREIGN = [
    ("ก[กข]{20}ค", "กข"),
    ("њ[њљ]{14}џ", "њљ"),
    (r"\x{e01}[\x{e01}\x{e02}]{20}\x{e04}", "กข"),
    ("[а-к][а-я]{20}ё", "ая"),
    ("(?i)ж[жш]{20}щ", "Жш"),
    ("(?i:\u019b)(?i:[\u019bb]){20}c", "\u019bb"),
    ("(?-i:β)(?i:β){20}c", "βϐ"),
    (r"\p{Thai}[\p{Thai}\p{Lao}]{20}\p{Khmer}", "กຂ"),
    ("(?-i:k)(?i:k){20}#", "k\u212a"),
]


@pytest.mark.parametrize(("pattern", "letters"), FOREIGN)
def test_letters_of_other_alphabets_are_told_apart(pattern, letters):
    text = "".join(random.Random(7).choices(letters, k=10_000))
    assert steps(pattern, text) > len(text.encode())


def test_states_within_a_character_are_counted():
    states = [compile_regex(pattern).states for pattern in ("a[a-z]{5}c", "a.{5}c", r"a\S{5}c")]
    assert [each.size_of_foreign // each.size for each in states] == [2, 9, 9]


@pytest.mark.parametrize("text", ["grüße " * 3_000, "привет мир " * 1_000, "日本語 " * 2_000], ids=["de", "ru", "ja"])
@pytest.mark.parametrize(
    "pattern",
    [r"\pL+", r"^.{1,255}@example\.com", r"\b(?i:vip|gold|größe)\b", "(?i)(москва|петербург)", r"[\w.]+@\w+\.de"],
)
def test_an_ordinary_expression_on_a_text_in_any_language_is_evaluated(pattern, text):
    assert steps(pattern, text) < EVENT_STEPS / 6


def test_a_class_that_has_no_ascii_keeps_its_states_on_ascii():
    assert steps(r"\pL$", "a1 " * 80_000) == 35 + 480 + 6_000


@pytest.mark.parametrize(
    ("pattern", "least"), [("(?:" + "^" * 480 + "){1000}", 1), (r"\pL{15}", 15_000), ("a{1,255}" * 10, 2_000)]
)
def test_what_an_expression_costs_to_compile_is_known(pattern, least):
    assert least <= compile_regex(pattern).work <= estimate_work(pattern) < MAX_REGEX_WORK


def test_an_ordinary_expression_is_estimated_as_cheap_to_compile():
    assert [estimate_work(pattern) for pattern in (r"\bvip\b", r"^\S+@\S+\.\S+$", r"\pL+")] == [575, 750, 3_000]


@pytest.mark.parametrize(
    "patterns",
    [
        [rf"\pL{{20}}{number}" for number in range(12)],
        [rf"(?:[^a]{{1,30}}x){{25}}{number}" for number in range(60)],
        ["".join(f"[{chr(0x4E00 + 7 * at + k)}é]" for at in range(100)) for k in range(150)],
    ],
    ids=["classes", "counts", "letters"],
)
def test_the_expressions_of_a_new_filter_may_not_be_too_large_together(patterns):
    document = {"$and": [{"payload.a": {"$regex": pattern}} for pattern in patterns]}
    with pytest.raises(RuleError, match="too large together") as refusal:
        compile_filter(document, MAX_REGEX_WORK)
    assert refusal.value.pointer.startswith("/$and/")
    assert compile_filter({"$and": document["$and"][:2]}, MAX_REGEX_WORK)


def test_a_filter_that_is_stored_is_compiled_whatever_it_costs():
    document = {"$and": [{"payload.a": {"$regex": rf"\pL{{20}}{number}"}} for number in range(3)]}
    assert compile_filter(document)
    with pytest.raises(RuleError, match="too large together"):
        compile_filter(document, MAX_REGEX_WORK)


def test_one_expression_many_times_costs_once():
    document = {"$and": [{"payload.a": {"$regex": r"\pL{20}"}}] * 150}
    assert 2 * compile_regex(r"\pL{20}").work < MAX_REGEX_WORK < 150 * compile_regex(r"\pL{20}").work
    assert compile_filter(document, MAX_REGEX_WORK)


ATOMS = [
    "a", "b", "é", "1", " ", ".", "(?s:.)", "[ab]", "[^a]", "[é-ü]", r"\w", r"\W", r"\d", r"\s", r"\pL", r"\PL",
    r"\p{Lu}", "^", "$", r"\A", r"\z",
    r"\b", r"\B", "(?m:^)", "(?m:$)", "()", "(?i:k)", "(?i:é)", "(?i:[^é])",
    r"\x{e9}", r"\351", r"\n", "{", "[[:alpha:]]", "[]a]", r"\Qa*\E",
]  # fmt: skip
QUANTIFIERS = ["", "", "", "*", "+", "?", "??", "{0}", "{1}", "{2}", "{0,1}", "{2,}", "{1,3}", "{0,2}?"]


def _repeated(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(part, st.sampled_from(QUANTIFIERS)).map("".join)


def _grouped(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    opening = st.sampled_from(["(", "(?:", "(?i)(", "(?m)(", "(?s:", "(?i:", "(?m:", "(?P<n>", "(?U:"])
    whole = st.lists(st.lists(inner, max_size=3).map("".join), min_size=1, max_size=3).map("|".join)
    return _repeated(st.tuples(opening, whole, st.just(")")).map("".join)) | whole


PATTERNS = st.recursive(_repeated(st.sampled_from(ATOMS)), _grouped, max_leaves=12)
TEXTS = st.text("ab1B éÉükK\u212a\n{*-_中ж\ud800", max_size=30)


@settings(max_examples=400, deadline=None)
@given(PATTERNS, TEXTS)
@example("^?vip", "a customer who is vip")
@example("^*vip", "a customer who is vip")
@example("^{0}vip", "a customer who is vip")
@example("^{0,1}vip", "a customer who is vip")
@example(r"\A?vip", "a customer who is vip")
@example("(?:^)?vip", "a customer who is vip")
@example("(^)*vip", "a customer who is vip")
@example("(^|)vip", "a customer who is vip")
@example("^(?i)?vip", "a customer who is vip")
@example("(?m)^vip", "a\nvip")
@example("^a(?i)*b", "aaaaaab")
@example("^a{٣}", "a{٣}")
@example(r"\Qa", "xxa")
@example(r"(^a|^b)c$", "bc")
def test_every_expression_finds_what_re2_finds(pattern, text):
    try:
        plain = re2.compile(pattern, _quiet())
    except re2.error:
        with pytest.raises(ValueError, match=r"."):
            compile_regex(pattern)
        return
    found = plain.search(text.encode("utf-8", "surrogatepass")) is not None
    regex = compile_regex(pattern)
    assert regex.is_found(text, Meter(10**9)) is found
    assert regex.work <= estimate_work(pattern)


def _quiet() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    return options
