"""Customer.io, the Track API (docs.customer.io): people and their events.

It answers 200 before it has looked at the values, so what it drops later shows in Customer.io only.
"""

from typing import Any

from connections.messages import Request, Response
from connections.providers.base import Account, Action, Field, Limits, MappingField, Shipment, Unsendable, region
from connections.providers.vendor import (
    FIRST_NAME,
    Vendor,
    VendorError,
    basic,
    is_no_page,
    json_request,
    needed,
    read_object,
    revealed,
    text_at,
    url_part,
)
from connections.providers.verdicts import disabled, reauthorize, rejected

MAX_ATTRIBUTES = 300
MAX_NAME_BYTES = 150
MAX_VALUE_BYTES = 1000
"""Of an attribute's name, and of its value (docs.customer.io, Track API)."""
OTHER_REGION = disabled("The account is hosted in another region. Set the connection's region to it.", "wrong_region")

ID = MappingField(
    "id", "Identifier", required=True, source="payload.email", help="By what the workspace identifies people."
)


class CustomerIo(Vendor):
    slug = "customerio"
    name = "Customer.io"
    description = "Creates and updates people and records their events in Customer.io."
    docs_url = "https://docs.customer.io/integrations/api/track/"
    auth = "basic"
    base_urls = {"us": "https://track.customer.io", "eu": "https://track-eu.customer.io"}
    config_fields = (region("us", "eu", help="Where Customer.io hosts the account."),)
    credential_fields = (
        Field("site_id", "Site id", required=True, sensitive=True, pattern=r"[!-9;-~]+", max_length=255),
        Field("api_key", "Track API key", required=True, sensitive=True, pattern=r"[!-~]+", max_length=1024),
    )
    actions = (
        Action(
            "upsert_person", "Create or update a person", True, is_open=True,
            help="All fields but id become attributes of the person.",
            fields=(
                ID,
                MappingField("email", "Email", source="payload.email"),
                MappingField("first_name", "First name", source=FIRST_NAME),
                MappingField("last_name", "Last name", source="payload.last_name"),
                MappingField("company", "Company name", source="payload.company"),
                MappingField("phone", "Phone number", source="payload.phone"),
            ),
        ),
        Action(
            "track_event", "Track an event of a person", True,
            fields=(
                ID,
                MappingField("name", "Event name", required=True, source="event.type"),
                MappingField("data", "Data", "object", source="payload"),
            ),
        ),
    )  # fmt: skip
    limits = Limits(in_flight=10, rate=50)
    test = "Asks for the account's region; writes nothing."
    answers = {
        **dict.fromkeys((301, 302, 307, 308), OTHER_REGION),
        400: rejected("Customer.io refuses a value. Mend the rule's mapping."),
        401: reauthorize(
            "Customer.io does not accept the site id and key (401). They must be of the Track API; check the region."
        ),
    }

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        path = f"/api/v1/customers/{url_part(_held('id', needed(fields, 'id'), MAX_NAME_BYTES))}"
        if shipment.action == "track_event":
            return self._call("POST", f"{path}/events", shipment, _event(shipment, fields))
        attributes = {key: value for key, value in fields.items() if key != "id"}
        if len(attributes) > MAX_ATTRIBUTES:
            raise Unsendable(f"The person has {len(attributes)} attributes; Customer.io keeps {MAX_ATTRIBUTES}.")
        for key, value in attributes.items():
            _held("name of an attribute", key, MAX_NAME_BYTES)
            _held(key, value if isinstance(value, str) else "", MAX_VALUE_BYTES)
        return self._call("PUT", path, shipment, attributes)

    def is_done(self, response: Response, action: str) -> bool:
        """It answers {} to everything that it took."""
        return is_no_page(response)

    def error_of(self, response: Response) -> VendorError:
        return VendorError("", text_at(read_object(response), "meta", "error"))

    def build_test(self, shipment: Shipment) -> Request:
        return self._call("GET", "/api/v1/accounts/region", shipment)

    def read_account(self, response: Response) -> Account | None:
        document = read_object(response)
        workspace = text_at(document, "environment_id")
        return Account(workspace, f"Workspace {workspace}") if workspace else None

    def _call(self, method: str, path: str, shipment: Shipment, document: object = None) -> Request:
        authorization = basic(revealed(shipment, "site_id"), revealed(shipment, "api_key"))
        return json_request(method, self.root(shipment) + path, document, authorization)


def _held(key: str, text: str, most: int) -> str:
    """Raises Unsendable for a text that Customer.io drops after it has answered 200."""
    if len(text.encode("utf-8", "replace")) > most:
        raise Unsendable(
            f"The {key} is longer than the {most:,} bytes that Customer.io keeps. Shorten it by substring."
        )
    return text


def _event(shipment: Shipment, fields: dict[str, Any]) -> dict[str, Any]:
    data = fields.get("data") or {}
    if not isinstance(data, dict):
        raise Unsendable("The field data must be an object.")
    return {
        "name": needed(fields, "name"),
        "id": _ulid(shipment.delivery_id),
        "timestamp": int(shipment.occurred_at.timestamp()),
        "data": data,
    }


def _ulid(delivery_id: str) -> str:
    """By it Customer.io drops a second event. A TypeID's suffix is a UUIDv7 in the very alphabet of a ULID."""
    return delivery_id.rpartition("_")[2].upper()


PROVIDER = CustomerIo()
