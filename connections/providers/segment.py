"""Segment (segment.com/docs): who somebody is, and what they did. `messageId`, the delivery's id, drops doubles.

Segment answers 200 to everything that is JSON and not too large, also to a wrong write key and to an EU workspace that
is addressed in the US. So nothing but a look into the source's debugger proves a connection.
"""

from connections.messages import Request, Response
from connections.providers.analytics import EVENT, USER, iso_time, project_key
from connections.providers.base import Action, Limits, MappingField, Shipment
from connections.providers.fields import Unsendable, region
from connections.providers.vendor import Vendor, without_nulls
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
    authorization = "Basic {write_key}:"
    base_urls = {"us": "https://api.segment.io", "eu": "https://events.eu1.segmentapis.com"}
    config_fields = (region("us", "eu", help="Of the workspace. At the wrong one data is lost without an error."),)
    credential_fields = (
        project_key(
            "write_key", "Write key", "Of an HTTP API source. Segment does not say when it is wrong.", r"[!-9;-~]+"
        ),
    )
    actions = (
        Action(
            "track", "Record what somebody did", True,
            fields=(*WHO, EVENT, MappingField("properties", "Properties", type="object", source="payload")),
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
        event = without_nulls({"userId": fields.given("user_id"), "anonymousId": fields.given("anonymous_id")})
        if not event:
            raise Unsendable(
                "Segment needs a user_id or an anonymous_id, and this event has nothing usable for either."
            )
        if shipment.action == "track":
            event |= {"event": fields.needed("event"), "properties": fields.object("properties")}
        else:
            event |= {"traits": fields.object("traits")}
        if context := fields.object("context"):
            event |= {"context": context}
        event |= {"messageId": shipment.delivery_id, "timestamp": iso_time(shipment.occurred_at)}
        return self.call("POST", f"/v1/{shipment.action}", shipment, event)

    def error_of(self, response: Response) -> tuple[str, str]:
        refused = response.status < 300 and response.json_object().get("success", True) is not True
        return ("not_accepted" if refused else ""), ""

    def is_done(self, response: Response, action: str) -> bool:
        return response.json_object().get("success") is True


PROVIDER = Segment()
