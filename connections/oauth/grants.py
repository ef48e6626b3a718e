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


def establish(connection: Connection, tokens: Tokens, client_id: str, *, shared_callback: bool = False) -> None:
    """A new authorization, with this app. It makes connect links void; a refresh that is under way keeps nothing."""
    values = {"workspace_id": connection.workspace_id, "client_id": client_id, "scope": ""}
    values |= {"shared_callback": shared_callback, **facts_of(tokens), **_UNLEASED}
    OAuthGrant.objects.update_or_create(
        connection=connection,
        defaults={**values, "link_generation": F("link_generation") + 1},
        create_defaults=values,
    )


def clear(connection: Connection, *, void_links: bool = False) -> None:
    """There are no tokens any more, or none that an authorization gave. A refresh that is under way keeps nothing."""
    values = {"client_id": "", "scope": "", "shared_callback": False, "expires_at": None, "refreshed_at": None}
    values |= {**_UNTROUBLED, **_UNLEASED}
    if void_links:
        values["link_generation"] = F("link_generation") + 1
    OAuthGrant.objects.filter(connection=connection, workspace_id=connection.workspace_id).update(**values)


def exist_by_shared_callback() -> bool:
    """Whether a connection is authorized by the redirect URI that all vendors shared. A small index answers it."""
    return OAuthGrant.objects.filter(shared_callback=True).exists()
