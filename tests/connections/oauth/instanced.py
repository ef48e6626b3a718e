"""A provider like those that give each customer a host of its own, and no lifetime."""

from collections.abc import Mapping
from typing import Any

from connections.messages import Request
from connections.providers.answers import text_at
from connections.providers.base import Account, Action, Field, Granted, OAuth, Shipment
from connections.providers.vendor import Vendor


class Instanced(Vendor):
    slug = "instanced"
    name = "Instanced"
    description = "Each customer has a host of its own."
    auth = "oauth2"
    oauth = OAuth(
        authorize_url="https://{login_host}/services/oauth2/authorize",
        token_url="https://{login_host}/services/oauth2/token",
        revoke_url="https://{login_host}/services/oauth2/revoke",
        scopes=("api", "refresh_token"),
        hosts=("instanced.example",),
        issuer="https://login.instanced.example",
    )
    base_urls = {"": "https://api.instanced.example"}
    config_fields = (
        Field("login_host", "Login host", default="login.instanced.example"),
        Field("instance_url", "Instance", type="url"),
    )
    credential_fields = (Field("access_token", "Access token", sensitive=True),)
    actions = (Action("send", "Send", idempotent=True),)
    test_path = "/me"
    test = "Asks who it is."

    def build_request(self, shipment: Shipment) -> Request:
        return self.call("POST", "/records", shipment, {})

    def read_grant(self, reply: Mapping[str, Any], details: Mapping[str, Any]) -> Granted:
        return Granted({"instance_url": text_at(reply, "instance_url")}, Account(text_at(reply, "id"), "Org"))


PROVIDER = Instanced()
