"""PostHog (posthog.com/docs): events by the capture API. `uuid`, made of the delivery's id, drops doubles.

PostHog answers 200 to an event that it drops because the quota is used up, and probably to a key that it does not know.
It would place an event where our server stands: `$geoip_disable` says not to, unless the mapping gives a `$ip`.
"""

from typing import Any

from connections.messages import Request, Response
from connections.providers.base import Action, Field, Limits, MappingField, Shipment, region
from connections.providers.vendor import (
    USER,
    Vendor,
    VendorError,
    iso_time,
    json_request,
    limited,
    needed,
    object_in,
    read_object,
    revealed,
    text_at,
    uuid_of,
)
from connections.providers.verdicts import reauthorize, rejected, throttled

MAX_ID = 200
"""Characters of a distinct id and of an event's name; PostHog cuts longer ones, and two people could become one."""


class PostHog(Vendor):
    slug = "posthog"
    name = "PostHog"
    description = "Records events in a PostHog project."
    docs_url = "https://posthog.com/docs/api/capture"
    auth = "api_key"
    base_urls = {"us": "https://us.i.posthog.com", "eu": "https://eu.i.posthog.com"}
    config_fields = (region("us", "eu", help="Of PostHog Cloud. At the wrong one data is lost without an error."),)
    credential_fields = (
        Field(
            "api_key", "Project API key", required=True, sensitive=True, pattern=r"[!-~]+", max_length=255,
            help="phc_…, from the project's settings. PostHog may not say when it is wrong.",
        ),
    )  # fmt: skip
    actions = (
        Action(
            "track", "Record an event", True,
            fields=(
                MappingField("distinct_id", "Distinct id", required=True, source=USER, help="Whom the event is about."),
                MappingField("event", "Event", required=True, source="event.type"),
                MappingField(
                    "properties", "Properties", type="object", source="payload",
                    help="$ip in them is the person's address, by which PostHog finds a place.",
                ),
            ),
        ),
    )  # fmt: skip
    limits = Limits(body_bytes=900 * 1024)
    test = (
        "PostHog offers no check of a project API key without recording an event. "
        "Look into the project's activity after a first delivery."
    )
    answers = {
        "quota_limited": throttled(
            "The PostHog project has used up its quota of events. Raise its billing limit.", "quota_limited", 3600
        ),
        400: rejected("PostHog refuses the event. Mend the rule's mapping."),
        401: reauthorize("PostHog does not accept the project API key (phc_…). Copy it from the project's settings."),
        413: rejected("The event is too large for PostHog. Map fewer properties."),
    }

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        event = {
            "api_key": revealed(shipment, "api_key"),
            "event": limited("event", needed(fields, "event"), MAX_ID, self.name),
            "distinct_id": limited("distinct_id", needed(fields, "distinct_id"), MAX_ID, self.name),
            "properties": without_our_place(object_in(fields, "properties")),
            "timestamp": iso_time(shipment.occurred_at),
            "uuid": str(uuid_of(shipment)),
        }
        return json_request("POST", f"{self.root(shipment)}/i/v0/e/", event)

    def is_done(self, response: Response, action: str) -> bool:
        """Older ones of one's own say 1."""
        return text_at(read_object(response), "status") in ("Ok", "1")

    def error_of(self, response: Response) -> VendorError:
        document = read_object(response)
        if response.status < 300:
            return VendorError("quota_limited" if document.get("quota_limited") else "")
        return VendorError("", text_at(document, "detail") or text_at(document, "error"))


def without_our_place(properties: dict[str, Any]) -> dict[str, Any]:
    return properties if properties.get("$ip") else {"$geoip_disable": True, **properties}


PROVIDER = PostHog()
