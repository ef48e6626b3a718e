"""`/workspaces/{id}/erasures`: one person's payloads go."""

import uuid
from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from delivery.events import erasure
from delivery.rules.filters import filter_mistakes, filter_warnings
from delivery.serializers import WarningOut
from meshes.api.fields import PublicIdField, StrictSerializer
from meshes.api.pages import PeriodIn, period_bounds
from meshes.api.problems import Problem, invalid
from meshes.kit import clock, ids
from workspaces.endpoints import Endpoint, resolve_workspace
from workspaces.idempotency import DryRun, once_outside

MOST_EVENTS = 500


class ErasureIn(PeriodIn, StrictSerializer):
    """Which events: by their ids, or by a filter in the dialect of rules."""

    alternatives = (
        {"required": ["events"], "not": {"anyOf": [{"required": [name]} for name in ("match", "after", "from", "to")]}},
        {"required": ["match"], "properties": {"match": {"minProperties": 1}}, "not": {"required": ["events"]}},
    )

    events = serializers.ListField(
        child=PublicIdField(ids.EVENT), min_length=1, max_length=MOST_EVENTS, required=False, help_text="Their ids."
    )
    match = serializers.DictField(required=False, help_text='Such as `{"payload.email": "ada@example.com"}`.')
    after = PublicIdField(ids.EVENT, required=False, help_text="`next` of the answer before.")
    dry_run = serializers.BooleanField(default=False, help_text="Only count the events.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("events" in attrs) == ("match" in attrs):
            raise _refusal("match", "Give either events or match.", "exclusive")
        if "events" in attrs and (extra := attrs.keys() - {"events", "dry_run"}):
            raise _refusal(min(extra), "This belongs to match.", "exclusive")
        if attrs.get("match") == {}:
            raise _refusal("match", "An empty filter would match every event.", "required")
        return super().validate(attrs)


class ErasureOut(serializers.Serializer[Any]):
    dry_run = serializers.BooleanField(source="is_dry", help_text="true: nothing was changed.")
    count = serializers.IntegerField(help_text="Events that are asked for: erased or busy, or to be erased.")
    scanned = serializers.IntegerField(help_text="Events that were looked at.")
    erased = serializers.IntegerField(source="events")
    cancelled = serializers.IntegerField(help_text="Deliveries that were still to be made.")
    busy = serializers.ListField(
        child=PublicIdField(ids.EVENT), help_text="Being routed or sent at this moment, not erased: ask again for them."
    )
    next = PublicIdField(ids.EVENT, allow_null=True, help_text="Send it as `after` to go on; null: all was looked at.")
    warnings = serializers.SerializerMethodField(help_text="What `match` says and mostly does not mean.")

    @extend_schema_field(WarningOut(many=True))
    def get_warnings(self, done: erasure.Erased) -> list[dict[str, str]]:
        return list(self.context["warnings"])


class ErasureView(Endpoint):
    required_scope = "admin"

    def named_place(self) -> tuple[uuid.UUID, str]:
        workspace = resolve_workspace(self.identity, self.kwargs["id"], include_deleted=True)
        return workspace.pk, f"/workspaces/{workspace.public_id}/erasures"

    @extend_schema(
        request=ErasureIn,
        responses=ErasureOut,
        examples=[OpenApiExample("A person", {"match": {"payload.email": "ada@example.com"}}, request_only=True)],
    )
    @once_outside
    def post(self, request: Request, id: str) -> Response:
        """Empty payloads, shaped bodies and answers of a person's events; cancel what is still to be delivered.

        An address is found however it was typed: spaces around it and case do not count. `dry_run` only counts.
        One request looks for five seconds at most. Repeat it with `after` until `next` is null.
        """
        workspace = resolve_workspace(self.identity, id, include_deleted=True)
        warnings: list[dict[str, str]] = []
        given, now = self.read(ErasureIn), clock.database_now()
        is_dry = given["dry_run"]
        if "events" in given:
            done = erasure.erase_events(workspace, given["events"], now, is_dry=is_dry)
        else:
            if mistakes := filter_mistakes(given["match"], "match"):
                raise Problem(422, errors=mistakes)
            warnings = filter_warnings(given["match"], "match")
            try:
                period, after = period_bounds(given), given.get("after")
                done = erasure.erase_matching(workspace, given["match"], period, after, now, is_dry=is_dry)
            except erasure.UndecidedError as error:
                raise _too_dear(error) from None
        answer = ErasureOut(done, context={"warnings": warnings}).data
        return DryRun(answer) if is_dry else Response(answer)


def _too_dear(error: erasure.UndecidedError) -> Exception:
    event = ids.encode(ids.EVENT, error.event_id)
    detail = (
        f"Whether {event} matches needs more work than a filter may cause; match on less. Events before it are erased."
    )
    return invalid("/match", detail, "evaluation_limit")


def _refusal(field: str, detail: str, rule: str) -> ValidationError:
    return ValidationError({field: [ErrorDetail(detail, code=rule)]})
