from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.segment import Segment
from tests.meshes.dev.vendors.calling import basic, call

TRACK = {"userId": "u-1", "event": "lead.created", "messageId": "m-1", "properties": {"source": "web"}}


@pytest.fixture
def segment() -> Iterator[Segment]:
    with Segment() as server:
        yield server


def send(segment: Segment, path: str, document: Any, key: str = "") -> requests.Response:
    answer = call(segment, "POST", path, document, headers=basic(key or segment.token))
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    return answer


def test_events_arrive_once_for_each_message_id(segment):
    for _ in range(2):
        send(segment, "/v1/track", TRACK)
    send(segment, "/v1/identify", {"anonymousId": "a-1", "traits": {}, "messageId": "m-2"})
    assert segment.state.events == [
        {"type": "track", **TRACK},
        {"type": "identify", "anonymousId": "a-1", "traits": {}, "messageId": "m-2"},
    ]


def test_a_write_key_may_stand_in_the_body(segment):
    answer = requests.post(segment.url + "/v1/track", json={**TRACK, "writeKey": segment.token}, timeout=10)
    assert answer.json() == {"success": True}
    assert len(segment.state.events) == 1


@pytest.mark.parametrize(
    "document",
    [
        {"event": "lead.created"},
        {"userId": "u-1"},
        {**TRACK, "messageId": "m" * 101},
    ],
)
def test_what_it_cannot_use_gets_a_200_and_is_lost(segment, document):
    send(segment, "/v1/track", document)
    assert (segment.state.events, segment.lost) == ([], [{"type": "track", **document}])


def test_a_wrong_write_key_gets_a_200_and_data_is_lost(segment):
    send(segment, "/v1/track", TRACK, key="wrong")
    assert (segment.state.events, len(segment.lost)) == ([], 1)


def test_a_batch_is_cut_after_2500_events(segment):
    events = [{"type": "identify", "userId": "u"} for _ in range(2501)]
    send(segment, "/v1/batch", {"batch": events})
    assert (len(segment.state.events), len(segment.lost)) == (2500, 1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/track", b"{"),
        ("/v1/track", b'{"a":"' + b"x" * 32 * 1024 + b'"}'),
        ("/v1/batch", b'{"batch":{}}'),
        ("/v1/batch", b'{"a":"' + b"x" * 500 * 1024 + b'"}'),
    ],
)
def test_only_what_cannot_be_read_or_is_too_large_is_refused(segment, path, body):
    headers = {**basic(segment.token), "content-type": "application/json"}
    answer = call(segment, "POST", path, data=body, headers=headers)
    assert (answer.status_code, answer.json()["success"]) == (400, False)
    assert segment.state.events == segment.lost == []
