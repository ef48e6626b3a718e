import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.mixpanel import Mixpanel
from tests.meshes.dev.vendors.calling import basic, call

PATH = "/import?strict=1"


@pytest.fixture
def mixpanel() -> Iterator[Mixpanel]:
    with Mixpanel() as server:
        yield server


def event(name: Any = "lead.created", **properties: Any) -> dict[str, Any]:
    known = {"time": 1_790_000_000, "distinct_id": "u-1", "$insert_id": "e-1"}
    return {"event": name, "properties": {**known, **properties}}


def send(mixpanel: Mixpanel, *events: Any, path: str = PATH, **options: Any) -> requests.Response:
    return call(mixpanel, "POST", path, list(events), **{"headers": basic(mixpanel.token), **options})


def test_events_are_stored_once(mixpanel):
    for _ in range(2):
        answer = send(mixpanel, event())
        assert (answer.status_code, answer.json()) == (200, {"code": 200, "num_records_imported": 1, "status": "OK"})
    send(mixpanel, event(distinct_id="u-2"))
    assert mixpanel.state.events == [event(), event(distinct_id="u-2")]


def test_a_400_stores_the_others(mixpanel):
    answer = send(mixpanel, event(), event(distinct_id="anonymous"), event(**{"$insert_id": "e-2"}))
    document = answer.json()
    assert (answer.status_code, document["num_records_imported"]) == (400, 2)
    (failed,) = document["failed_records"]
    assert (failed["index"], failed["insert_id"], failed["field"]) == (1, "e-1", "properties.distinct_id")
    assert len(mixpanel.state.events) == 2


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ("x", "properties"),
        ({"event": "a"}, "properties"),
        (event(""), "event"),
        (event(time="now"), "properties.time"),
        (event(time=True), "properties.time"),
        (event(distinct_id="NULL"), "properties.distinct_id"),
        (event(distinct_id=5), "properties.distinct_id"),
        (event(**{"$insert_id": "x" * 37}), "properties.$insert_id"),
        (event(**{"$insert_id": "a_b"}), "properties.$insert_id"),
        (event(**{f"p{n}": n for n in range(252)}), "properties"),
    ],
)
def test_what_is_wrong_with_an_event_is_named(mixpanel, wrong, name):
    assert [each["field"] for each in send(mixpanel, wrong).json()["failed_records"]] == [name]
    assert mixpanel.state.events == []


def test_without_strict_failures_are_silent(mixpanel):
    answer = send(mixpanel, event(""), path="/import")
    assert (answer.status_code, answer.json()["num_records_imported"]) == (200, 0)


def test_lines_and_gzip_are_read(mixpanel):
    lines = "\n".join(json.dumps(event(**{"$insert_id": f"e-{n}"})) for n in range(2)).encode()
    headers = {**basic(mixpanel.token), "content-type": "application/x-ndjson", "content-encoding": "gzip"}
    answer = call(mixpanel, "POST", PATH, data=gzip.compress(lines), headers=headers)
    assert answer.json()["num_records_imported"] == 2
    assert call(mixpanel, "POST", PATH, data=b"no gzip", headers=headers).status_code == 400


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"{}", "application/json", 400),
        (b"{", "application/x-ndjson", 400),
        (b"[]", "text/plain", 400),
        (b" " * (10 * 1024 * 1024 + 1), "application/json", 413),
    ],
)
def test_a_body_of_the_wrong_form_is_refused(mixpanel, body, media_type, status):
    headers = {**basic(mixpanel.token), "content-type": media_type}
    assert call(mixpanel, "POST", PATH, data=body, headers=headers).status_code == status


def test_more_than_2000_events_are_too_many(mixpanel):
    assert send(mixpanel, *[event()] * 2001).status_code == 413
    assert mixpanel.state.events == []


def test_credentials_are_a_token_or_a_service_account_with_its_project(mixpanel):
    service = basic(*mixpanel.service_account.rsplit(":", 1))
    assert send(mixpanel, event(), headers=service, path=f"{PATH}&project_id=3187531").status_code == 200
    assert send(mixpanel, event(), headers=service).status_code == 401
    assert send(mixpanel, event(), headers=basic("wrong")).json()["code"] == 401
    assert send(mixpanel, event(), headers=basic(mixpanel.token, "secret")).status_code == 401
