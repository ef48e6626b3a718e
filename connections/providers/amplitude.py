"""Amplitude (amplitude.com/docs): events by HTTP V2. `insert_id`, the delivery's id, drops doubles for a week."""

from dataclasses import replace
from typing import Any

from connections.messages import Request, Response
from connections.providers.analytics import PLACEHOLDERS, REFUSED, TOO_LARGE, USER, project_key, unix_milliseconds
from connections.providers.answers import text_at
from connections.providers.base import Action, Field, Limits, MappingField, Shipment
from connections.providers.fields import Unsendable, region
from connections.providers.vendor import Fields, Vendor, revealed, without_nulls
from connections.providers.verdicts import reauthorize, rejected, retry, throttled

MIN_ID_LENGTH = 5
THROTTLED_SECONDS = 30
MAX_TEXT = 1024
"""Characters of an id and of an event's name; Amplitude cuts what is longer."""
RESERVED = frozenset({"$identify", "$groupidentify", "$exposure"})
"""Events that do something else than be recorded."""


class Amplitude(Vendor):
    slug = "amplitude"
    name = "Amplitude"
    description = "Records events in an Amplitude project."
    docs_url = "https://amplitude.com/docs/apis/analytics/http-v2"
    auth = "api_key"
    authorization = ""
    base_urls = {"us": "https://api2.amplitude.com", "eu": "https://api.eu.amplitude.com"}
    config_fields = (
        region("us", "eu", help="Where the project's data is kept."),
        Field(
            "min_id_length", "Shortest id", type="integer", minimum=1, maximum=MIN_ID_LENGTH, default=MIN_ID_LENGTH,
            frozen=True, help="Characters of a user's or device's id. Lower it where ids are short numbers.",
        ),
    )  # fmt: skip
    credential_fields = (project_key("api_key", "API key", "Of the project; not its secret key."),)
    actions = (
        Action(
            "track", "Record an event", True,
            fields=(
                MappingField("user_id", "User id", source=USER),
                MappingField("device_id", "Device id", source="payload.device_id", help="Instead of a user id."),
                MappingField("event_type", "Event", required=True, source="event.type"),
                MappingField("event_properties", "Properties", type="object", source="payload"),
                MappingField("user_properties", "User's properties", type="object"),
                MappingField("ip", "IP address", help="The person's: Amplitude finds a place by it. Never ours."),
            ),
        ),
    )  # fmt: skip
    limits = Limits(body_bytes=1_000_000)
    test = "Amplitude offers no check of an API key without recording an event."
    answers = {
        "invalid_api_key": reauthorize("Amplitude does not accept the API key. Copy it from the project's settings."),
        "silenced": rejected("Amplitude has silenced this event or device: the project has blocked it there."),
        "not_ingested": rejected("Amplitude has not stored the event. Mend the rule's mapping."),
        "daily_quota": rejected(
            "This user or device has used up Amplitude's quota for the day. Replay tomorrow.", "daily_limit"),
        "throttled_person": retry(
            "Amplitude takes no more events of this user or device for now.", "rate_limited", THROTTLED_SECONDS),
        400: REFUSED,
        413: TOO_LARGE,
        429: throttled("Amplitude asks for fewer events (429).", seconds=THROTTLED_SECONDS),
    }  # fmt: skip

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        shortest = int(shipment.frozen.get("min_id_length") or MIN_ID_LENGTH)
        ids = without_nulls({key: fields.given(key) for key in ("user_id", "device_id")})
        if not ids:
            raise Unsendable("Amplitude needs a user_id or a device_id, and this event has nothing usable for either.")
        for key, value in ids.items():
            _check_id(fields, key, value, shortest)
        name = fields.needed("event_type")
        if name.startswith("[Amplitude]") or name in RESERVED:
            raise Unsendable(f"The event “{name[:60]}” is Amplitude's own. Map event_type to another name.")
        omitted: list[tuple[str, str]] = []
        event = ids | {
            "event_type": fields.needed("event_type", MAX_TEXT),
            "time": unix_milliseconds(shipment.occurred_at),
            "insert_id": shipment.delivery_id,
            "event_properties": _properties(fields, "event_properties", omitted),
            "user_properties": _properties(fields, "user_properties", omitted) or None,
            "ip": fields.given("ip"),
        }
        document = {
            "api_key": revealed(shipment, "api_key"),
            "events": [without_nulls(event)],
            "options": {"min_id_length": shortest} if shortest < MIN_ID_LENGTH else None,
        }
        return replace(self.call("POST", "/2/httpapi", shipment, without_nulls(document)), omitted=tuple(omitted))

    def is_done(self, response: Response, action: str) -> bool:
        return text_at(response, "events_ingested") not in ("", "0")

    def error_of(self, response: Response) -> tuple[str, str]:
        document = response.json_object()
        if response.status < 300:
            return ("not_ingested" if text_at(document, "events_ingested") == "0" else ""), ""
        message = f"{text_at(document, 'error')} {text_at(document, 'missing_field')}".strip()
        if response.status == 400 and "api key" in message.lower().replace("_", " "):
            return "invalid_api_key", message
        return next((code for code, keys in _SIGNS.items() if any(document.get(key) for key in keys)), ""), message


_SIGNS = {
    "silenced": ("silenced_events", "silenced_devices"),
    "daily_quota": ("exceeded_daily_quota_users", "exceeded_daily_quota_devices"),
    "throttled_person": ("throttled_users", "throttled_devices"),
}
"""What a body says of the one event of a request by filling these."""


def _check_id(fields: Fields, key: str, value: str, shortest: int) -> None:
    """Raises Unsendable for an id that Amplitude drops."""
    if len(value) < shortest:
        raise Unsendable(f"Amplitude takes ids of at least {shortest} characters. Map a longer one.")
    fields.needed(key, MAX_TEXT)
    if value.lower() in PLACEHOLDERS or not value.strip("0-"):
        raise Unsendable(f"Amplitude drops the {key} “{value}”: it stands for nobody. Map a person's own id.")


def _properties(fields: Fields, key: str, omitted: list[tuple[str, str]]) -> dict[str, Any]:
    """The properties that Amplitude takes; its own SDKs drop all for one that it does not (amplitude-python,
    `is_validate_properties`)."""
    properties = fields.object(key)
    kept = {name: value for name, value in properties.items() if _is_taken(value)}
    words = "Amplitude takes no array in an array, and no null in one."
    omitted += [(f"{key}.{name}", words) for name in properties if name not in kept]
    return kept


def _is_taken(value: Any) -> bool:
    if isinstance(value, list):
        return all(item is not None and not isinstance(item, list) and _is_taken(item) for item in value)
    return all(_is_taken(item) for item in value.values()) if isinstance(value, dict) else True


PROVIDER = Amplitude()
