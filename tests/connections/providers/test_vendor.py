from datetime import UTC, datetime, timedelta

import pytest

from connections.providers.answers import seconds_until, shown
from connections.providers.base import MappingField, Unsendable
from connections.providers.vendor import FULL_NAME, MAX_URL_PART, basic, json_request, listed, typed, url_part
from delivery.rules.expressions import compile_expression
from meshes.kit.metering import Meter
from tests.connections.providers.exchanges import reply

DATE = "Wed, 04 Mar 2026 05:06:07 GMT"
AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("ada@example.com", "ada%40example.com"),
        ("a/b", "a%2Fb"),
        ("../admin", "..%2Fadmin"),
        ("a?b=c&d#e", "a%3Fb%3Dc%26d%23e"),
        ("a%2Fb", "a%252Fb"),
        ("a b\n", "a%20b%0A"),
        ("jürgen", "j%C3%BCrgen"),
        ("evt_1-2.3~", "evt_1-2.3~"),
        ("...", "..."),
        ("x" * MAX_URL_PART, "x" * MAX_URL_PART),
    ],
)
def test_a_value_in_a_url_reaches_nothing_beside_it(text, part):
    assert url_part(text) == part


@pytest.mark.parametrize("text", [".", "..", "x" * (MAX_URL_PART + 1), "é" * (MAX_URL_PART // 6 + 1)])
def test_a_value_that_cannot_stand_in_a_url_is_refused(text):
    with pytest.raises(Unsendable, match="cannot stand in a URL"):
        url_part(text)


def test_a_body_is_json_without_spaces_and_of_the_type_that_is_asked_for():
    request = json_request("POST", "https://a", {"a": ["é", 1]}, ("x", "y"), content_type="application/vnd.api+json")
    assert request.headers == (("content-type", "application/vnd.api+json"), ("x", "y"))
    assert request.body == '{"a":["é",1]}'.encode()


def test_basic_authentication_is_utf_8():
    assert basic("ada", "pä:ss") == ("authorization", "Basic YWRhOnDDpDpzcw==")
    assert basic("key") == ("authorization", "Basic a2V5Og==")


@pytest.mark.parametrize(
    ("moment", "seconds"), [(AT + 7, 7.0), (AT, 0.0), (AT - 100, 0.0), (AT + 999_999, 86_400.0), (1e10, 86_400.0)]
)
def test_a_moment_is_measured_by_the_answer_s_own_clock(moment, seconds):
    assert seconds_until(reply(date=DATE), moment) == seconds


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}])
def test_without_the_answer_s_clock_a_moment_is_measured_by_ours(headers):
    moment = (datetime.now(UTC) + timedelta(minutes=10)).timestamp()
    assert 590 < seconds_until(reply(**headers), moment) <= 600


def test_a_list_of_choices_is_found_by_its_path():
    assert listed(reply(body={"a": {"b": [{"id": 1}, "x", None]}}), "a", "b") == [{"id": 1}]
    assert listed(reply(body=[{"id": 1}])) == [{"id": 1}]


@pytest.mark.parametrize("document", [None, b"<html>", [], {}, {"a": None}, {"a": {"id": 1}}, {"a": "x"}])
def test_an_answer_without_the_list_is_refused(document):
    with pytest.raises(Unsendable, match="could not be read"):
        listed(reply(body=document), "a")


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        ({"name": "Ada L", "first_name": "X"}, "Ada L"),
        ({"first_name": "Ada", "last_name": "L"}, "Ada L"),
        ({"first_name": "Ada"}, "Ada"),
        ({"first_name": "", "last_name": "L"}, "L"),
        ({"first_name": "", "last_name": ""}, None),
        ({"full_name": "Ada L"}, "Ada L"),
        ({}, None),
    ],
)
def test_a_full_name_is_put_together_from_its_parts(payload, name):
    assert compile_expression(FULL_NAME).evaluate({"payload": payload}, Meter(10_000)) == name


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("  a\n  b\tc  ", "a b c"),
        ('value "  nia@example.com " is bad', 'value "  nia@example.com " is bad'),
        ('value "a\u00a0b\t" is\n bad', 'value "a\\xa0b\\t" is bad'),
        ("“ x  ” and ` y  `", "“ x  ” and ` y  `"),
        ("x" * 301, "x" * 299 + "…"),
    ],
)
def test_a_vendor_s_message_is_one_line_and_what_it_quotes_keeps_its_spaces(message, line):
    assert shown(message) == line


@pytest.mark.parametrize(
    ("kind", "value", "made"),
    [
        ("string", 42, "42"), ("string", 42.0, "42"), ("string", 1.5, "1.5"), ("string", " a ", "a"),
        ("string", "", ""),
        ("string", 10**20, "1" + "0" * 20), ("number", " 1.50 ", 1.5), ("number", "12", 12), ("number", 7, 7),
        ("number", "9007199254740993", 9007199254740993), ("number", "", None), ("boolean", "true", True),
        ("boolean", False, False), ("object", {"a": " b "}, {"a": " b "}), ("array", [" a "], [" a "]), ("any", 1, 1),
        ("any", " a ", "a"), ("object", "", None),
    ],
)  # fmt: skip
def test_a_value_takes_the_type_of_its_field(kind, value, made):
    assert typed(MappingField("x", "X", kind), value) == made


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("string", True, "x must be text"), ("string", ["a"], "x must be text"),
        ("number", "007", "x must be a number"),
        ("number", "1.00000000000000000001", "x must be a number"), ("number", True, "x must be a number"),
        ("boolean", 1, "x must be true or false"), ("object", "a", "x must be an object"),
        ("array", {}, "x must be an array"),
    ],
)  # fmt: skip
def test_a_value_that_would_lose_something_is_refused(kind, value, words):
    with pytest.raises(Unsendable, match=words):
        typed(MappingField("x", "X", kind), value)
