"""Mixpanel (docs.mixpanel.com): events by /import, strictly checked. `$insert_id`, made of the delivery's id, drops
doubles, together with event, time and person.

A 400 can mean that everything was stored: `num_records_imported` tells.
"""

from connections.messages import Request, Response
from connections.providers.base import (
    Action,
    Field,
    Limits,
    MappingField,
    Outcome,
    Shipment,
    Unsendable,
    Verdict,
    region,
)
from connections.providers.vendor import (
    USER,
    Vendor,
    VendorError,
    basic,
    json_request,
    limited,
    needed,
    object_in,
    read_object,
    revealed,
    text_at,
    unix_milliseconds,
    uuid_of,
)
from connections.providers.verdicts import reauthorize, rejected, throttled

PLACEHOLDERS = frozenset(
    {
        "-1", "0", "00000000-0000-0000-0000-000000000000", "[]", "[object object]", "anon", "anonymous",
        "false", "lmy47d", "n/a", "na", "nil", "none", "null", "true", "undefined", "unknown", "{}",
    }
)  # fmt: skip
"""Ids that Mixpanel refuses, as they stand for everybody whose id somebody failed to fill in."""

MAX_NAME = 255
"""Characters of an event's name and of a distinct id."""
MAX_MEMBERS = 255
"""An event, and every object and array in it, must have fewer."""


class Mixpanel(Vendor):
    slug = "mixpanel"
    name = "Mixpanel"
    description = "Records events in a Mixpanel project."
    docs_url = "https://docs.mixpanel.com/reference/import-events"
    auth = "api_key"
    base_urls = {
        "us": "https://api.mixpanel.com",
        "eu": "https://api-eu.mixpanel.com",
        "in": "https://api-in.mixpanel.com",
    }
    config_fields = (region("us", "eu", "in", help="Where the project's data is kept."),)
    credential_fields = (
        Field(
            "project_token", "Project token", required=True, sensitive=True, pattern=r"[!-9;-~]+", max_length=255,
            help="From the project's settings.",
        ),
    )  # fmt: skip
    actions = (
        Action(
            "track", "Record an event", True,
            fields=(
                MappingField("distinct_id", "Distinct id", required=True, source=USER, help="Whom the event is about."),
                MappingField("event", "Event", required=True, source="event.type"),
                MappingField("properties", "Properties", type="object", source="payload", help="Fewer than 255."),
            ),
        ),
    )  # fmt: skip
    limits = Limits(body_bytes=1_000_000)
    test = "Mixpanel offers no check of a project token without recording an event."
    answers = {
        "imported": Verdict(Outcome.DELIVERED),
        "not_imported": rejected("Mixpanel has not stored the event. Mend the rule's mapping."),
        400: rejected("Mixpanel refuses the event. Mend the rule's mapping."),
        401: reauthorize("Mixpanel does not accept the project token. Copy it from the project's settings."),
        413: rejected("The event is too large for Mixpanel. Map fewer properties."),
        429: throttled("Mixpanel asks for fewer events (429).", seconds=60),
    }

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        person = limited("distinct_id", needed(fields, "distinct_id"), MAX_NAME, self.name)
        if person.lower() in PLACEHOLDERS:
            raise Unsendable(
                f"Mixpanel refuses the distinct_id “{person}”: it stands for nobody. Map a person's own id."
            )
        known = {
            "time": unix_milliseconds(shipment.occurred_at),
            "distinct_id": person,
            "$insert_id": str(uuid_of(shipment)),
        }
        properties = object_in(fields, "properties") | known
        _check_size(properties, "the event")
        event = {"event": limited("event", needed(fields, "event"), MAX_NAME, self.name), "properties": properties}
        url = f"{self.root(shipment)}/import?strict=1&ip=0"  # else events may be placed where our server stands
        return json_request("POST", url, [event], basic(revealed(shipment, "project_token"), ""))

    def is_done(self, response: Response, action: str) -> bool:
        return text_at(read_object(response), "num_records_imported") not in ("", "0")

    def error_of(self, response: Response) -> VendorError:
        document = read_object(response)
        stored = text_at(document, "num_records_imported")
        message = text_at(document, "failed_records", 0, "message") or text_at(document, "error")
        if response.status == 400 and stored == "1":
            return VendorError("imported")
        if response.status < 300:
            return VendorError("not_imported", message) if stored == "0" else VendorError()
        return VendorError("", message)


def _check_size(value: object, where: str) -> None:
    """Raises Unsendable for an object or array that Mixpanel does not take; it refuses the whole event for one."""
    if not isinstance(value, dict | list):
        return
    if len(value) >= MAX_MEMBERS:
        raise Unsendable(f"Mixpanel takes fewer than {MAX_MEMBERS} members; {where} has {len(value)}. Map fewer.")
    for key, member in value.items() if isinstance(value, dict) else enumerate(value):
        _check_size(member, f"{key} in {where}")


PROVIDER = Mixpanel()
