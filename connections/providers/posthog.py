"""PostHog (posthog.com/docs): events by the capture API. `uuid`, made of the delivery's id, drops doubles.

PostHog answers 200 to an event that it drops because the quota is used up, and probably to a key that it does not know.
"""

from connections.messages import Request, Response
from connections.providers.base import (
    Action,
    Field,
    Limits,
    MappingField,
    Shipment,
    reauthorize,
    region,
    rejected,
    throttled,
)
from connections.providers.vendor import (
    USER,
    Vendor,
    VendorError,
    fields_of,
    iso_time,
    json_request,
    needed,
    object_in,
    read_object,
    revealed,
    text_at,
    uuid_of,
)


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
                MappingField("properties", "Properties", type="object", source="payload"),
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
        fields = fields_of(shipment)
        event = {
            "api_key": revealed(shipment, "api_key"),
            "event": needed(fields, "event"),
            "distinct_id": needed(fields, "distinct_id"),
            "properties": object_in(fields, "properties"),
            "timestamp": iso_time(shipment.occurred_at),
            "uuid": str(uuid_of(shipment)),
        }
        return json_request("POST", f"{self.root(shipment)}/i/v0/e/", event)

    def error_of(self, response: Response) -> VendorError:
        document = read_object(response)
        if response.status < 300:
            return VendorError("quota_limited" if document.get("quota_limited") else "")
        return VendorError("", text_at(document, "detail") or text_at(document, "error"))


PROVIDER = PostHog()
