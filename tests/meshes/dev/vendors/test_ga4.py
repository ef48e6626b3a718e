import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.ga4 import GA4
from tests.meshes.dev.vendors.calling import call

EVENT = {"name": "generate_lead", "params": {"session_id": "1", "engagement_time_msec": 100}}


@pytest.fixture
def ga4() -> Iterator[GA4]:
    with GA4() as server:
        yield server


def collect(ga4: GA4, document: Any, **query: str) -> requests.Response:
    asked = {"measurement_id": ga4.account, "api_secret": ga4.token, **query}
    answer = call(ga4, "POST", "/mp/collect", document, params=asked)
    assert (answer.status_code, answer.content) == (204, b"")
    return answer


def test_events_are_stored(ga4):
    collect(ga4, {"client_id": "123.456", "events": [EVENT]})
    assert ga4.state.events == [{"client_id": "123.456", **EVENT}]


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ([], "VALUE_REQUIRED"),
        ({"events": [EVENT]}, "VALUE_REQUIRED"),
        ({"client_id": "1.2", "events": []}, "VALUE_INVALID"),
        ({"client_id": "1.2", "events": [EVENT] * 26}, "VALUE_INVALID"),
        ({"client_id": "1.2", "events": [{"name": "lead.created"}]}, "NAME_INVALID"),
        ({"client_id": "1.2", "events": [{"name": "ga_lead"}]}, "NAME_RESERVED"),
        ({"client_id": "1.2", "events": [{"name": "x" * 41}]}, "NAME_INVALID"),
        ({"client_id": "1.2", "events": ["x"]}, "NAME_INVALID"),
        ({"client_id": "1.2", "events": [{"name": "a", "params": {f"p{n}": 1 for n in range(26)}}]},
         "EXCEEDED_MAX_ENTITIES"),
        ({"client_id": "1.2", "events": [{"name": "a", "params": {"p": "x" * 101}}]}, "VALUE_INVALID"),
        ({"client_id": "1.2", "events": [{"name": "a", "params": {"p": {}}}]}, "VALUE_INVALID"),
        ({"client_id": "1.2", "events": [{"name": "a", "params": {"a.b": 1}}]}, "NAME_INVALID"),
        ({"client_id": "1.2", "events": [EVENT], "timestamp_micros": 1}, "VALUE_OUT_OF_BOUNDS"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_lost_under_a_204_and_only_the_debug_endpoint_tells(ga4, document, code):
    collect(ga4, document)
    assert (ga4.state.events, len(ga4.lost)) == ([], 1)
    messages = call(ga4, "POST", "/debug/mp/collect", document).json()["validationMessages"]
    assert messages[0]["validationCode"] == code


def test_a_body_that_is_no_json_gets_a_204_too(ga4):
    answer = call(ga4, "POST", "/mp/collect", data=b"{", params={"api_secret": ga4.token})
    assert (answer.status_code, ga4.lost) == (204, [b"{"])


@pytest.mark.parametrize("query", [{"api_secret": "wrong"}, {"measurement_id": "G-OTHER"}])
def test_a_wrong_secret_or_stream_is_lost_and_the_debug_endpoint_does_not_know(ga4, query):
    document = {"client_id": "1.2", "events": [EVENT], "timestamp_micros": int(time.time() * 1e6)}
    collect(ga4, document, **query)
    assert (ga4.state.events, len(ga4.lost)) == ([], 1)
    assert call(ga4, "POST", "/debug/mp/collect", document, params=query).json() == {"validationMessages": []}
