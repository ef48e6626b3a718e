"""Pipedrive (developers.pipedrive.com): persons.

There is no upsert: a person is searched by e-mail address, then updated or created.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from connections.messages import Request, Response
from connections.providers.answers import rows_at, text_at
from connections.providers.base import Action, Exchange, Limits, MappingField, OAuth, Shipment
from connections.providers.crm import FULL_NAME, host_problems
from connections.providers.fields import Field, FieldProblem, access_token
from connections.providers.vendor import VALUE_REFUSED, Fields, Vendor, revealed, url_part
from connections.providers.verdicts import Verdict, disabled, reauthorize, retry, throttled

PERSONS = "/api/v2/persons"
BLOCKED = "403 without JSON"
API_DOMAIN = re.compile(r"https://(?:[a-z0-9-]+\.)+pipedrive\.com/?", re.IGNORECASE)

PERSON = (
    MappingField("email", "Email", required=True, source="payload.email"),
    MappingField("name", "Name", source=FULL_NAME),
    MappingField("phone", "Phone number", source="payload.phone", help="Set where the person has none yet."),
)


class Pipedrive(Vendor):
    slug = "pipedrive"
    name = "Pipedrive"
    description = "Creates and updates persons in Pipedrive."
    docs_url = "https://developers.pipedrive.com/docs/api/v1/Persons"
    auth = "oauth2"
    oauth = OAuth(
        authorize_url="https://oauth.pipedrive.com/oauth/authorize",
        token_url="https://oauth.pipedrive.com/oauth/token",  # noqa: S106  (no secret)
        revoke_url="https://oauth.pipedrive.com/oauth/revoke",
        client_auth="basic",
        lifetime_seconds=3600,
        hosts=("pipedrive.com",),
    )
    base_urls = {"": "https://api.pipedrive.com"}
    config_fields = (
        Field("api_domain", "API domain", type="url", help="The company's own, such as https://acme.pipedrive.com."),
    )
    credential_fields = (
        access_token(),
        Field("api_token", "API token", sensitive=True, pattern=r"[\x21-\x7e]+", help="A user's personal token."),
    )
    actions = (
        Action(
            "upsert_person", "Create or update a person", False, fields=PERSON, is_open=True,
            steps=("find", "create or update"),
            help="Not repeated when a creation got no answer: Pipedrive may hold several persons with one address.",
        ),
    )  # fmt: skip
    limits = Limits(in_flight=4, rate=5)
    limit_headers = ("x-ratelimit-remaining", "x-ratelimit-reset", 2.0)
    account_at = (("data", "company_id"), ("data", "company_name"))
    granted = {"api_domain": ("reply", "api_domain")}
    test_path = "/v1/users/me"
    test = "Asks which user and company the token belongs to; writes nothing."
    answers = {
        BLOCKED: throttled("Pipedrive blocks this account's requests for a while.", "blocked", 3600),
        400: VALUE_REFUSED,
        401: reauthorize("Pipedrive does not accept the token (401). Authorize again, or replace the API token."),
        402: disabled("The Pipedrive account is not paid for. Mend that in Pipedrive, then resume.", "unpaid"),
        403: reauthorize("The token may not write contacts (403). Grant that scope, then test.", "forbidden"),
    }

    def build_request(self, shipment: Shipment) -> Request:
        term = url_part(self.fields(shipment).needed("email"))
        return self.call("GET", f"{PERSONS}/search?term={term}&fields=email&exact_match=true", shipment)

    def follow(self, shipment: Shipment, exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        last = exchanges[-1]
        if last.request.method == "PATCH" and last.response.status in (404, 410):
            return retry("The person was deleted just now; it is looked up again.", "person_gone")
        if len(exchanges) > 1 or last.response.status != 200:
            return None
        data = last.response.json_object().get("data")
        if not isinstance(data, dict) or not isinstance(data.get("items"), list):
            return retry("Pipedrive's answer to the search could not be read.", "unreadable_answer")
        fields = self.fields(shipment)
        email = fields.needed("email")
        person = _with_email(data["items"], email)
        if person is None:
            new = {"name": email, "emails": [_entry(email)]} | _phones(fields) | _others(fields)
            return self.call("POST", PERSONS, shipment, new)
        # Addresses and numbers that are known stay: a list that is sent would replace them all.
        changed = ({} if person.get("phones") else _phones(fields)) | _others(fields)
        return self.call("PATCH", f"{PERSONS}/{url_part(text_at(person, 'id'))}", shipment, changed)

    def error_of(self, response: Response) -> tuple[str, str]:
        document = response.json_object()
        if response.status == 403 and not document:
            return BLOCKED, ""
        if response.status >= 300 or document.get("success") is False:
            return ("" if response.status >= 300 else "error"), text_at(document, "error")
        return "", ""

    def is_done(self, response: Response, action: str) -> bool:
        return response.json_object().get("success") is True

    def root(self, shipment: Shipment) -> str:
        own = shipment.config.get("api_domain")
        return own.strip().rstrip("/") if own and not self.override else super().root(shipment)

    def check(self, config: Mapping[str, Any], credentials: Mapping[str, Any]) -> Sequence[FieldProblem]:
        words = "Must be the company's own https URL, such as https://acme.pipedrive.com."
        return () if self.override else host_problems(config, "api_domain", API_DOMAIN, words)

    def authorized(self, shipment: Shipment) -> tuple[tuple[str, str], ...]:
        if "api_token" in shipment.credentials and "access_token" not in shipment.credentials:
            return (("x-api-token", revealed(shipment, "api_token")),)
        return super().authorized(shipment)


def _phones(fields: Fields) -> dict[str, Any]:
    phone = fields.get("phone")
    return {"phones": [_entry(phone)]} if phone else {}


def _entry(value: Any) -> dict[str, Any]:
    return {"value": value, "primary": True, "label": "work"}


def _others(fields: Fields) -> dict[str, Any]:
    """Without a name where the event has none."""
    return {key: value for key, value in fields.items() if key not in {"email", "phone"} and (key != "name" or value)}


def _with_email(items: Sequence[Any], email: str) -> dict[str, Any] | None:
    """The first person with exactly this address: a search that matched less would let us write to somebody else."""
    for item in items:
        person = item.get("item") if isinstance(item, dict) else None
        known = [text_at(person, "primary_email"), *(text_at(each) for each in rows_at(person, "emails"))]
        if isinstance(person, dict) and text_at(person, "id") and email.casefold() in map(str.casefold, known):
            return person
    return None


PROVIDER = Pipedrive()
