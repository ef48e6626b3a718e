"""Intercom (developers.intercom.com): contacts, their events and their tags.

There is no upsert: a contact is searched by its email, then updated or created. A new contact may not be found for
minutes, so a creation can answer 409 with the id of the one that exists.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from connections.messages import Request, Response
from connections.providers.answers import header, is_no_page, rows_at, text_at
from connections.providers.base import Action, Choice, Exchange, Granted, Limits, MappingField, OAuth, Shipment
from connections.providers.crm import FULL_NAME, MOVED
from connections.providers.fields import Unsendable, access_token, region
from connections.providers.vendor import VALUE_REFUSED, Fields, Vendor, account_of, choices, url_part, without_nulls
from connections.providers.verdicts import Verdict, disabled, reauthorize, rejected, retry, throttled

VERSION = "2.16"
MAX_CALLS = 3
FINDABLE_AFTER = timedelta(minutes=30)
"""For so long a contact that is not found may only be new to the search: Intercom says minutes."""
MAX_METADATA = 10
MAX_METADATA_TEXT = 255
RICH: tuple[set[str], ...] = ({"url", "value"}, {"amount", "currency"})
"""The names in objects that metadata may hold: a link with a title, an amount of money."""
EXISTING_ID = re.compile(r"\bid=([0-9A-Za-z]+)")
CANONICAL = re.compile(r'</contacts/([0-9A-Za-z]+)>\s*;\s*rel="?canonical"?')
WHO = (
    MappingField("email", "Email", source="payload.email"),
    MappingField("external_id", "External id", source="payload.user_id", help="Your own id of the person."),
)
CONTACT = (
    *WHO,
    MappingField("name", "Name", source=FULL_NAME),
    MappingField("phone", "Phone", source="payload.phone"),
    MappingField("role", "Role", help="user or lead, when the contact is created; Intercom takes user without it."),
    MappingField("avatar", "Avatar", help="An image's URL."),
    MappingField("signed_up_at", "Signed up at", "number", help="Unix seconds."),
    MappingField("last_seen_at", "Last seen at", "number", help="Unix seconds."),
    MappingField("owner_id", "Owner", "number", help="An admin's id."),
    MappingField("unsubscribed_from_emails", "Unsubscribed from emails", "boolean"),
    MappingField("custom_attributes", "Custom attributes", "object", help="Those that the workspace has."),
)
EVENT = (
    MappingField("event_name", "Event name", required=True, source="event.type"),
    WHO[0],
    MappingField("user_id", "External id", source="payload.user_id", help="Your own id of the person."),
    MappingField("id", "Contact id", help="Intercom's own; it alone finds leads."),
    MappingField("metadata", "Metadata", type="object", help="At most ten values, not nested."),
)


class Intercom(Vendor):
    slug = "intercom"
    name = "Intercom"
    description = "Creates and updates contacts, tags them and records their events in Intercom."
    docs_url = "https://developers.intercom.com/docs/references/rest-api/api.intercom.io"
    auth = "oauth2"
    oauth = OAuth(
        authorize_url="https://app.intercom.com/oauth",
        token_url="https://api.intercom.io/auth/eagle/token",  # noqa: S106  (no secret)
        details_url="https://api.intercom.io/me",
        details_headers=(("intercom-version", VERSION),),
        refreshes=False,
        regional_hosts={
            "eu": {"app.intercom.com": "app.eu.intercom.com", "api.intercom.io": "api.eu.intercom.io"},
            "au": {"app.intercom.com": "app.au.intercom.com", "api.intercom.io": "api.au.intercom.io"},
        },
    )
    base_urls = {
        "us": "https://api.intercom.io",
        "eu": "https://api.eu.intercom.io",
        "au": "https://api.au.intercom.io",
    }
    config_fields = (region("us", "eu", "au", help="Where Intercom hosts the workspace."),)
    credential_fields = (access_token("Of an app in the workspace."),)
    actions = (
        Action(
            "upsert_contact", "Create or update a contact", False, fields=CONTACT, is_open=True,
            steps=("find", "create or update", "update the one that exists"),
            help="Not repeated when a creation got no answer: Intercom may hold several contacts with one email.",
        ),
        Action(
            "track_event", "Track an event", True, fields=EVENT,
            help="Of events with one name of one contact in one second Intercom keeps the first.",
        ),
        Action(
            "tag_contact", "Tag a contact", True, steps=("find", "tag"),
            fields=(MappingField("tag_id", "Tag", required=True, help="A tag's id."), *WHO),
        ),
    )  # fmt: skip
    limits = Limits(in_flight=10, rate=50)
    limit_headers = ("x-ratelimit-remaining", "x-ratelimit-reset", 10.0)
    limit_ends_at = True
    repeatable = ("/contacts/search",)
    live_options = {"tag_id": "Tags"}
    headers = (("accept", "application/json"), ("intercom-version", VERSION))
    code_at, message_at = ("errors", 0, "code"), ("errors", 0, "message")
    account_at = (("app", "id_code"), ("app", "name"))
    test_path = "/me"
    test = "Asks who the token belongs to; writes nothing."
    answers = {
        "parameter_invalid": VALUE_REFUSED,
        "parameter_not_found": rejected("Intercom misses a value. Map it in the rule."),
        "data_invalid": rejected(
            "Intercom refuses a value, or has no such attribute. Define it in Intercom, or mend the rule's mapping."),
        "not_found": rejected("Intercom has no such contact or tag. Create the contact first, and check the tag's id."),
        "not_restorable": rejected(
            "Intercom does not restore a contact deleted for good. Leave such events out by a filter."),
        "api_plan_restricted": disabled(
            "The workspace's plan does not include this. Change the plan, or the rule, then resume.", "plan"),
        "intercom_version_invalid": disabled(
            f"Intercom no longer takes version {VERSION} of its API: Meshes must be updated.", "retired"),
        ("rate_limit_exceeded", "too_many_requests", "retry_after"): throttled("Intercom asks for fewer requests."),
        401: reauthorize("Intercom does not accept the token (401). Authorize again, and check the region."),
        409: rejected("Intercom has several contacts that match. Merge them there, or map an external_id.", "conflict"),
        410: retry("The contact has been merged with another; it is looked up again.", "contact_moved"),
    }  # fmt: skip

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        if shipment.action == "track_event":
            return self.call("POST", "/events", shipment, _event(shipment, fields))
        if shipment.action == "tag_contact":
            fields.needed("tag_id")
        key, value = _identity(fields, "email", "external_id")
        if shipment.action == "upsert_contact" and key == "external_id":
            return self._write(shipment)
        search = {"query": {"field": key, "operator": "=", "value": value}}
        return self.call("POST", "/contacts/search", shipment, search)

    def follow(self, shipment: Shipment, exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        request, response = exchanges[-1].request, exchanges[-1].response
        if request.url.endswith("/contacts/search"):
            return self._after_search(shipment, response) if response.status == 200 else None
        if shipment.action != "upsert_contact":
            return None
        if request.method == "POST":  # a creation
            existing = EXISTING_ID.search(self.error_of(response)[1]) if response.status == 409 else None
            return self._write(shipment, existing[1]) if existing else None
        if response.status not in (404, 410):
            return None
        # A contact that was found may be merged (410, with a link to the other) or archived (404).
        merged = CANONICAL.search(header(response, "link") or "")
        if merged and len(exchanges) < MAX_CALLS:
            return self._write(shipment, merged[1])
        words = "An archived contact has this email or external_id. Restore it in Intercom, or delete it for good."
        is_archived = any(exchange.response.status == 409 for exchange in exchanges)
        return rejected(words, "archived") if is_archived else MOVED

    def _after_search(self, shipment: Shipment, response: Response) -> Request | Verdict:
        rows = rows_at(response, "data")
        users = [row for row in rows if text_at(row, "role") == "user"]
        contact = text_at((users or rows or [None])[0], "id")
        if not contact and (rows or "data" not in response.json_object()):
            return retry("Intercom's answer to the search could not be read.", "unreadable_answer")
        if shipment.action == "upsert_contact":
            return self._write(shipment, contact)
        if contact:
            tag = {"id": self.fields(shipment).needed("tag_id")}
            return self.call("POST", f"/contacts/{url_part(contact)}/tags", shipment, tag)
        if shipment.now - shipment.occurred_at < FINDABLE_AFTER:
            return retry("Intercom does not find the contact; a new one takes minutes.", "contact_not_found", 60)
        return rejected("Intercom has no such contact. Create it first, then replay.", "contact_not_found")

    def is_done(self, response: Response, action: str) -> bool:
        """An event is taken (202) without a word; a contact and a tag are named."""
        is_event = action == "track_event"
        return response.status == 202 and is_no_page(response) if is_event else text_at(response, "id") != ""

    def read_grant(self, reply: Mapping[str, Any], details: Mapping[str, Any]) -> Granted:
        region = text_at(details, "app", "region").lower()
        account = account_of(details, ("app", "id_code"), ("app", "name"))
        return Granted({"region": region} if region in self.base_urls else {}, account)

    def build_options(self, field: str, shipment: Shipment, cursor: str = "") -> Request:
        return self.call("GET", {"tag_id": "/tags"}[field], shipment)

    def read_options(self, field: str, response: Response) -> list[Choice]:
        return choices(response, "data")

    def _write(self, shipment: Shipment, contact: str = "") -> Request:
        """Create the contact, or update the one with this id, whose role stays."""
        fields = without_nulls(self.fields(shipment))
        if not contact:
            return self.call("POST", "/contacts", shipment, fields)
        fields.pop("role", None)
        return self.call("PUT", f"/contacts/{url_part(contact)}", shipment, fields)


def _event(shipment: Shipment, fields: Fields) -> dict[str, Any]:
    """The same over all attempts, to the second, so that Intercom drops a second one."""
    _identity(fields, "id", "user_id", "email")
    _check_metadata(fields.get("metadata") or {})
    event = {"event_name": fields.needed("event_name"), "created_at": int(shipment.occurred_at.timestamp())}
    return event | without_nulls({key: value for key, value in fields.items() if key not in event})


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raises Unsendable for what Intercom does not take; of objects it knows links and amounts only."""
    if len(metadata) > MAX_METADATA:
        raise Unsendable(f"The metadata have {len(metadata)} values; Intercom takes at most {MAX_METADATA}. Map fewer.")
    for key, value in metadata.items():
        if set(key) & set(".$"):
            raise Unsendable(f"Intercom takes no full stop and no $ in the name of a metadata value: {key[:60]}.")
        if isinstance(value, list) or (isinstance(value, dict) and set(value) not in RICH):
            raise Unsendable(f"The metadata value {key} is nested; Intercom takes texts and numbers. Map its parts.")
        if isinstance(value, str) and len(value) > MAX_METADATA_TEXT:
            raise Unsendable(f"The metadata value {key} is longer than {MAX_METADATA_TEXT} characters. Shorten it.")


def _identity(fields: Fields, *keys: str) -> tuple[str, str]:
    """The first of these fields that is filled, and its value. Raises Unsendable."""
    for key in keys:
        if fields.get(key):
            return key, fields.needed(key)
    raise Unsendable(f"Intercom finds a contact by {' or '.join(keys)}; this event has none of them.")


PROVIDER = Intercom()
