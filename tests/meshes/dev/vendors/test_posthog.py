from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.posthog import PostHog
from tests.meshes.dev.vendors.calling import call

UUID = "0190a0a0-0000-7000-8000-000000000001"


@pytest.fixture
def posthog() -> Iterator[PostHog]:
    with PostHog() as server:
        yield server


def event(**given: Any) -> dict[str, Any]:
    return {"event": "lead.created", "distinct_id": "u-1", "uuid": UUID, "properties": {}, **given}


def send(posthog: PostHog, **given: Any) -> requests.Response:
    return call(posthog, "POST", "/i/v0/e/", {"api_key": posthog.token, **event(**given)})


def test_events_are_stored_once_for_each_uuid(posthog):
    for _ in range(2):
        answer = send(posthog)
        assert (answer.status_code, answer.json()) == (200, {"status": "Ok"})
    assert call(posthog, "POST", "/batch/", {"api_key": posthog.token, "batch": [event(uuid=None)]}).status_code == 200
    assert posthog.state.events == [event(), event(uuid=None)]


def test_an_unknown_key_or_a_bad_uuid_gets_a_200_and_the_event_is_lost(posthog):
    assert send(posthog, api_key="phc_other").json() == {"status": "Ok"}
    assert send(posthog, uuid="e-1").json() == {"status": "Ok"}
    assert (posthog.state.events, len(posthog.lost)) == ([], 2)


def test_beyond_the_quota_events_are_lost_under_a_200(posthog):
    posthog.over_quota = True
    answer = send(posthog)
    assert (answer.status_code, answer.json()) == (200, {"status": "Ok", "quota_limited": ["events"]})
    assert (posthog.state.events, len(posthog.lost)) == ([], 1)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"event": ""}, 400),
        ({"event": None}, 400),
        ({"distinct_id": 5}, 400),
        ({"api_key": ""}, 401),
        ({"api_key": 5}, 401),
        ({"api_key": "two words"}, 401),
        ({"token": "phc_another"}, 401),
    ],
)
def test_a_wrong_event_or_key_is_refused(posthog, given, status):
    assert send(posthog, **given).status_code == status
    assert posthog.state.events == posthog.lost == []


def test_a_body_beyond_20_mib_is_refused(posthog):
    answer = call(posthog, "POST", "/i/v0/e/", data=b" " * (20 * 1024 * 1024 + 1))
    assert answer.status_code == 413


def test_an_empty_batch_is_refused(posthog):
    assert call(posthog, "POST", "/batch/", {"api_key": posthog.token, "batch": []}).status_code == 400


def test_a_personal_key_shows_whose_it_is(posthog):
    assert call(posthog, "GET", "/api/users/@me/", token="phx_personal").json()["email"] == "me@acme.example"
    assert call(posthog, "GET", "/api/users/@me/").status_code == 401
