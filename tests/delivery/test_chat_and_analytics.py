"""One event to each chat, mail and analytics vendor by its default mapping: routed, sent over real HTTP, settled."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from connections import providers
from connections.messages import PLACES, Room
from delivery.models import Attempt, Delivery
from delivery.rules import preview
from delivery.serializers import AttemptOut
from tests.factories import deliver, fan_out, make_connection, make_event, make_rule, make_workspace

pytestmark = pytest.mark.django_db

CANARY = "canary9f3c0123456789"
PAYLOAD = {"email": "ada@example.com", "first_name": "Ada", "user_id": "user-1", "client_id": "1.2", "source": "web"}
FLOW = f"https://a.environment.api.powerplatform.com/workflows/1/triggers/manual/paths/invoke?sig={CANARY}"


@dataclass(frozen=True)
class Case:
    """One action at a vendor: what its connection holds, what the vendor answers, where the first request must go."""

    slug: str
    action: str
    secret: dict[str, str]
    path: str
    status: int = 200
    body: bytes = b"{}"
    config: dict[str, Any] = field(default_factory=dict)
    mapping: list[dict[str, Any]] | None = None

    def __str__(self) -> str:
        return f"{self.slug}.{self.action}"


def value(to: str, literal: Any) -> dict[str, Any]:
    return {"to": to, "value": literal}


HOOK = f"https://hooks.slack.com/services/T1/B1/{CANARY}"
DISCORD = f"https://discord.com/api/webhooks/1/{CANARY}"
EMAIL = [value("subject", "Welcome"), value("text", "Hello")]
KEY = {"api_key": CANARY}
CASES = [
    Case("slack", "send_webhook", {"webhook_url": HOOK}, f"/services/T1/B1/{CANARY}", body=b"ok"),
    Case(
        "slack", "post_message", {"access_token": CANARY}, "/api/chat.postMessage", body=b'{"ok":true}',
        mapping=[value("channel", "C1")],
    ),
    Case(
        "discord", "send_message", {"webhook_url": DISCORD}, f"/api/v10/webhooks/1/{CANARY}?wait=true",
        body=b'{"id":"1"}',
    ),
    Case(
        "teams", "send_message", {"webhook_url": FLOW}, f"/workflows/1/triggers/manual/paths/invoke?sig={CANARY}", 202
    ),
    Case(
        "resend", "send_email", KEY, "/emails", body=b'{"id":"e1"}', config={"sender": "crm@example.com"},
        mapping=EMAIL,
    ),
    Case("resend", "upsert_contact", KEY, "/contacts/ada%40example.com", body=b'{"id":"c1"}'),
    Case("resend", "send_event", KEY, "/events/send", 202, b'{"event":"lead.created"}'),
    Case("segment", "track", {"write_key": CANARY}, "/v1/track", body=b'{"success":true}'),
    Case("segment", "identify", {"write_key": CANARY}, "/v1/identify", body=b'{"success":true}'),
    Case("mixpanel", "track", {"project_token": CANARY}, "/import?strict=1&ip=0", body=b'{"num_records_imported":1}'),
    Case("amplitude", "track", KEY, "/2/httpapi", body=b'{"code":200,"events_ingested":1}'),
    Case("posthog", "track", KEY, "/i/v0/e/", body=b'{"status":"Ok"}'),
    Case(
        "ga4", "track", {"api_secret": CANARY}, f"/mp/collect?measurement_id=G-1&api_secret={CANARY}", 204, b"",
        config={"measurement_id": "G-1"},
    ),
]  # fmt: skip


def delivered(case: Case, endpoint, monkeypatch) -> Delivery:
    provider = providers.get(case.slug)
    monkeypatch.setattr(provider, "override", endpoint.url.rpartition("/")[0])
    endpoint.answer(case.status, body=case.body)
    target = make_connection(
        make_workspace(), type=case.slug, config=provider.clean_config(case.config), secret=case.secret
    )
    make_rule(target, action=case.action, mapping=case.mapping)
    event = make_event(target.workspace, PAYLOAD)
    fan_out([event.pk])
    delivery = Delivery.objects.get(event=event)
    deliver(delivery)
    return delivery


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_event_reaches_the_vendor_by_the_default_mapping(case, endpoint, monkeypatch):
    delivery = delivered(case, endpoint, monkeypatch)
    assert (delivery.status, [got.path for got in endpoint.got]) == ("succeeded", [case.path])
    agent = "DiscordBot (Meshes, 0.1)" if case.slug == "discord" else "Meshes/0.1"
    assert endpoint.got[0].headers["user-agent"] == agent


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_recorded_of_it_holds_a_secret(case, endpoint, monkeypatch):
    attempt = Attempt.objects.get(delivery=delivered(case, endpoint, monkeypatch))
    answer = bytes(attempt.response_body or b"").decode()
    recorded = [attempt.request_url, attempt.request_headers, attempt.response_headers, attempt.steps, attempt.error]
    assert CANARY not in json.dumps([*recorded, answer])


def test_a_contact_that_is_not_there_yet_takes_two_calls(endpoint, monkeypatch):
    case = Case("resend", "upsert_contact", KEY, "", 404, b'{"name":"not_found"}')
    delivery = delivered(case, endpoint, monkeypatch)
    assert delivery.status == "dead"
    assert [(got.method, got.path) for got in endpoint.got] == [
        ("PATCH", "/contacts/ada%40example.com"),
        ("POST", "/contacts"),
    ]
    assert [step["status"] for step in Attempt.objects.get(delivery=delivery).steps] == [404, 404]


def test_a_number_that_the_vendor_would_not_take_is_left_out_and_the_attempt_says_so(endpoint, monkeypatch):
    own = [value("phone_number", "0171 1234567")]
    case = Case("klaviyo", "upsert_profile", KEY, "", 200, b'{"data":{"id":"1"}}', mapping=own)
    delivery = delivered(case, endpoint, monkeypatch)
    assert delivery.status == "succeeded"
    (sent,) = endpoint.got
    assert json.loads(sent.body)["data"]["attributes"]["email"] == "ada@example.com"
    assert "phone_number" not in json.loads(sent.body)["data"]["attributes"]
    reason = "it names no country: write it as +15551234567, or set phone_country"
    attempt = Attempt.objects.get(delivery=delivery)
    assert attempt.omitted_fields == [{"field": "phone_number", "reason": reason}]
    assert AttemptOut(attempt).data["omitted_fields"] == attempt.omitted_fields
    told = {"event_type": delivery.event_type, "body": delivery.body, "action": delivery.action}
    shown = preview.render(delivery.connection, delivery_id=delivery.pk, event_id=delivery.event_id, **told)
    assert shown["omitted_fields"] == attempt.omitted_fields


def test_an_attempt_that_left_nothing_out_says_nothing(endpoint, monkeypatch):
    attempt = Attempt.objects.get(delivery=delivered(CASES[0], endpoint, monkeypatch))
    assert attempt.omitted_fields is None
    assert AttemptOut(attempt).data["omitted_fields"] == []


def test_a_long_answer_is_read_to_its_end_and_its_beginning_is_kept(endpoint, monkeypatch):
    contacts = [{"id": f"c{n}", "role": "lead", "bio": "x" * 4000} for n in range(39)] + [{"id": "u1", "role": "user"}]
    body = json.dumps({"type": "list", "data": contacts, "id": "u1"}).encode()  # the answer to both calls
    case = Case("intercom", "upsert_contact", {"access_token": CANARY}, "", body=body)
    delivery = delivered(case, endpoint, monkeypatch)
    assert delivery.status == "succeeded"
    assert [(got.method, got.path) for got in endpoint.got] == [("POST", "/contacts/search"), ("PUT", "/contacts/u1")]
    attempt = Attempt.objects.get(delivery=delivery)
    assert (len(attempt.response_body), attempt.response_truncated) == (64 * 1024, True)
    assert bytes(attempt.response_body) == body[: 64 * 1024]


def test_without_room_for_a_long_answer_it_is_cut_and_tried_again(endpoint, monkeypatch):
    rooms = [Room() for _ in range(PLACES)]
    assert all(room.take() for room in rooms)
    try:
        body = json.dumps({"type": "list", "data": [{"id": "c", "role": "lead", "bio": "x" * 100_000}]}).encode()
        case = Case("intercom", "upsert_contact", {"access_token": CANARY}, "", body=body)
        delivery = delivered(case, endpoint, monkeypatch)
        assert (delivery.status, delivery.cause) == ("pending", "unreadable_answer")
    finally:
        for room in rooms:
            room.__exit__(None, None, None)
    with Room() as room:
        assert room.take()


@pytest.mark.parametrize(("status", "state", "cause"), [
    (502, "dead", "uncertain"), (504, "dead", "uncertain"), (503, "pending", "server_error"),
    (429, "pending", "rate_limited"),
])  # fmt: skip
def test_a_message_of_which_nobody_knows_whether_it_was_posted_is_not_posted_again(
    status, state, cause, endpoint, monkeypatch
):
    case = Case("discord", "send_message", {"webhook_url": DISCORD}, "", status, b"{}")
    delivery = delivered(case, endpoint, monkeypatch)
    assert (delivery.status, delivery.cause, len(endpoint.got)) == (state, cause, 1)


def test_a_search_that_broke_off_is_made_again_although_the_creation_would_not_be(endpoint, monkeypatch):
    case = Case("pipedrive", "upsert_person", {"api_token": CANARY}, "", 502, b"")
    delivery = delivered(case, endpoint, monkeypatch)
    assert [got.method for got in endpoint.got] == ["GET"]
    assert (delivery.status, delivery.outcome) == ("pending", "retry")
