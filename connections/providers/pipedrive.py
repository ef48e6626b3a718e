"""Pipedrive (developers.pipedrive.com): persons.

There is no upsert: a person is searched by e-mail address, then updated or created.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from connections.messages import Request, Response
from connections.providers.base import (
    Account,
    Action,
    Exchange,
    Field,
    FieldProblem,
    Granted,
    Limits,
    MappingField,
    OAuth,
    Shipment,
    Verdict,
)
from connections.providers.vendor import (
    FULL_NAME,
    Vendor,
    VendorError,
    bearer,
    json_request,
    needed,
    number_header,
    read_object,
    revealed,
    rows_at,
    text_at,
    url_part,
)
from connections.providers.verdicts import disabled, reauthorize, rejected, retry, throttled

PERSONS = "/api/v2/persons"
BURST_SECONDS = 2.0
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
        Field("access_token", "Access token", sensitive=True),
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
    test = "Asks which user and company the token belongs to; writes nothing."
    answers = {
        BLOCKED: throttled("Pipedrive blocks this account's requests for a while.", "blocked", 3600),
        400: rejected("Pipedrive refuses a value. Mend the rule's mapping."),
        401: reauthorize("Pipedrive does not accept the token (401). Authorize again, or replace the API token."),
        402: disabled("The Pipedrive account is not paid for. Mend that in Pipedrive, then resume.", "unpaid"),
        403: reauthorize("The token may not write contacts (403). Grant that scope, then test.", "forbidden"),
    }

    def build_request(self, shipment: Shipment) -> Request:
        term = url_part(needed(self.fields(shipment), "email"))
        return self._call("GET", f"{PERSONS}/search?term={term}&fields=email&exact_match=true", shipment)

    def follow(self, shipment: Shipment, exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        last = exchanges[-1]
        if last.request.method == "PATCH" and last.response.status in (404, 410):
            return retry("The person was deleted just now; it is looked up again.", "person_gone")
        if len(exchanges) > 1 or last.response.status != 200:
            return None
        data = read_object(last.response).get("data")
        if not isinstance(data, dict) or not isinstance(data.get("items"), list):
            return retry("Pipedrive's answer to the search could not be read.", "unreadable_answer")
        fields = {key: value for key, value in self.fields(shipment).items() if key != "name" or value}
        email = needed(fields, "email")
        person = _with_email(data["items"], email)
        if person is None:
            return self._call("POST", PERSONS, shipment, _new(fields, email))
        return self._call("PATCH", f"{PERSONS}/{url_part(text_at(person, 'id'))}", shipment, _changed(fields, person))

    def error_of(self, response: Response) -> VendorError:
        document = read_object(response)
        if response.status == 403 and not document:
            return VendorError(BLOCKED)
        if response.status >= 300 or document.get("success") is False:
            return VendorError("" if response.status >= 300 else "error", text_at(document, "error"))
        return VendorError()

    def is_done(self, response: Response, action: str) -> bool:
        return read_object(response).get("success") is True

    def rest_of(self, response: Response) -> float | None:
        if number_header(response, "x-ratelimit-remaining") != 0:
            return None
        return number_header(response, "x-ratelimit-reset") or BURST_SECONDS

    def build_test(self, shipment: Shipment) -> Request:
        return self._call("GET", "/v1/users/me", shipment)

    def read_account(self, response: Response) -> Account | None:
        document = read_object(response)
        company = text_at(document, "data", "company_id")
        return Account(company, text_at(document, "data", "company_name")) if company else None

    def read_grant(self, reply: Mapping[str, Any], details: Mapping[str, Any]) -> Granted:
        return Granted({"api_domain": text_at(reply, "api_domain")})

    def root(self, shipment: Shipment) -> str:
        if self.override or not shipment.config.get("api_domain"):
            return super().root(shipment)
        return needed(shipment.config, "api_domain").rstrip("/")

    def check(self, config: Mapping[str, Any], credentials: Mapping[str, Any]) -> Sequence[FieldProblem]:
        url = config.get("api_domain")
        if self.override or url is None or (isinstance(url, str) and API_DOMAIN.fullmatch(url)):
            return ()
        words = "Must be the company's own https URL, such as https://acme.pipedrive.com."
        return [FieldProblem("/config/api_domain", words, "host")]

    def _call(self, method: str, path: str, shipment: Shipment, document: object = None) -> Request:
        if "api_token" in shipment.credentials and "access_token" not in shipment.credentials:
            authorization = ("x-api-token", revealed(shipment, "api_token"))
        else:
            authorization = bearer(shipment)
        return json_request(method, self.root(shipment) + path, document, authorization)


def _new(fields: Mapping[str, Any], email: str) -> dict[str, Any]:
    person = {"name": email, "emails": [{"value": email, "primary": True, "label": "work"}]}
    return person | _phones(fields) | _others(fields)


def _changed(fields: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Addresses and numbers that are known stay: a list that is sent would replace them all."""
    return ({} if known.get("phones") else _phones(fields)) | _others(fields)


def _phones(fields: Mapping[str, Any]) -> dict[str, Any]:
    phone = fields.get("phone")
    return {"phones": [{"value": phone, "primary": True, "label": "work"}]} if phone else {}


def _others(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in {"email", "phone"}}


def _with_email(items: Sequence[Any], email: str) -> dict[str, Any] | None:
    """The first person with exactly this address: a search that matched less would let us write to somebody else."""
    for item in items:
        person = item.get("item") if isinstance(item, dict) else None
        known = [text_at(person, "primary_email"), *(text_at(each) for each in rows_at(person, "emails"))]
        if isinstance(person, dict) and text_at(person, "id") and email.casefold() in map(str.casefold, known):
            return person
    return None


PROVIDER = Pipedrive()
