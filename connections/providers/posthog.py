"""PostHog (posthog.com/docs): events by the capture API. `uuid`, made of the delivery's id, drops doubles.

PostHog answers 200 to an event that it drops because the quota is used up, and probably to a key that it does not know.
It would place an event where our server stands: `$geoip_disable` says not to, unless the mapping gives a `$ip`.
"""

from connections.messages import Request, Response
from connections.providers.analytics import EVENT, PERSON, REFUSED, TOO_LARGE, iso_time, project_key, uuid_of
from connections.providers.answers import text_at
from connections.providers.base import Action, Limits, MappingField, Shipment
from connections.providers.fields import region
from connections.providers.vendor import Vendor, revealed
from connections.providers.verdicts import reauthorize, throttled

MAX_ID = 200
"""Characters of a distinct id and of an event's name; PostHog cuts longer ones, and two people could become one."""


class PostHog(Vendor):
    slug = "posthog"
    name = "PostHog"
    description = "Records events in a PostHog project."
    docs_url = "https://posthog.com/docs/api/capture"
    auth = "api_key"
    authorization = ""
    base_urls = {"us": "https://us.i.posthog.com", "eu": "https://eu.i.posthog.com"}
    config_fields = (region("us", "eu", help="Of PostHog Cloud. At the wrong one data is lost without an error."),)
    credential_fields = (
        project_key(
            "api_key", "Project API key", "phc_…, from the project's settings. PostHog may not say when it is wrong."
        ),
    )
    actions = (
        Action(
            "track", "Record an event", True,
            fields=(
                PERSON, EVENT,
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
            "The PostHog project has used up its quota of events. Raise its billing limit.", "quota_limited", 3600),
        400: REFUSED,
        401: reauthorize("PostHog does not accept the project API key (phc_…). Copy it from the project's settings."),
        413: TOO_LARGE,
    }  # fmt: skip

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        properties = fields.object("properties")
        event = {
            "api_key": revealed(shipment, "api_key"),
            "event": fields.needed("event", MAX_ID),
            "distinct_id": fields.needed("distinct_id", MAX_ID),
            "properties": properties if properties.get("$ip") else {"$geoip_disable": True, **properties},
            "timestamp": iso_time(shipment.occurred_at),
            "uuid": uuid_of(shipment),
        }
        return self.call("POST", "/i/v0/e/", shipment, event)

    def is_done(self, response: Response, action: str) -> bool:
        """Older ones of one's own say 1."""
        return text_at(response, "status") in ("Ok", "1")

    def error_of(self, response: Response) -> tuple[str, str]:
        if response.status < 300:
            return ("quota_limited" if response.json_object().get("quota_limited") else ""), ""
        return "", text_at(response, "detail") or text_at(response, "error")


PROVIDER = PostHog()
