"""Segment (segment.com/docs): who somebody is, and what they did. `messageId`, the delivery's id, drops doubles.

Segment answers 200 to everything that is JSON and not too large, also to a wrong write key and to an EU workspace that
is addressed in the US. So nothing but a look into the source's debugger proves a connection.
"""

from connections.messages import Request, Response
from connections.providers.base import Action, Field, Limits, MappingField, Shipment, Unsendable, region
from connections.providers.vendor import (
    USER,
    Vendor,
    VendorError,
    basic,
    given,
    iso_time,
    json_request,
    needed,
    object_in,
    read_object,
    revealed,
    without_nulls,
)
from connections.providers.verdicts import rejected, retry

WHO = (
    MappingField("user_id", "User id", source=USER),
    MappingField("anonymous_id", "Anonymous id", source="payload.anonymous_id", help="Instead of a user id."),
    MappingField(
        "context", "Context", type="object",
        help="By Segment's own names; ip in it is the person's. Without it Segment notes none: it takes no server's.",
    ),
)  # fmt: skip


class Segment(Vendor):
    slug = "segment"
    name = "Segment"
    description = "Sends events and traits of people to a Segment source."
    docs_url = "https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/"
    auth = "api_key"
    base_urls = {"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"}
    config_fields = (region("us", "eu", help="Of the workspace. At the wrong one data is lost without an error."),)
    credential_fields = (
        Field(
            "write_key", "Write key", required=True, sensitive=True, pattern=r"[!-9;-~]+", max_length=255,
            help="Of an HTTP API source. Segment does not say when it is wrong.",
        ),
    )  # fmt: skip
    actions = (
        Action(
            "track", "Record what somebody did", True,
            fields=(
                *WHO,
                MappingField("event", "Event", required=True, source="event.type"),
                MappingField("properties", "Properties", type="object", source="payload"),
            ),
        ),
        Action(
            "identify", "Record who somebody is", True,
            fields=(*WHO, MappingField("traits", "Traits", type="object", source="payload")),
        ),
    )  # fmt: skip
    limits = Limits(body_bytes=32_000)
    test = (
        "Segment offers no check: it answers 200 whatever the write key. "
        "Look into the source's debugger after a first delivery."
    )
    answers = {
        "not_accepted": rejected("Segment did not accept the event. Mend the rule's mapping."),
        400: rejected("Segment cannot read the event, or it is larger than 32 KB. Mend the rule's mapping."),
        410: retry("Segment cannot take it just now (410)."),
        460: retry("Segment cannot take it just now (460)."),
        501: rejected("Segment does not take this request (501). Check the region, then replay."),
        505: rejected("Segment does not take this request (505). Check the region, then replay."),
    }

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        who = {"userId": given(fields, "user_id"), "anonymousId": given(fields, "anonymous_id")}
        if not any(who.values()):
            raise Unsendable(
                "Segment needs a user_id or an anonymous_id, and this event has nothing usable for either."
            )
        if shipment.action == "track":
            what = {"event": needed(fields, "event"), "properties": object_in(fields, "properties")}
        else:
            what = {"traits": object_in(fields, "traits")}
        if context := object_in(fields, "context"):
            what |= {"context": context}
        moment = {"messageId": shipment.delivery_id, "timestamp": iso_time(shipment.occurred_at)}
        url = f"{self.root(shipment)}/v1/{shipment.action}"
        return json_request("POST", url, without_nulls(who) | what | moment, basic(revealed(shipment, "write_key"), ""))

    def error_of(self, response: Response) -> VendorError:
        refused = response.status < 300 and read_object(response).get("success", True) is not True
        return VendorError("not_accepted") if refused else VendorError()

    def is_done(self, response: Response, action: str) -> bool:
        return read_object(response).get("success") is True


PROVIDER = Segment()
