"""Mixpanel (docs.mixpanel.com): events by /import, strictly checked. `$insert_id`, made of the delivery's id, drops
doubles, together with event, time and person.

A 400 can mean that everything was stored: `num_records_imported` tells.
"""

from connections.messages import Request, Response
from connections.providers import analytics
from connections.providers.analytics import EVENT, PERSON, REFUSED, TOO_LARGE, project_key, unix_milliseconds, uuid_of
from connections.providers.answers import text_at
from connections.providers.base import Action, Limits, MappingField, Shipment
from connections.providers.fields import Unsendable, region
from connections.providers.vendor import Vendor
from connections.providers.verdicts import Outcome, Verdict, reauthorize, rejected, throttled

PLACEHOLDERS = analytics.PLACEHOLDERS | {"0", "00000000-0000-0000-0000-000000000000", "anon"}
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
    authorization = "Basic {project_token}:"
    base_urls = {
        "us": "https://api.mixpanel.com",
        "eu": "https://api-eu.mixpanel.com",
        "in": "https://api-in.mixpanel.com",
    }
    config_fields = (region("us", "eu", "in", help="Where the project's data is kept."),)
    credential_fields = (project_key("project_token", "Project token", "From the project's settings.", r"[!-9;-~]+"),)
    actions = (
        Action(
            "track", "Record an event", True,
            fields=(
                PERSON, EVENT,
                MappingField("properties", "Properties", type="object", source="payload", help="Fewer than 255."),
            ),
        ),
    )  # fmt: skip
    limits = Limits(body_bytes=1_000_000)
    test = "Mixpanel offers no check of a project token without recording an event."
    answers = {
        "imported": Verdict(Outcome.DELIVERED),
        "not_imported": rejected("Mixpanel has not stored the event. Mend the rule's mapping."),
        400: REFUSED,
        401: reauthorize("Mixpanel does not accept the project token. Copy it from the project's settings."),
        413: TOO_LARGE,
        429: throttled("Mixpanel asks for fewer events (429).", seconds=60),
    }

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        person = fields.needed("distinct_id", MAX_NAME)
        if person.lower() in PLACEHOLDERS:
            raise Unsendable(
                f"Mixpanel refuses the distinct_id “{person}”: it stands for nobody. Map a person's own id."
            )
        ours = {"time": unix_milliseconds(shipment.occurred_at), "distinct_id": person, "$insert_id": uuid_of(shipment)}
        properties = fields.object("properties") | ours
        _check_size(properties, "the event")
        event = {"event": fields.needed("event", MAX_NAME), "properties": properties}
        # ip=0: else events may be placed where our server stands
        return self.call("POST", "/import?strict=1&ip=0", shipment, [event])

    def is_done(self, response: Response, action: str) -> bool:
        return text_at(response, "num_records_imported") not in ("", "0")

    def error_of(self, response: Response) -> tuple[str, str]:
        stored = text_at(response, "num_records_imported")
        message = text_at(response, "failed_records", 0, "message") or text_at(response, "error")
        if response.status == 400 and stored == "1":
            return "imported", ""
        if response.status < 300:
            return ("not_imported", message) if stored == "0" else ("", "")
        return "", message


def _check_size(value: object, where: str) -> None:
    """Raises Unsendable for an object or array that Mixpanel does not take; it refuses the whole event for one."""
    if not isinstance(value, dict | list):
        return
    if len(value) >= MAX_MEMBERS:
        raise Unsendable(f"Mixpanel takes fewer than {MAX_MEMBERS} members; {where} has {len(value)}. Map fewer.")
    for key, member in value.items() if isinstance(value, dict) else enumerate(value):
        _check_size(member, f"{key} in {where}")


PROVIDER = Mixpanel()
