"""What stands of an authorization in `oauth_grants`, beside the vault and without a secret."""

from typing import Any

from django.db.models import F

from connections.models import Connection, OAuthGrant
from connections.oauth.tokens import Tokens

_UNLEASED: dict[str, Any] = {"lease_id": None, "lease_until": None}
_UNTROUBLED: dict[str, Any] = {"refresh_failures": 0, "not_before": None, "last_error": "", "ended_at": None}


def facts_of(tokens: Tokens) -> dict[str, Any]:
    """The columns that tell of tokens. A scope that the reply did not name stays as it was."""
    scope = {} if tokens.scopes is None else {"scope": " ".join(sorted(tokens.scopes))}
    return {"expires_at": tokens.expires_at, "refreshed_at": tokens.issued_at, **_UNTROUBLED, **scope}


def establish(connection: Connection, tokens: Tokens, client_id: str) -> None:
    """A new authorization, with this app. A refresh of an earlier one that is under way keeps nothing."""
    values = {"workspace_id": connection.workspace_id, "client_id": client_id, "scope": ""}
    OAuthGrant.objects.update_or_create(connection=connection, defaults={**values, **facts_of(tokens), **_UNLEASED})


def clear(connection: Connection, *, void_links: bool = False) -> None:
    """There are no tokens any more, or none that an authorization gave. A refresh that is under way keeps nothing."""
    values = {"client_id": "", "scope": "", "expires_at": None, "refreshed_at": None, **_UNTROUBLED, **_UNLEASED}
    if void_links:
        values["link_generation"] = F("link_generation") + 1
    OAuthGrant.objects.filter(connection=connection, workspace_id=connection.workspace_id).update(**values)
