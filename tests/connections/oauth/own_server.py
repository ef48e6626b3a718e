"""A webhook that gets its token from the customer's own authorization server."""

from connections.messages import Request
from connections.providers.base import CLIENT_CREDENTIALS, Field, Shipment
from connections.providers.vendor import bearer
from connections.providers.webhook import Webhook


class OwnServer(Webhook):
    slug = "own_server"
    name = "Own server"
    oauth = CLIENT_CREDENTIALS
    config_fields = (  # type: ignore[assignment]  # more of them than the webhook has
        *Webhook.config_fields,
        Field("oauth_token_url", "Token URL", type="url"),
        Field("oauth_scope", "Scope"),
    )
    credential_fields = (  # type: ignore[assignment]  # likewise
        *Webhook.credential_fields,
        Field("oauth_client_id", "Client id", sensitive=True),
        Field("oauth_client_secret", "Client secret", sensitive=True),
    )

    def build_request(self, shipment: Shipment) -> Request:
        plain = super().build_request(shipment)
        return Request(plain.method, plain.url, (*plain.headers, bearer(shipment)), plain.body)


PROVIDER = OwnServer()
