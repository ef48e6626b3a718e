"""Customer.io, the Track API (docs.customer.io): people and their events.

It answers 200 before it has looked at the values, so what it drops later shows in Customer.io only.
"""

from connections.messages import Request, Response
from connections.providers.answers import is_no_page, text_at
from connections.providers.base import Account, Action, Field, Limits, MappingField, Shipment
from connections.providers.crm import person
from connections.providers.fields import Unsendable, region
from connections.providers.vendor import VALUE_REFUSED, Vendor, url_part
from connections.providers.verdicts import disabled, reauthorize

MAX_ATTRIBUTES = 300
MAX_NAME_BYTES = 150
MAX_VALUE_BYTES = 1000
"""Of an attribute's name, and of its value (docs.customer.io, Track API)."""
ID = MappingField(
    "id", "Identifier", required=True, source="payload.email", help="By what the workspace identifies people."
)


class CustomerIo(Vendor):
    slug = "customerio"
    name = "Customer.io"
    description = "Creates and updates people and records their events in Customer.io."
    docs_url = "https://docs.customer.io/integrations/api/track/"
    auth = "basic"
    authorization = "Basic {site_id}:{api_key}"
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
                ID, *person("email", "first_name", "last_name", "company", "phone", required=False),
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
    test_path = "/api/v1/accounts/region"
    test = "Asks for the account's region; writes nothing."
    answers = {
        (301, 302, 307, 308): disabled(
            "The account is hosted in another region. Set the connection's region to it.", "wrong_region"),
        400: VALUE_REFUSED,
        401: reauthorize(
            "Customer.io does not accept the site id and key (401). They must be of the Track API; check the region."),
    }  # fmt: skip

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        path = f"/api/v1/customers/{url_part(_held('id', fields.needed('id'), MAX_NAME_BYTES))}"
        if shipment.action == "track_event":
            event = {
                "name": fields.needed("name"),
                # By it Customer.io drops a second event. A TypeID's suffix is a UUIDv7 in the very alphabet of a ULID.
                "id": shipment.delivery_id.rpartition("_")[2].upper(),
                "timestamp": int(shipment.occurred_at.timestamp()),
                "data": fields.object("data"),
            }
            return self.call("POST", f"{path}/events", shipment, event)
        attributes = {key: value for key, value in fields.items() if key != "id"}
        if len(attributes) > MAX_ATTRIBUTES:
            raise Unsendable(f"The person has {len(attributes)} attributes; Customer.io keeps {MAX_ATTRIBUTES}.")
        for key, value in attributes.items():
            _held("name of an attribute", key, MAX_NAME_BYTES)
            _held(key, value if isinstance(value, str) else "", MAX_VALUE_BYTES)
        return self.call("PUT", path, shipment, attributes)

    def is_done(self, response: Response, action: str) -> bool:
        """It answers {} to everything that it took."""
        return is_no_page(response)

    def error_of(self, response: Response) -> tuple[str, str]:
        return "", text_at(response, "meta", "error")

    def read_account(self, response: Response) -> Account | None:
        workspace = text_at(response, "environment_id")
        return Account(workspace, f"Workspace {workspace}") if workspace else None


def _held(key: str, text: str, most: int) -> str:
    """Raises Unsendable for a text that Customer.io drops after it has answered 200."""
    if len(text.encode("utf-8", "replace")) > most:
        raise Unsendable(
            f"The {key} is longer than the {most:,} bytes that Customer.io keeps. Shorten it by substring."
        )
    return text


PROVIDER = CustomerIo()
