from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.amplitude import Amplitude
from tests.meshes.dev.vendors.calling import call


@pytest.fixture
def amplitude() -> Iterator[Amplitude]:
    with Amplitude() as server:
        yield server


def event(**given: Any) -> dict[str, Any]:
    known = {"user_id": "user-1", "event_type": "lead.created", "time": 1_790_000_000_000, "insert_id": "e-1"}
    return {name: value for name, value in {**known, **given}.items() if value is not None}


def send(amplitude: Amplitude, *events: Any, path: str = "/2/httpapi", **document: Any) -> requests.Response:
    return call(amplitude, "POST", path, {"api_key": amplitude.token, "events": list(events), **document})


@pytest.mark.parametrize("path", ["/2/httpapi", "/batch"])
def test_events_are_stored_once_for_each_device(amplitude, path):
    for device in ("device-1", "device-1", "device-2"):
        answer = send(amplitude, event(device_id=device), path=path)
        assert (answer.status_code, answer.json()["code"], answer.json()["events_ingested"]) == (200, 200, 1)
    assert [each["device_id"] for each in amplitude.state.events] == ["device-1", "device-2"]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (event(user_id="u"), {"events_with_invalid_id_lengths": {"user_id": [1]}}),
        (event(user_id=None), {"events_with_missing_fields": {"user_id": [1]}}),
        (event(event_type=""), {"events_with_missing_fields": {"event_type": [1]}}),
        (event(time="now"), {"events_with_invalid_fields": {"time": [1]}}),
        (event(event_properties=[]), {"events_with_invalid_fields": {"event_properties": [1]}}),
    ],
)
def test_one_wrong_event_refuses_them_all_and_is_named(amplitude, wrong, problem):
    answer = send(amplitude, event(), wrong)
    assert (answer.status_code, answer.json()) == (400, {"code": 400, "error": "Request has invalid events", **problem})
    assert amplitude.state.events == []


def test_the_shortest_id_is_an_option(amplitude):
    assert send(amplitude, event(user_id="u"), options={"min_id_length": 1}).status_code == 200


def test_the_key_is_checked(amplitude):
    assert send(amplitude, event(), api_key="wrong").json() == {"code": 400, "error": "Invalid API key: wrong"}
    missing = call(amplitude, "POST", "/2/httpapi", {"events": [event()]})
    assert (missing.status_code, missing.json()["missing_field"]) == (400, "api_key")
    assert send(amplitude).json()["missing_field"] == "events"
    assert amplitude.state.events == []


def test_too_much_at_once_is_refused(amplitude):
    assert send(amplitude, *[event()] * 2001).status_code == 413
    assert send(amplitude, event(event_properties={"a": "x" * 1024 * 1024})).status_code == 413
    assert send(amplitude, event(event_properties={"a": "x" * 1024 * 1024}), path="/batch").status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "sign"),
    [
        ("THROTTLED", 429, "throttled_users"),
        ("DAILY_QUOTA", 429, "exceeded_daily_quota_users"),
        ("SILENCED", 400, "silenced_events"),
    ],
)
def test_troubles(amplitude, fault, status, sign):
    amplitude.fail_next(fault)
    answer = send(amplitude, event())
    assert answer.status_code == status
    assert answer.json()[sign]
    assert amplitude.state.events == []


def test_an_event_that_is_none_is_refused(amplitude):
    assert send(amplitude, "lead.created").status_code == 400


def test_the_limit_has_amplitude_s_form(amplitude):
    amplitude.limit(0, 60)
    answer = send(amplitude, event())
    assert (answer.status_code, answer.json()["eps_threshold"]) == (429, 30)
