"""A provider like those that rotate refresh tokens, separate scopes by commas, and hide errors behind a 200."""

from collections.abc import Mapping
from typing import Any

from connections.messages import Request, Response
from connections.providers.answers import text_at
from connections.providers.base import Account, Action, Field, Granted, OAuth, Shipment
from connections.providers.vendor import Vendor


class Rotating(Vendor):
    slug = "rotating"
    name = "Rotating"
    description = "Every refresh token is good once."
    auth = "oauth2"
    oauth = OAuth(
        authorize_url="https://rotating.example/oauth/v2/authorize",
        token_url="https://rotating.example/api/oauth.v2/token",
        revoke_url="https://rotating.example/api/auth/revoke",
        details_url="https://rotating.example/api/whoami",
        details_scheme="OAuth",
        scopes=("chat:write", "channels:read"),
        scope_separator=",",
        client_auth="basic",
        pkce=False,
        lifetime_seconds=43_200,
        ends_with=frozenset({"invalid_grant", "invalid_refresh_token", "token_revoked"}),
        revoke_with="bearer",
        shares_tokens=True,
    )
    base_urls = {"": "https://rotating.example/api"}
    config_fields = (Field("dc", "Data centre", pattern=r"[a-z]{2}[0-9]{1,2}", max_length=4),)
    credential_fields = (Field("access_token", "Access token", sensitive=True),)
    actions = (Action("send", "Send", idempotent=False),)
    test_path = "/whoami"
    test = "Asks who it is."

    def build_request(self, shipment: Shipment) -> Request:
        return self.call("POST", "/post", shipment, {})

    def error_of(self, response: Response) -> tuple[str, str]:
        return text_at(response, "error"), ""

    def is_unauthorized(self, response: Response) -> bool:
        return response.status == 401 or self.error_of(response)[0] == "token_expired"

    def read_grant(self, reply: Mapping[str, Any], details: Mapping[str, Any]) -> Granted:
        return Granted({"dc": text_at(details, "dc")}, Account(text_at(details, "team_id"), text_at(details, "team")))


PROVIDER = Rotating()
