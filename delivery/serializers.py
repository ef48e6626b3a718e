"""Events, deliveries and attempts as the API shows them."""

import base64
import re
import shlex
import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from connections.models import Connection
from delivery.dispatch.connection_health import REASONS, waiting_for
from delivery.dispatch.replays import CURRENT, ORIGINAL
from delivery.events.intake import BULK_MOST
from delivery.events.setting_aside import CAUSES, NOT_RECORDED
from delivery.models import Attempt, Delivery, Event, Rule, Unrouted, state_of
from delivery.search import EVENT_STATUSES, OUTCOMES, STATES, EventTypeField
from meshes.api.fields import OneOfField, PublicIdField, StrictSerializer
from meshes.kit import clock, ids
from workspaces.endpoints import WorkspaceField

ROUTING_RESULTS = ("matched", "filtered", "disabled", "held", "mapping_failed", "evaluation_limit", "expired", "erased")


class EventIn(StrictSerializer):
    """One event; nothing else is accepted. Described here, and read by `delivery.events.intake`."""

    workspace = serializers.CharField(help_text="The workspace's id or external id.")
    event = EventTypeField()
    payload = serializers.DictField(help_text="Any JSON object; it is kept and sent on byte for byte.")


class BulkIn(StrictSerializer):
    events = serializers.ListField(child=EventIn(), min_length=1, max_length=BULK_MOST)


class AcceptedOut(serializers.Serializer[Any]):
    """An accepted event; `workspace` is the caller's own word for it."""

    id = serializers.CharField()
    workspace = serializers.CharField()
    event = serializers.CharField()
    status = serializers.ChoiceField(EVENT_STATUSES)
    created_at = serializers.DateTimeField()


class BulkResultOut(serializers.Serializer[Any]):
    index = serializers.IntegerField(help_text="The event's place in the request.")
    status = serializers.IntegerField(help_text="202, or what the event alone would have been answered.")
    event = AcceptedOut(required=False)
    problem = serializers.DictField(required=False, help_text="An RFC 9457 problem.")


class BulkOut(serializers.Serializer[Any]):
    accepted = serializers.IntegerField()
    refused = serializers.IntegerField()
    results = BulkResultOut(many=True)


class ReplayTermsIn(StrictSerializer):
    """How deliveries are sent again."""

    mapping = OneOfField(
        (ORIGINAL, CURRENT),
        required=False,
        help_text=(
            "original: the same delivery with the same body. current: a new delivery with the body that the rule's"
            " mapping makes now. Left out: current for what was rejected, else original."
        ),
    )
    may_duplicate = serializers.BooleanField(
        default=False, help_text="With current: also where the old one arrived, or may have."
    )


class EventOut(serializers.Serializer[Any]):
    """Needs `context["unrouted"]`: the rows, by id, of those events of the page that are not routed."""

    id = PublicIdField(ids.EVENT, source="pk")
    workspace = PublicIdField(ids.WORKSPACE, source="workspace_id")
    workspace_external_id = serializers.CharField(source="workspace.external_id", allow_null=True)
    workspace_name = serializers.CharField(source="workspace.name")
    event = serializers.CharField(source="type")
    status = serializers.SerializerMethodField()
    payload_bytes = serializers.IntegerField()
    created_at = serializers.DateTimeField()

    @extend_schema_field(serializers.ChoiceField(EVENT_STATUSES))
    def get_status(self, event: Event) -> str:
        unrouted = self.context["unrouted"].get(event.pk)
        if unrouted is None:
            return "routed"
        return "set_aside" if unrouted.poisoned_at else "accepted"


class AttemptSummaryOut(serializers.Serializer[Any]):
    """One try, without what was sent and answered."""

    id = PublicIdField(ids.ATTEMPT, source="pk")
    number = serializers.IntegerField()
    started_at = serializers.DateTimeField()
    duration_ms = serializers.IntegerField(allow_null=True)
    outcome = serializers.ChoiceField(OUTCOMES)
    status_code = serializers.IntegerField(allow_null=True)
    error_class = serializers.CharField()
    error = serializers.CharField()


class BodyOut(serializers.Serializer[Any]):
    encoding = serializers.ChoiceField(("utf-8", "base64"), help_text="base64: the bytes are not UTF-8.")
    content = serializers.CharField()
    truncated = serializers.BooleanField(help_text="Only the first 64 KB of an answer, 256 KB of a request, are kept.")


def body_out(body: bytes | memoryview, truncated: bool) -> dict[str, Any]:
    """A body as text where it is UTF-8, else in base64; `encoding` says which."""
    try:
        encoding, content = "utf-8", bytes(body).decode()
    except UnicodeDecodeError:
        encoding, content = "base64", base64.b64encode(body).decode()
    return {"encoding": encoding, "content": content, "truncated": truncated}


MOST_IN_ARGUMENT = 100_000
"""Bytes of a body that stand in curl's arguments; Linux takes 128 KB in one. More are piped from `printf`, which the
shell runs itself."""
_PLAIN = re.compile(rb"[ !-$&(-,./-\[\]-~]")
"""What stands for itself in the single-quoted format of `printf`: ASCII but for `%`, quote, dash and backslash."""


def curl_of(attempt: Attempt) -> str | None:
    """The attempt's last request as a command, with its secrets masked; None where its body is not kept whole."""
    if not attempt.request_url or attempt.request_body is None or attempt.request_truncated:
        return None
    body = bytes(attempt.request_body)
    return curl_command(attempt.request_method, attempt.request_url, attempt.request_headers, body)


def curl_command(method: str, url: str, headers: Iterable[Iterable[str]], body: bytes) -> str:
    """A command for a POSIX shell with curl that sends these bytes.

    Headers that curl would add by itself to a body are left out where the request had none. What could not be pasted
    into a terminal, control characters and what is not UTF-8, is written in octal.
    """
    lines = [f"curl --globoff -X {shlex.quote(method)} {shlex.quote(url)}"]
    names = set()
    for name, value in headers:
        names.add(name.lower())
        lines.append(f"-H {shlex.quote(f'{name}: {value}' if value else f'{name};')}")
    if not body and method in ("GET", "HEAD", "DELETE"):
        return " \\\n  ".join(lines)
    if "content-type" not in names:
        lines.append("-H 'content-type:'")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = "\x00"
    is_pasteable = text.replace("\n", "").isprintable()
    if is_pasteable and len(body) <= MOST_IN_ARGUMENT:
        return " \\\n  ".join([*lines, f"--data-raw {shlex.quote(text)}"])
    octal = (chr(byte) if _PLAIN.match(bytes([byte])) else f"\\{byte:03o}" for byte in body)
    printed = f"%s {shlex.quote(text)}" if is_pasteable else f"'{''.join(octal)}'"
    return f"printf {printed} |\n" + " \\\n  ".join([*lines, "--data-binary @-"])


class AttemptRequestOut(serializers.Serializer[Any]):
    method = serializers.CharField(source="request_method")
    url = serializers.CharField(source="request_url")
    headers = serializers.ListField(source="request_headers", help_text="Pairs; secrets are masked.")
    body = serializers.SerializerMethodField(help_text="null: nothing was sent, or it is not kept.")
    curl = serializers.SerializerMethodField(
        help_text="A command for a shell that makes the request again, once its masks are filled in."
    )

    @extend_schema_field(BodyOut(allow_null=True))
    def get_body(self, attempt: Attempt) -> dict[str, Any] | None:
        return None if attempt.request_body is None else body_out(attempt.request_body, attempt.request_truncated)

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_curl(self, attempt: Attempt) -> str | None:
        return curl_of(attempt)


class StepOut(serializers.Serializer[Any]):
    """One call of several; bodies are cut to 4 KB."""

    method = serializers.CharField()
    url = serializers.CharField()
    request_body = serializers.CharField()
    status = serializers.IntegerField(allow_null=True)
    response_body = serializers.CharField(allow_null=True)


class WarningOut(serializers.Serializer[Any]):
    """What may be meant, and mostly is not."""

    pointer = serializers.CharField(help_text="Into the body, RFC 6901.")
    detail = serializers.CharField()
    rule = serializers.CharField(help_text="What was looked at, in one word.")


class OmittedFieldOut(serializers.Serializer[Any]):
    field = serializers.CharField(help_text="By the vendor's own name.")
    reason = serializers.CharField()


class AttemptOut(AttemptSummaryOut):
    request = AttemptRequestOut(source="*")
    response_headers = serializers.ListField()
    response_body = serializers.SerializerMethodField()
    steps = StepOut(many=True, allow_null=True, help_text="Every call, where the action needs several; else null.")
    omitted_fields = serializers.SerializerMethodField(
        help_text="What the mapping made and the vendor would not take, left out so that the rest could pass."
    )
    credential_version = serializers.IntegerField(allow_null=True)
    worker = serializers.CharField()

    @extend_schema_field(OmittedFieldOut(many=True))
    def get_omitted_fields(self, attempt: Attempt) -> list[dict[str, str]]:
        return attempt.omitted_fields or []

    @extend_schema_field(BodyOut(allow_null=True))
    def get_response_body(self, attempt: Attempt) -> dict[str, Any] | None:
        return None if attempt.response_body is None else body_out(attempt.response_body, attempt.response_truncated)


class WaitingOut(serializers.Serializer[Any]):
    """What an open delivery waits for."""

    reason = serializers.ChoiceField(REASONS)
    until = serializers.DateTimeField(allow_null=True, help_text="null: no moment is known.")
    detail = serializers.CharField(source="words")


class DeliveryOut(serializers.Serializer[Any]):
    """Reads the delivery's connection and its health: select them."""

    id = PublicIdField(ids.DELIVERY, source="pk")
    workspace = PublicIdField(ids.WORKSPACE, source="workspace_id")
    workspace_external_id = serializers.CharField(source="workspace.external_id", allow_null=True)
    workspace_name = serializers.CharField(source="workspace.name")
    event = PublicIdField(ids.EVENT, source="event_id")
    event_type = serializers.CharField()
    rule = PublicIdField(ids.RULE, source="rule_id")
    rule_name = serializers.CharField(source="rule.title", help_text="Its name; without one its event pattern.")
    connection = PublicIdField(ids.CONNECTION, source="connection_id")
    connection_name = serializers.CharField(source="connection.name")
    action = serializers.CharField()
    status = serializers.SerializerMethodField()
    cause = serializers.CharField(help_text="Why it is in its state, in one word; empty if there is nothing to say.")
    detail = serializers.CharField(help_text="The cause in words.")
    outcome = serializers.CharField(help_text="Of the newest attempt; empty before the first.")
    attempt_count = serializers.IntegerField(source="attempt_number", help_text="Over all replays.")
    next_attempt_at = serializers.SerializerMethodField(help_text="Never past; null where no moment is known.")
    waiting_for = serializers.SerializerMethodField(help_text="null for one that is over, or in flight.")
    replay = PublicIdField(ids.REPLAY, source="replay_id", allow_null=True)
    replay_of = PublicIdField(
        ids.DELIVERY, source="replay_of_id", allow_null=True, help_text="The delivery in whose place this one was made."
    )
    replaced_by = PublicIdField(
        ids.DELIVERY, source="replaced_by_id", allow_null=True, help_text="The newest one that was made in its place."
    )
    replayed_at = serializers.DateTimeField(allow_null=True, help_text="When it was last sent again under its own id.")
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_next_attempt_at(self, delivery: Delivery) -> datetime | None:
        found = waiting_for(delivery, clock.now())
        return found.until if found else None

    @extend_schema_field(WaitingOut(allow_null=True))
    def get_waiting_for(self, delivery: Delivery) -> Any:
        found = waiting_for(delivery, clock.now())
        return WaitingOut(found).data if found else None

    @extend_schema_field(serializers.ChoiceField(STATES))
    def get_status(self, delivery: Delivery) -> str:
        return state_of(delivery.status, delivery.lease_until, clock.now())


class DeliveryDetailOut(DeliveryOut):
    attempts = AttemptOut(many=True)


class EventDeliveryOut(DeliveryOut):
    attempts = AttemptSummaryOut(many=True)


class RoutingOut(serializers.Serializer[Any]):
    """What became of one rule whose pattern names the event; or, without a rule, of an event that was not routed."""

    rule = serializers.CharField(required=False)
    rule_name = serializers.CharField(required=False, allow_null=True, help_text="null: it is not kept any more.")
    version = serializers.IntegerField(required=False)
    connection = serializers.CharField(required=False)
    connection_name = serializers.CharField(required=False, allow_null=True)
    result = serializers.ChoiceField(ROUTING_RESULTS)
    delivery = serializers.CharField(required=False)
    clause = serializers.DictField(required=False, help_text="The clause of the filter that failed.")
    reason = serializers.CharField(required=False)
    steps = serializers.IntegerField(required=False, help_text="Of `evaluation_limit`: what was left for the rule.")


class RoutingSummaryOut(serializers.Serializer[Any]):
    """What the routing came to."""

    rules = serializers.IntegerField(help_text="Rules that name the event's type.")
    results = serializers.DictField(child=serializers.IntegerField(), help_text="How many have each `result`.")
    detail = serializers.CharField(help_text="In words.")


def with_names(event: Event, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A ledger's entries with what rules and connections are called now beside their ids."""
    rules = Rule.objects.filter(workspace_id=event.workspace_id, pk__in=_named(entries, "rule", ids.RULE))
    connections = Connection.objects.filter(
        workspace_id=event.workspace_id, pk__in=_named(entries, "connection", ids.CONNECTION)
    )
    titles = {rule.public_id: rule.title for rule in rules.only("name", "event")}
    names = {each.public_id: each.name for each in connections.only("name")}
    return [
        entry | {"rule_name": titles.get(entry["rule"]), "connection_name": names.get(entry["connection"])}
        if "rule" in entry
        else entry
        for entry in entries
    ]


def _named(entries: list[dict[str, Any]], key: str, prefix: str) -> set[uuid.UUID]:
    found = {ids.decode(prefix, entry[key]) for entry in entries if key in entry}
    return {pk for pk in found if pk is not None}


def summarize_routing(event: Event, unrouted: Unrouted | None) -> dict[str, Any]:
    """A `RoutingSummaryOut` of an event whose ledger has been read."""
    ledger = getattr(event, "ledger", None)
    entries = ledger.entries if ledger else []
    by_rule = [entry for entry in entries if "rule" in entry]
    results = Counter(entry["result"] for entry in by_rule)
    if by_rule:
        subject = "1 rule names" if len(by_rule) == 1 else f"{len(by_rule)} rules name"
        parts = ", ".join(f"{number} {result.replace('_', ' ')}" for result, number in results.items())
        detail = f"{subject} the event type {event.type}: {parts}."
    elif entries:
        detail = entries[0].get("reason", "")
    elif ledger:
        detail = f"No rule of the workspace names the event type {event.type}, so nothing is delivered."
    elif unrouted and unrouted.poisoned_at:
        why = unrouted.detail or "the cause was not recorded"
        detail = f"It was set aside and is routed again when somebody asks for it: {why}."
    elif unrouted:
        detail = "It has not been routed yet."
    else:
        detail = "Its routing ledger is not kept any more."
    return {"rules": len(by_rule), "results": dict(results), "detail": detail}


class SetAsideOut(serializers.Serializer[Any]):
    """Why an event is not routed by itself any more."""

    cause = serializers.SerializerMethodField()
    detail = serializers.CharField(help_text="The cause in words; never what the event says.")
    at = serializers.DateTimeField(source="poisoned_at")

    @extend_schema_field(serializers.ChoiceField(CAUSES))
    def get_cause(self, unrouted: Unrouted) -> str:
        return unrouted.cause or NOT_RECORDED


class RouteAgainIn(StrictSerializer):
    workspace = WorkspaceField(required=False, help_text="Left out: every workspace of the key.")


class RoutedAgainOut(serializers.Serializer[Any]):
    events = serializers.IntegerField(help_text="So many are routed again, 10,000 at most.")
    remaining = serializers.BooleanField(help_text="Whether more are set aside: ask again.")


class EventDetailOut(EventOut):
    set_aside = serializers.SerializerMethodField(help_text="Null unless that is the status.")
    routing_summary = serializers.SerializerMethodField()
    routing = serializers.SerializerMethodField()
    deliveries = EventDeliveryOut(many=True)

    @extend_schema_field(RoutingSummaryOut)
    def get_routing_summary(self, event: Event) -> dict[str, Any]:
        return summarize_routing(event, self.context["unrouted"].get(event.pk))

    @extend_schema_field(SetAsideOut(allow_null=True))
    def get_set_aside(self, event: Event) -> dict[str, Any] | None:
        unrouted = self.context["unrouted"].get(event.pk)
        return SetAsideOut(unrouted).data if unrouted and unrouted.poisoned_at else None

    @extend_schema_field(RoutingOut(many=True))
    def get_routing(self, event: Event) -> list[dict[str, Any]]:
        ledger = getattr(event, "ledger", None)
        return with_names(event, ledger.entries) if ledger else []
