"""Secrets are put through everything that takes them, and are searched for in everything that was written."""

import base64
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from django.db import connection, transaction
from django.test import override_settings

from connections import lifecycle
from connections.apps import install_providers
from connections.models import Connection
from connections.providers.vendor import CHECK_MAPPING
from delivery.dispatch import attempts, claims, settling
from delivery.lanes import brokers
from delivery.models import Attempt, Delivery, Event
from meshes.kit import ids
from tests.connections import echoing
from tests.connections.canaries import PASSWORD, TOKEN, dump, echo, forms, found
from tests.factories import make_deliveries, make_rule, make_workspace
from tests.operators import superuser
from tests.receivers import Receiver, receiver
from tests.workspaces.callers import caller, post
from workspaces.models import IdempotencyRecord
from workspaces.vault.models import AccessRecord

pytestmark = pytest.mark.django_db

SETTINGS = {
    "MESHES_OUTBOUND_ALLOW_NETS": ["127.0.0.0/8"],
    "MESHES_OUTBOUND_ALLOW_HTTP": True,
    "MESHES_OUTBOUND_PORTS": "*",
    "MESHES_PROVIDERS": ["connections.providers.webhook", echoing.__name__],
}
BASIC = {"username": "ada", "password": PASSWORD}
SENDINGS = [
    *(("webhook", f"/say/{status}", {"token": TOKEN}, "send") for status in (200, 400, 401, 500)),
    ("webhook", "/say/500", BASIC, "send"),
    ("echoing", "/say/400", {"access_token": TOKEN}, "send"),
    ("echoing", "/cut/422", {"access_token": TOKEN}, "send"),
    ("echoing", "/fail/500", {"access_token": TOKEN}, "fail_before"),
    ("echoing", "/fail/500", {"access_token": TOKEN}, "fail_after"),
]
"""Connections by provider, path and credentials, and what is asked of each. The path says what is answered."""
MISTAKES: list[dict[str, Any]] = [
    {"token": TOKEN + "\n"},
    {"token": TOKEN, "username": TOKEN, "password": PASSWORD},
    {"unknown": TOKEN},
    {"token": [TOKEN]},
]
PLACES = ("answers", "log", "tables", "broker", "admin")


class Run:
    """All paths that a secret takes, and what was answered on them."""

    def __init__(self, endpoint: Receiver) -> None:
        self.root = endpoint.url.removesuffix("/hook")
        self.api = caller()
        self.secrets = [TOKEN, PASSWORD]
        self.answers: list[str] = []
        self.bodies: list[bytes] = []
        made = [(self.make(*sending[:3]), sending[3]) for sending in SENDINGS]
        self.deliveries = [self.deliver(*each) for each in made]
        for delivery in self.deliveries:
            self.look(delivery)
        self.change(made[0][0])
        self.fail(made[0][0])

    def say(self, answer: Any, *secrets: str) -> Any:
        """Keep an answer, but for the secrets that it shows this once."""
        text = answer.content.decode()
        for secret in secrets:
            assert secret in text
            text = text.replace(secret, "")
        self.answers.append(text)
        return answer

    def make(self, kind: str, path: str, credentials: dict[str, str]) -> Connection:
        body = {"workspace": make_workspace().public_id, "type": kind, "name": "C", "config": {"url": self.root + path}}
        once = {"headers": {"idempotency-key": f"canary {kind}".replace(" ", "-")}}
        answer = post(self.api, "/api/v1/connections", body | {"credentials": credentials}, **once)
        assert answer.status_code == 201, answer.content
        self.say(answer, *self.shown_once(answer))
        self.bodies.append(json.dumps(body | {"credentials": credentials}).encode())
        again = post(self.api, "/api/v1/connections", body | {"credentials": credentials}, **once)
        assert self.say(again).json()["id"] == answer.json()["id"]
        pk = ids.decode(ids.CONNECTION, answer.json()["id"])
        assert pk is not None
        return Connection.objects.get(pk=pk)

    def shown_once(self, answer: Any) -> list[str]:
        secrets = [answer.json()["signing_secret"]] if "signing_secret" in answer.json() else []
        self.secrets += [secret.removeprefix("whsec_") for secret in secrets]
        return secrets

    def deliver(self, target: Connection, action: str) -> Delivery:
        make_rule(target, action=action)
        (delivery,) = make_deliveries(target)
        brokers.publish_deliveries([(target.workspace_id, target.pk, delivery.pk)])
        (job,) = claims.claim([delivery.pk], "worker")
        assert job is not None
        try:
            settling.settle([attempts.attempt(job)], "worker")
        except Exception:
            logging.getLogger("celery.app.trace").exception("the task raised unexpected")  # as Celery does
        return delivery

    def look(self, delivery: Delivery) -> None:
        target = delivery.connection
        for path in (
            f"connections/{target.public_id}",
            f"deliveries/{delivery.public_id}",
            f"events/{ids.encode(ids.EVENT, delivery.event_id)}",
            f"workspaces/{target.workspace.public_id}/access-log",
        ):
            assert self.say(self.api.get(f"/api/v1/{path}")).status_code == 200
        self.say(post(self.api, f"/api/v1/connections/{target.public_id}/test", {}))

    def change(self, target: Connection) -> None:
        path = f"/api/v1/connections/{target.public_id}"

        def patch(body: str) -> Any:
            return self.say(self.api.patch(path, body, content_type="application/json"))

        assert patch(json.dumps({"credentials": {"token": TOKEN + "2"}})).status_code == 200
        assert patch(json.dumps({"credentials": {"token": TOKEN}})).status_code == 200
        for mistake in MISTAKES:
            assert patch(json.dumps({"credentials": mistake})).status_code == 422, mistake
        assert patch(json.dumps({"credentials": {"token": TOKEN}})[:-1]).status_code == 400
        once = {"headers": {"idempotency-key": "canary"}}
        rotated = post(self.api, f"{path}/rotate-secret", {}, **once)
        self.say(rotated, *self.shown_once(rotated))
        assert self.say(post(self.api, f"{path}/rotate-secret", {}, **once)).json().get("signing_secret") is None
        issued = {"name": "K", "kind": "account", "scopes": ["admin"]}
        key = post(self.api, "/api/v1/api-keys", issued, **once)
        self.secrets += (secrets := [key.json()["key"], key.json()["signing_secret"]])
        self.say(key, *secrets)
        assert self.say(post(self.api, "/api/v1/api-keys", issued, **once)).json()["key"] is None
        for page in ("/healthz", "/readyz", "/api/schema", "/api/v1/integrations", "/api/v1/connections"):
            assert self.say(self.api.get(page)).status_code == 200

    def fail(self, target: Connection) -> None:
        """Errors inside views that quote what they were given."""

        def fail(*given: Any, **named: Any) -> None:
            raise RuntimeError(f"cannot do it: {given} {named}")

        body = {"workspace": target.workspace.public_id, "type": "webhook", "name": "C", "config": {"url": self.root}}
        given = {"credentials": BASIC | {"token": TOKEN}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lifecycle, "prepare_create", fail)
            patch.setattr(lifecycle, "edit", fail)
            created = post(self.api, "/api/v1/connections", body | given)
            path = f"/api/v1/connections/{target.public_id}"
            edited = self.api.patch(path, json.dumps(given), content_type="application/json")
        assert [self.say(answer).status_code for answer in (created, edited)] == [500, 500]


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """Everything that any logger says meanwhile, with tracebacks."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield stream
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def dumped() -> str:
    with connection.cursor() as cursor:
        return dump(cursor)


def broker() -> str:
    """Every key of the broker with its value."""
    assert brokers.flush()
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    reads: dict[Any, Callable[[Any], Any]] = {
        b"string": client.get,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    told = [repr((key, reads[client.type(key)](key))) for key in client.scan_iter()]
    client.close()
    return "\n".join(told)


def admin() -> str:
    """The pages of operators that are about connections, what was sent over them, and who opened them."""
    root = superuser()
    models: dict[Any, str] = {Connection: "connections_connection", AccessRecord: "connections_accessrecord"}
    models |= {Attempt: "delivery_attempt", Delivery: "delivery_delivery", Event: "delivery_event"}
    pages = [root.list(name) for name in models.values()]
    for model, name in models.items():
        pages += [root.page(name, pk) for pk in model.objects.values_list("pk", flat=True)]
    assert {page.status_code for page in pages} == {200}
    return "".join(page.content.decode() for page in pages)


@pytest.fixture(scope="module")
def written(django_db_setup, django_db_blocker):
    """What was written, by place; and the run that it was written in."""
    redis.Redis.from_url(os.environ["REDIS_URL"]).flushdb()
    with django_db_blocker.unblock(), transaction.atomic(), override_settings(**SETTINGS), receiver() as endpoint:
        install_providers()
        endpoint.answers = echo
        with logged() as log:
            run = Run(endpoint)
            places = {"tables": dumped(), "broker": broker(), "admin": admin(), "answers": "\n".join(run.answers)}
        attempts = list(Attempt.objects.order_by("number", "id"))
        yield places | {"log": log.getvalue()}, run, list(endpoint.got), attempts
        transaction.set_rollback(True)
    install_providers()


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_was_written(written, place):
    places, run, _, _ = written
    assert len(run.secrets) > 4
    assert len(places[place]) > 500
    assert found(places[place], *run.secrets) == set()


def test_bodies_with_secrets_are_known_by_no_hash_that_could_be_tried(written):
    _, run, _, _ = written
    kept = {bytes(record.body_hash) for record in IdempotencyRecord.objects.filter(path="/connections")}
    assert len(kept) == len(SENDINGS) == len(run.bodies)
    assert not kept & {hashlib.sha256(body).digest() for body in run.bodies}


def test_the_secrets_were_sent(written):
    _, run, got, _ = written
    sent = {each.headers.get("authorization") for each in got}
    assert sent == {f"Bearer {TOKEN}", "Basic " + base64.b64encode(f"ada:{PASSWORD}".encode()).decode()}
    assert len(got) > len(run.deliveries)


def test_errors_are_told_without_them(written):
    places, _, _, attempts = written
    assert "ValueError: cannot send with ••••" in places["log"]
    assert "ValueError: cannot read " in places["log"]
    assert "RuntimeError: cannot do it: " in places["log"]
    words = {attempt.error for attempt in attempts}
    assert f"Echoing refuses the request (400). {CHECK_MAPPING} Echoing: “bad token ••••”" in words
    assert f"Echoing refuses the request (422). {CHECK_MAPPING} Echoing: “{'x' * 285}••••…”" in words


def test_answers_are_kept_without_them(written):
    _, _, _, attempts = written
    answered = [json.loads(bytes(attempt.response_body)) for attempt in attempts if attempt.response_body]
    assert len(answered) == 7
    for document in answered:
        assert {document["url"], document["html"], document["base64"]} == {"••••"}


@pytest.mark.parametrize("secret", [TOKEN, PASSWORD])
def test_the_search_finds_every_form(secret):
    assert len(forms(secret)) > 10
    for form in forms(secret):
        assert form in found(f"before {form} after", secret)
    shifted = base64.b64encode(f"ada:{secret}:and more".encode()).decode()
    assert found(shifted, secret) != set()
