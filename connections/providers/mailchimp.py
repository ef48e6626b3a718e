"""Mailchimp Marketing (mailchimp.com/developer): members of an audience, their tags and their events.

A member's address in the API is the MD5 of the e-mail address in lower case. `status` is never sent: it would subscribe
again whoever has opted out; `status_if_new` holds for new members only.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from connections.messages import OutboundError, Request, Response
from connections.providers.answers import text_at
from connections.providers.base import Action, Choice, Exchange, Limits, MappingField, OAuth, Shipment
from connections.providers.crm import person
from connections.providers.fields import Field, NotAuthorized, Unsendable, access_token
from connections.providers.vendor import Fields, Vendor, choices, filled, revealed, url_part, without_nulls
from connections.providers.verdicts import Verdict, disabled, reauthorize, rejected, throttled

DATA_CENTRE = r"[a-z]{2}[0-9]{1,3}"
NO_AUDIENCE = disabled("The audience does not exist any more. Set list_id to another, then resume.", "no_audience")
THROTTLED = "403 without JSON"
ADDRESS = "Invalid Resource of the address"

MEMBER = person("email", "FNAME", "LNAME", phone="PHONE")
OPTIONS = {"list_id": "/lists?count=1000&fields=lists.id,lists.name", "tags": "/lists/{list_id}/tag-search"}


class Mailchimp(Vendor):
    slug = "mailchimp"
    name = "Mailchimp"
    description = "Adds and updates members of a Mailchimp audience, tags them and records their events."
    docs_url = "https://mailchimp.com/developer/marketing/api/list-members/"
    auth = "oauth2"
    oauth = OAuth(
        authorize_url="https://login.mailchimp.com/oauth2/authorize",
        token_url="https://login.mailchimp.com/oauth2/token",  # noqa: S106  (no secret)
        details_url="https://login.mailchimp.com/oauth2/metadata",
        details_scheme="OAuth",
        refreshes=False,
    )
    config_fields = (
        Field("list_id", "Audience", required=True, pattern=r"[A-Za-z0-9]{1,40}", help="The audience's id."),
        Field(
            "status_if_new", "Status of new members", type="select", default="subscribed", frozen=True,
            options=("subscribed", "pending", "unsubscribed", "transactional"),
            help="pending asks them by e-mail to confirm. Members that exist keep theirs.",
        ),
        Field(
            "dc", "Data centre", pattern=DATA_CENTRE, example="us21", selects_host=True,
            help="Set by authorizing the connection. An API key ends in it.",
        ),
    )  # fmt: skip
    credential_fields = (
        access_token(),
        Field(
            "api_key", "API key", sensitive=True, pattern=rf"[A-Za-z0-9]{{1,100}}-{DATA_CENTRE}",
            example=f"{'#' * 32}-us21", help="In place of authorizing the connection.",
        ),
    )  # fmt: skip
    actions = (
        Action(
            "upsert_member", "Add or update a member", True, fields=MEMBER, is_open=True,
            help="Fields of other names are the audience's merge fields.",
        ),
        Action(
            "add_tags", "Tag a member", True, is_open=True, steps=("upsert member", "add tags"),
            fields=(MappingField("tags", "Tags", "any", required=True, help="A name, or a list of names."), *MEMBER),
        ),
        Action(
            "track_event", "Track an event of a member", False,
            fields=(
                MEMBER[0],
                MappingField("name", "Event name", required=True, source="event.type", help="2 to 30 characters."),
                MappingField("properties", "Properties", "object", help="Of texts."),
            ),
        ),
    )  # fmt: skip
    limits = Limits(in_flight=10)
    live_options = {"list_id": "Audiences", "tags": "Tags of the audience"}
    account_at = (("account_id",), ("account_name",))
    granted = {"dc": ("details", "dc")}
    test_path = "/"
    test = "Asks for the account's details; writes nothing."
    answers = {
        THROTTLED: throttled("Mailchimp takes no more requests just now.", seconds=60),
        ADDRESS: rejected("Mailchimp refuses the address, which may look fake or invalid. Mend the rule's mapping."),
        "Invalid Resource": rejected("Mailchimp refuses a value. Mend the rule's mapping."),
        "Wrong Datacenter": reauthorize(
            "The account is in another data centre. Set the connection's dc, or give the API key as it is.",
            "forbidden"),
        "Forgotten Email Not Subscribed": rejected(
            "This person was deleted for good. Only they can come back, by the audience's sign-up form.", "forgotten"),
        "Member In Compliance State": rejected(
            "This person has unsubscribed or bounced. Only they can subscribe again, by a form.", "compliance"),
        "Member Exists": rejected("Another member of the audience has this address. Merge them in Mailchimp."),
        401: reauthorize("Mailchimp does not accept the credentials (401). Authorize again, or replace the API key."),
        404: rejected("The audience or the member does not exist. Check list_id; events and tags need a member."),
    }  # fmt: skip

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        email = fields.needed("email")
        if shipment.action == "track_event":
            return self._call_member("POST", "/events", email, shipment, _event(shipment, fields))
        if shipment.action == "add_tags":
            _tags(fields)
        merge_fields = {key: value for key, value in without_nulls(fields).items() if key not in {"email", "tags"}}
        member = {
            "email_address": email,
            "status_if_new": shipment.frozen.get("status_if_new") or "subscribed",
            "merge_fields": merge_fields,
        }
        return self._call_member("PUT", "", email, shipment, member)

    def follow(self, shipment: Shipment, exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        if shipment.action != "add_tags" or len(exchanges) > 1 or exchanges[0].response.status != 200:
            return None
        fields = self.fields(shipment)
        tags = {"tags": [{"name": name, "status": "active"} for name in _tags(fields)]}
        return self._call_member("POST", "/tags", fields.needed("email"), shipment, tags)

    def error_of(self, response: Response) -> tuple[str, str]:
        document = response.json_object()
        if response.status == 403 and not document:
            return THROTTLED, ""
        if response.status < 300:
            return "", ""
        title, field = text_at(document, "title"), text_at(document, "errors", 0, "field")
        problem = text_at(document, "errors", 0, "message")
        message = f"{field}: {problem}".removeprefix(": ") if problem else text_at(document, "detail")
        is_address = field == "email_address" if field else "looks fake" in message
        return (ADDRESS if title == "Invalid Resource" and is_address else title), message

    def is_done(self, response: Response, action: str) -> bool:
        """Tags and events are taken (204) without a word; a member is named."""
        return response.status == 204 or (action == "upsert_member" and text_at(response, "id") != "")

    def classify(self, answer: Response | OutboundError, action: str) -> Verdict:
        """Where a member is put, as before tags, only the audience can be missing, and that is the connection's."""
        if action != "track_event" and isinstance(answer, Response) and answer.status == 404:
            return NO_AUDIENCE
        return super().classify(answer, action)

    def build_options(self, field: str, shipment: Shipment, cursor: str = "") -> Request:
        list_id = url_part(shipment.config.get("list_id", ""))
        return self.call("GET", OPTIONS[field].replace("{list_id}", list_id), shipment)

    def read_options(self, field: str, response: Response) -> list[Choice]:
        return choices(response, "lists") if field == "list_id" else choices(response, "tags", value="name")

    def root(self, shipment: Shipment) -> str:
        dc = shipment.config.get("dc") or ""
        if not dc and "access_token" not in shipment.credentials:
            dc = revealed(shipment, "api_key").rpartition("-")[2]
        if not self.override and not re.fullmatch(DATA_CENTRE, dc):
            raise NotAuthorized("The data centre is not known: set dc, such as us21, or an API key that ends in it.")
        return (self.override or f"https://{dc}.api.mailchimp.com") + "/3.0"

    def authorized(self, shipment: Shipment) -> tuple[tuple[str, str], ...]:
        is_oauth = "access_token" in shipment.credentials
        return filled("Bearer {access_token}" if is_oauth else "Basic meshes:{api_key}", shipment)

    def _call_member(self, method: str, below: str, email: str, shipment: Shipment, document: object) -> Request:
        key = hashlib.md5(email.lower().encode(), usedforsecurity=False).hexdigest()
        path = f"/lists/{url_part(shipment.config['list_id'])}/members/{key}{below}"
        return self.call(method, path, shipment, document)


def _tags(fields: Fields) -> list[str]:
    """Their names. Raises Unsendable."""
    tags = fields.get("tags")
    names = [tags] if isinstance(tags, str) else tags
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise Unsendable("The field tags must be a name, or a list of names.")
    return [name.strip() for name in names]


def _event(shipment: Shipment, fields: Fields) -> dict[str, Any]:
    properties = fields.get("properties") or {}
    if not isinstance(properties, dict) or any(isinstance(value, dict | list) for value in properties.values()):
        raise Unsendable("The field properties must be an object of texts.")
    known = without_nulls(properties)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}
    name = fields.needed("name", 30, shortest=2)
    return {"name": name, "properties": texts, "occurred_at": shipment.occurred_at.isoformat()}


PROVIDER = Mailchimp()
