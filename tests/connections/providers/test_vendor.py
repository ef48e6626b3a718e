import pytest

from connections.messages import Request
from connections.providers.base import Account, Action, Granted, MappingField, NotAuthorized, Unsendable
from connections.providers.vendor import (
    MAX_URL_PART,
    VALUE_REFUSED,
    Vendor,
    filled,
    json_request,
    listed,
    typed,
    url_part,
)
from connections.providers.verdicts import retry
from tests.connections.providers.exchanges import reply
from tests.connections.providers.shipments import as_secrets, shipment


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
    opened = shipment(credentials=as_secrets({"user": "ada", "password": "pä:ss", "key": "key"}))
    assert filled("Basic {user}:{password}", opened) == (("authorization", "Basic YWRhOnDDpDpzcw=="),)
    assert filled("Basic {key}:", opened) == (("authorization", "Basic a2V5Og=="),)


def test_a_credential_that_looks_like_a_place_for_one_is_taken_as_it_is():
    opened = shipment(credentials=as_secrets({"token": "a{other} b", "other": "x"}))
    assert filled("Bearer {token}", opened) == (("authorization", "Bearer a{other} b"),)
    assert filled("", opened) == ()


def test_a_list_of_choices_is_found_by_its_path():
    assert listed(reply(body={"a": {"b": [{"id": 1}, "x", None]}}), "a", "b") == [{"id": 1}]
    assert listed(reply(body=[{"id": 1}])) == [{"id": 1}]


@pytest.mark.parametrize("document", [None, b"<html>", [], {}, {"a": None}, {"a": {"id": 1}}, {"a": "x"}])
def test_an_answer_without_the_list_is_refused(document):
    with pytest.raises(Unsendable, match="could not be read"):
        listed(reply(body=document), "a")


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


class Declared(Vendor):
    slug = name = "Declared"
    authorization = "Token {key}"
    base_urls = {"": "https://a.example"}
    headers = (("version", "2"),)
    code_at, message_at = ("errors", 0, "code"), ("message",)
    limit_headers = ("left", "reset", None)
    account_at = (("account", "id"), ("account", "name"))
    granted = {"host": ("reply", "host"), "dc": ("details", "dc")}
    granted_account_at = (("details", "id"), ("details", "name"))
    repeatable = ("/search",)
    test_path = "/me"
    answers = {("full", 409): retry("{name} is full.", "locked", 5), 400: VALUE_REFUSED}
    actions = (Action("send", "Send", idempotent=False),)

    def is_done(self, response, action):
        return True


def test_a_call_has_the_declared_headers_after_the_credentials():
    request = Declared().call("POST", "/x", shipment(credentials=as_secrets({"key": "k3y"})), {}, ("z", "1"))
    headers = (("content-type", "application/json"), ("authorization", "Token k3y"), ("version", "2"), ("z", "1"))
    assert (request.url, request.headers) == ("https://a.example/x", headers)
    with pytest.raises(NotAuthorized, match="no key yet"):
        Declared().build_test(shipment(credentials={}))


@pytest.mark.parametrize(
    ("status", "body", "error_class", "words"),
    [
        (403, {"errors": [{"code": "full"}], "message": "no"}, "locked", "Declared is full. Declared: “no”"),
        (409, {}, "locked", "Declared is full."),
        (400, {"errors": [{"code": "else"}]}, "rejected", "Declared refuses a value. Mend the rule's mapping."),
        (200, {"errors": [{"code": "full"}]}, "", ""),
        (401, b"<html>", "unauthorized", "Declared does not accept the credentials (401). Replace them, then test the"
         " connection."),
    ],
)  # fmt: skip
def test_an_answer_is_read_by_its_code_and_then_by_its_status(status, body, error_class, words):
    verdict = Declared().classify(reply(status, body), "send")
    assert (verdict.error_class, verdict.words) == (error_class, words)


@pytest.mark.parametrize(
    ("headers", "rest", "wait"),
    [({"left": "1"}, None, None), ({"left": "0"}, None, None), ({"left": "0", "reset": "0"}, None, 0.0),
     ({"left": "0", "reset": "7"}, 7.0, 7.0), ({"reset": "7"}, None, None)],
)  # fmt: skip
def test_a_limit_that_ends_at_once_is_not_one_without_an_end(headers, rest, wait):
    verdict = Declared().classify(reply(503, {}, **headers), "send")
    assert (verdict.rest_seconds, verdict.retry_after_seconds) == (rest, wait)


def test_an_account_and_a_grant_are_found_where_they_are_declared():
    provider = Declared()
    assert provider.read_account(reply(200, {"account": {"id": 7, "name": "Acme"}})) == Account("7", "Acme")
    assert provider.read_account(reply(200, {"account": {}})) is None
    granted = provider.read_grant({"host": "h"}, {"dc": "us1", "id": "7"})
    assert granted == Granted({"host": "h", "dc": "us1"}, Account("7", ""))


def test_a_search_by_post_may_be_repeated():
    posts = [Request("POST", f"https://a.example/{end}") for end in ("search", "contacts")]
    assert [Declared().may_repeat("send", request) for request in posts] == [True, False]
