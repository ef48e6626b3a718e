"""How a vendor authorizes connections: a declaration, and what its reply says beside the tokens."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Grant = Literal["authorization_code", "client_credentials"]

FIELD_IN_URL = re.compile(r"\{([a-z][a-z0-9_]*)\}")
"""A config field that a declared URL names."""

CODE_ENDED = frozenset({"invalid_grant"})
"""RFC 6749, section 5.2: the refresh token is invalid, expired or revoked."""
CLIENT_REFUSED = CODE_ENDED | {"invalid_client", "unauthorized_client", "invalid_scope", "unsupported_grant_type"}
"""Where the client is the customer's own, whatever is said against it is the customer's to mend."""


@dataclass(frozen=True, slots=True)
class Account:
    """The vendor's account behind a connection: its own id, and its name for people."""

    id: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class OAuth:
    """How a vendor authorizes connections (RFC 6749; `pkce` is RFC 7636 with S256).

    URLs are the vendor's own. One may name config fields, `https://{login_host}/token`; its host must then lie below
    one of `hosts`, as must the host of every URL that the vendor returns for the config. `hosts` are domains without a
    leading dot.

    `scopes` are asked for, and must be granted. `authorize_with` goes beside into the URL to which the browser is sent.
    `refreshes`: the vendor gives refresh tokens. `lifetime_seconds` is assumed where a reply names no lifetime, 0 or
    -1; None: the token is used until the vendor refuses it. `ends_with` are the error codes after which only the owner
    can help. `issuer`: the `iss` (RFC 9207) that the vendor adds to its redirect.

    `details_url` is asked once after an authorization, with `details_headers`, and `details_scheme` standing before the
    token, where the reply to the code does not tell everything. `revoke_with`: the token goes as a form with the
    client, or as a Bearer header. `shares_tokens`: all connections to one account have the same token, so that it is
    revoked with the last of them.

    `regional_hosts` are the hosts that stand for those of the URLs where the config's `region` is one of these.

    For client credentials, client id, secret, token URL and scope are the customer's own, in these fields.
    """

    token_url: str = ""
    authorize_url: str = ""
    revoke_url: str = ""
    details_url: str = ""
    scopes: tuple[str, ...] = ()
    scope_separator: str = " "
    authorize_with: tuple[tuple[str, str], ...] = ()
    client_auth: Literal["body", "basic"] = "body"
    pkce: bool = True
    grant: Grant = "authorization_code"
    refreshes: bool = True
    lifetime_seconds: float | None = None
    hosts: tuple[str, ...] = ()
    regional_hosts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    issuer: str = ""
    ends_with: frozenset[str] = CODE_ENDED
    details_scheme: str = "Bearer"
    details_headers: tuple[tuple[str, str], ...] = ()
    revoke_with: Literal["form", "bearer"] = "form"
    shares_tokens: bool = False
    client_id_field: str = "oauth_client_id"
    client_secret_field: str = "oauth_client_secret"  # noqa: S105  (the name of a field)
    token_url_field: str = "oauth_token_url"  # noqa: S105  (likewise)
    scope_field: str = "oauth_scope"

    @property
    def is_by_person(self) -> bool:
        """Whether somebody authorizes the connection in a browser."""
        return self.grant == "authorization_code"

    @property
    def fields_in_urls(self) -> frozenset[str]:
        """The config fields that the URLs name."""
        urls = (self.token_url, self.authorize_url, self.revoke_url, self.details_url)
        return frozenset(name for url in urls for name in FIELD_IN_URL.findall(url))


CLIENT_CREDENTIALS = OAuth(
    grant="client_credentials", client_auth="basic", refreshes=False, lifetime_seconds=3600, ends_with=CLIENT_REFUSED
)
"""The customer's own authorization server, by the fields that `OAuth` names."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What a vendor's reply to an authorization says beside the tokens: what is added to the config, and whose account
    it is."""

    config: Mapping[str, Any] = field(default_factory=dict)
    account: Account | None = None
