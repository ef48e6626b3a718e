"""That the judges refuse what they should, tried on descriptions of a line; the vendors' own are not here."""

import json

import pytest

from tests.judges.described import OpenApi
from tests.judges.sending import Sent
from tests.judges.words import Rule, host_is, judging, texts_at

LEAD = {
    "type": "object",
    "properties": {
        "email": {"type": "string"},
        "tags": {"type": "array", "items": {"$ref": "#/components/schemas/Tag"}},
    },
}
PIGEON = {
    "openapi": "3.0.1",
    "servers": [{"url": "https://api.pigeon.example"}],
    "paths": {
        "/leads/{id}": {
            "put": {
                "parameters": [{"in": "header", "name": "Pigeon-Version", "required": True}],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Lead"}}}},
            }
        }
    },
    "components": {"schemas": {"Lead": LEAD, "Tag": {"type": "object", "properties": {"name": {"type": "string"}}}}},
}


def sent(document, url="https://api.pigeon.example/leads/7", method="PUT", **headers):
    given = {"content-type": "application/json", "pigeon-version": "1"} | headers
    return Sent(method, url, given, json.dumps(document).encode())


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (sent({"email": "a@example.com", "tags": [{"name": "x"}]}), []),
        (sent({"email": 42}), ["/email: 42 is not of type 'string'"]),
        (sent({"tags": [{"name": 7}]}), ["/tags/0/name: 7 is not of type 'string'"]),
        (sent({"mail": "a@example.com"}), ["/mail is declared nowhere"]),
        (sent({"tags": [{"nme": "x"}]}), ["/tags/0/nme is declared nowhere"]),
        (
            sent({}, "https://eu.pigeon.example/leads/7"),
            ["the host eu.pigeon.example is none of ['https://api.pigeon.example']"],
        ),
        (
            sent({}, **{"content-type": "text/plain"}),
            ["the content type is text/plain, not one of ['application/json']"],
        ),
        (sent({}, "https://api.pigeon.example/doves/7"), None),
        (sent({}, method="POST"), None),
    ],
    ids=["right", "type", "type inside", "unknown", "unknown inside", "host", "content type", "path", "method"],
)
def test_a_request_is_held_against_a_description(tmp_path, request_, told):
    (tmp_path / "pigeon.json").write_text(json.dumps(PIGEON))
    assert OpenApi(tmp_path / "pigeon.json")(request_) == told


def test_a_header_that_the_description_requires_is_missed(tmp_path):
    (tmp_path / "pigeon.json").write_text(json.dumps(PIGEON))
    bare = Sent("PUT", "https://api.pigeon.example/leads/7", {"content-type": "application/json"}, b"{}")
    assert OpenApi(tmp_path / "pigeon.json")(bare) == ["the header Pigeon-Version is missing"]


def test_a_rule_by_words_tells_what_breaks_it_and_where_it_stands():
    rule = Rule(
        "Names are texts",
        "https://pigeon.example/docs",
        texts_at(r"/name", lambda value: isinstance(value, str), "no text"),
    )
    assert judging(rule)(sent({"name": 1})) == ["/name is 1: no text (https://pigeon.example/docs)"]
    assert judging(rule)(sent({"name": "Ada", "age": 1})) == []


def test_a_quotation_must_stand_in_the_page(tmp_path):
    (tmp_path / "page.md").write_text("All names\nare `texts`, always.")
    assert Rule("All names are texts", "", host_is("x"), "page.md").stands_in(tmp_path)
    assert not Rule("All names are numbers", "", host_is("x"), "page.md").stands_in(tmp_path)


def test_a_host_is_asked_for_in_its_region_only():
    rule = judging(Rule("", "docs", host_is("eu.pigeon.example", region="eu")))
    request = Sent("GET", "https://us.pigeon.example/", {}, b"", {"region": "eu"})
    assert rule(request) == ["the host is us.pigeon.example (docs)"]
    assert rule(Sent("GET", "https://us.pigeon.example/", {}, b"", {"region": "us"})) == []
