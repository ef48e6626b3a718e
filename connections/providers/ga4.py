"""Google Analytics 4 (developers.google.com/analytics): events by the Measurement Protocol.

Google answers 2xx to whatever arrives and processes it later, or not. So what it would drop without a word is refused
here: names, sizes, age. Its terms forbid what identifies a person, so the default parameters hold no such thing. Google
drops no doubles, and asks not to repeat unchanged what it has refused.
"""

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

from connections.messages import Request, Response
from connections.providers.analytics import project_key, unix_milliseconds
from connections.providers.answers import is_no_page
from connections.providers.base import Action, Field, Limits, MappingField, Shipment
from connections.providers.fields import Unsendable, region
from connections.providers.vendor import Vendor, revealed, typed, url_part, without_nulls
from connections.providers.verdicts import rejected

MAX_PARAMS = 25
MAX_AGE = timedelta(hours=72)
ENGAGEMENT_MSEC = 100
"""Without an engagement time events do not show in the Realtime report."""
PARAMS = (
    "payload.{source: source, medium: medium, campaign: campaign, "
    "value: currency && value, currency: value && currency}"
)
NAMES = "One has at most 40 letters, digits and _, and begins with a letter, and not with firebase_, ga_ or google_."
MAX_ITEMS = 200
LONGEST = {"page_title": 300, "page_referrer": 420, "page_location": 1000}
"""Characters of the values that may be longer than others."""
RESERVED = frozenset(
    {
        "ad_activeview", "ad_click", "ad_exposure", "ad_impression", "ad_query", "ad_reward", "adunit_exposure",
        "app_background", "app_clear_data", "app_exception", "app_install", "app_remove", "app_store_refund",
        "app_store_subscription_cancel", "app_store_subscription_convert", "app_store_subscription_renew",
        "app_update", "app_upgrade", "click", "dynamic_link_app_open", "dynamic_link_app_update",
        "dynamic_link_first_open", "error", "file_download", "first_open", "first_visit", "form_start", "form_submit",
        "in_app_purchase", "notification_dismiss", "notification_foreground", "notification_open",
        "notification_receive", "notification_send", "os_update", "page_view", "screen_view", "scroll",
        "session_start", "session_start_with_rollout", "user_engagement", "video_complete", "video_progress",
        "video_start", "view_complete", "view_search_results",
    }
)  # fmt: skip
"""Names of events that Google keeps for those that it collects itself (support.google.com/analytics/answer/13316687,
and the protocol's reference, which has `screen_view`). The list says that it is not complete; its `view_complete`
is what the tag itself sends as `video_complete`."""
NUMBERS = frozenset({"discount", "index", "price", "quantity", "shipping", "tax", "value"})
"""Parameters of events and items that Google reads as numbers (the protocol's reference, "events")."""
_NAME = re.compile(r"(?!(?:firebase|ga|google)_|query_id)[A-Za-z][A-Za-z0-9_]{0,39}")


class GoogleAnalytics(Vendor):
    slug = "ga4"
    name = "Google Analytics"
    description = "Records events in a Google Analytics 4 property by the Measurement Protocol."
    docs_url = "https://developers.google.com/analytics/devguides/collection/protocol/ga4"
    auth = "api_key"
    authorization = ""
    base_urls = {"global": "https://www.google-analytics.com", "eu": "https://region1.google-analytics.com"}
    config_fields = (
        Field(
            "measurement_id", "Measurement id", required=True, pattern=r"G-[A-Z0-9]+", max_length=30,
            example="G-ABC1234567", help="Of the web data stream.",
        ),
        region("global", "eu"),
        Field(
            "max_value_length", "Longest value", type="integer", minimum=100, maximum=500, default=100, frozen=True,
            help="Characters of a parameter's value: 100, and 500 in Google Analytics 360.",
        ),
    )  # fmt: skip
    credential_fields = (
        project_key(
            "api_secret", "API secret",
            "Of the data stream's Measurement Protocol. Google does not say when it is wrong.",
        ),
    )  # fmt: skip
    actions = (
        Action(
            "track", "Record an event", False, help="Recorded as received; Google does not say what becomes of it.",
            fields=(
                MappingField(
                    "client_id", "Client id", required=True, source="payload.client_id",
                    help="The browser's, as the Google tag knows it.",
                ),
                MappingField("user_id", "User id", source="payload.user_id", help="Must not be an email address."),
                MappingField("name", "Event", required=True, source="event.type", help="lead.created is lead_created."),
                MappingField("session_id", "Session id", source="payload.session_id"),
                MappingField(
                    "params", "Parameters", type="object", source=PARAMS,
                    help="Texts and numbers; items, an array of objects. A value needs its currency. Google forbids"
                    " email addresses, telephone numbers and the like.",
                ),
            ),
        ),
    )  # fmt: skip
    limits = Limits(body_bytes=130_000)
    test = "Google offers no check: it answers 2xx whatever it is sent. Look into Realtime after a first delivery."
    answers = {
        (400, 408, 409, 423, 425, 429): rejected(
            "Google Analytics refuses the request. Mend the rule's mapping, then replay."
        )
    }

    def is_done(self, response: Response, action: str) -> bool:
        """Google answers nothing to everything that it got."""
        return is_no_page(response)

    def build_request(self, shipment: Shipment) -> Request:
        if shipment.now - shipment.occurred_at > MAX_AGE:
            raise Unsendable("Google Analytics takes events of the last 72 hours; this one is older.")
        fields = self.fields(shipment)
        longest = int(shipment.frozen.get("max_value_length") or 100)
        params = {"engagement_time_msec": ENGAGEMENT_MSEC, **_params(fields.object("params"), longest)}
        omitted: list[tuple[str, str]] = []
        if "value" not in params and params.pop("currency", None) is not None:
            omitted.append(("params.currency", "Google Analytics takes a currency with its value only."))
        if session := fields.given("session_id"):
            params["session_id"] = session
        if len(params) > MAX_PARAMS:
            raise Unsendable(f"The event has {len(params)} parameters; Google Analytics takes at most {MAX_PARAMS}.")
        document = {
            "client_id": fields.needed("client_id"),
            "user_id": fields.given("user_id"),
            "timestamp_micros": unix_milliseconds(shipment.occurred_at) * 1000,
            "events": [{"name": _name(fields.needed("name")), "params": params}],
        }
        secret, stream = url_part(revealed(shipment, "api_secret")), shipment.config["measurement_id"]
        path = f"/mp/collect?measurement_id={stream}&api_secret={secret}"
        return replace(self.call("POST", path, shipment, without_nulls(document)), omitted=tuple(omitted))


def _name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]", "_", text)
    if not _NAME.fullmatch(name):
        raise Unsendable(f"Google Analytics does not take the event name “{name[:60]}”. {NAMES} Map name.")
    if name in RESERVED:
        raise Unsendable(f"Google Analytics reserves the event name “{name}”, and drops such an event. Map name.")
    return name


def _params(given: dict[str, Any], longest: int) -> dict[str, Any]:
    params = without_nulls(given)
    items = params.pop("items", None)
    taken = without_nulls({key: _value(key, value, longest) for key, value in params.items()})
    if "value" in taken and not taken.get("currency"):
        raise Unsendable("Google Analytics takes a value with its currency only, such as EUR. Map params.currency too.")
    return taken if items is None else taken | {"items": _items(items, longest)}


def _value(key: str, value: Any, longest: int) -> str | int | float | None:
    """A parameter's value; None for a blank where a number belongs. Raises Unsendable."""
    if not _NAME.fullmatch(key):
        raise Unsendable(f"Google Analytics does not take the parameter name “{key[:60]}”. {NAMES} Map it by another.")
    if not isinstance(value, str | int | float):
        raise Unsendable(f"The parameter {key} must be a text or a number.")
    if key in NUMBERS:
        number: int | float | None = typed(MappingField(f"params.{key}", key, "number"), value)
        return number
    longest = max(longest, LONGEST.get(key, 0))
    if len(str(value)) > longest:
        raise Unsendable(f"The parameter {key} is longer than {longest} characters. Shorten it by substring.")
    return str(value).lower() if isinstance(value, bool) else value


def _items(items: Any, longest: int) -> list[dict[str, Any]]:
    """The products of an e-commerce event, each with a name or an id."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Unsendable("The parameter items must be an array of objects.")
    if len(items) > MAX_ITEMS:
        raise Unsendable(f"The event has {len(items)} items; Google Analytics takes at most {MAX_ITEMS}.")
    kept = [without_nulls(item) for item in items]
    if not all(item.get("item_id") or item.get("item_name") for item in kept):
        raise Unsendable("Each of the items needs an item_id or an item_name.")
    return [without_nulls({key: _value(key, value, longest) for key, value in item.items()}) for item in kept]


PROVIDER = GoogleAnalytics()
