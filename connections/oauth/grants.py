"""Whose app asks, what is kept of an authorization without a secret, and how it is revoked.

A workspace may bring its own app at a vendor: its own name on the consent page, and its own quota. The id stands in
`oauth_apps`; the secret is sealed in the vault for that row. Revoking comes after the commit, is bounded, and goes as
far as the vendor answers.
"""

import logging
import uuid
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.urls import reverse

from connections import providers
from connections.credentials import open_document
from connections.models import Connection, OAuthApp, OAuthGrant, OAuthState
from connections.oauth import tokens
from connections.oauth.tokens import Client, NoTokenError, Tokens
from meshes.kit.clock import database_now
from workspaces.vault import vault
from workspaces.vault.secret import Secret

logger = logging.getLogger(__name__)

# --- apps -----------------------------------------------------------------------------------------------------------

APP_KIND = "client"
"""Of the sealed secret of an app."""


def put_app(
    workspace_id: uuid.UUID, type: str, client_id: str, secret: Secret, *, actor: str = "", **columns: Any
) -> OAuthApp:
    """Make or replace the workspace's app at a vendor. `columns` are others of its row; `actor` is for the access
    record."""
    values = {**columns, "client_id": client_id, "secret_hint": secret.masked_hint()}
    with transaction.atomic():
        app, _ = OAuthApp.objects.update_or_create(workspace_id=workspace_id, type=type, defaults=values)
        vault.seal({"secret": secret}, **_owner_of(app), kind=APP_KIND, actor=actor)
    return app


def _owner_of(app: OAuthApp) -> dict[str, Any]:
    return {"workspace_id": app.workspace_id, "owner_kind": "oauth_app", "owner_id": app.pk}


def find_app(workspace_id: uuid.UUID, type: str) -> OAuthApp | None:
    """The workspace's own app, without its secret."""
    return OAuthApp.objects.filter(workspace_id=workspace_id, type=type).first()


def remove_apps(workspace_id: uuid.UUID, type: str | None = None, *, actor: str = "") -> int:
    """Forget the workspace's app at a vendor, or all of them; how many there were."""
    apps = OAuthApp.objects.filter(workspace_id=workspace_id)
    if type is not None:
        apps = apps.filter(type=type)
    with transaction.atomic():
        found = list(apps.select_for_update().order_by("pk").values_list("pk", flat=True))  # first, as `put_app` does
        for pk in found:
            vault.destroy(workspace_id=workspace_id, owner_kind="oauth_app", owner_id=pk, actor=actor)
        apps.filter(pk__in=found).delete()
    return len(found)


def client_id_for(workspace_id: uuid.UUID, type: str) -> str | None:
    """The id of the app with which a new authorization asks; None without one. Opens nothing."""
    app = find_app(workspace_id, type)
    if app is not None:
        return app.client_id
    client: Client | None = settings.MESHES_OAUTH_CLIENTS.get(type)
    return None if client is None else client.id


def client_for(workspace_id: uuid.UUID, type: str, *, actor: str, purpose: str, id: str = "") -> Client | None:
    """The app with its secret: the workspace's own if it has one, else the installation's; None without either.

    With an `id` only the app of that id: a token belongs to the app that it was given to. The opening is recorded.
    Raises vault.KeyMissing.
    """
    app = find_app(workspace_id, type)
    if app is None or id not in ("", app.client_id):
        client: Client | None = settings.MESHES_OAUTH_CLIENTS.get(type)
        return client if client is not None and id in ("", client.id) else None
    try:
        opened = vault.open(**_owner_of(app), kind=APP_KIND, actor=actor, purpose=purpose)
    except vault.KeyMissing:
        raise
    except vault.CredentialRefused:
        return None
    return Client(app.client_id, opened.secret["secret"])


# --- what is kept ---------------------------------------------------------------------------------------------------

UNLEASED: dict[str, Any] = {"lease_id": None, "lease_until": None}
"""The columns of a grant under whose lease nobody asks."""
LASTING = ("connection", "workspace", "link_generation")
"""What of a grant outlives the authorization. Every other column is as a new row has it when another begins."""


def blank() -> dict[str, Any]:
    """The columns of a grant that tells of no authorization."""
    columns = OAuthGrant._meta.concrete_fields
    return {column.attname: column.get_default() for column in columns if column.name not in LASTING}


def columns_of(tokens: Tokens) -> dict[str, Any]:
    """The columns that tell of tokens, and of no failure. A scope that the reply did not name stays as it was."""
    scope = {} if tokens.scopes is None else {"scope": " ".join(sorted(tokens.scopes))}
    times = {"expires_at": tokens.expires_at, "refreshed_at": tokens.issued_at}
    return {**times, "refresh_failures": 0, "not_before": None, "last_error": "", "ended_at": None, **scope}


def establish(connection: Connection, tokens: Tokens, client_id: str, started: OAuthState | None = None) -> None:
    """A new authorization, with this app. It makes connect links void, and ends every other authorization that was
    started; a refresh that is under way keeps nothing."""
    shared_callback = started is not None and started.redirect_uri.endswith(reverse("oauth-callback"))
    values = {**blank(), "client_id": client_id, "shared_callback": shared_callback, **columns_of(tokens)}
    values["workspace_id"] = connection.workspace_id
    OAuthGrant.objects.update_or_create(
        connection=connection,
        defaults={**values, "link_generation": F("link_generation") + 1},
        create_defaults=values,
    )
    others = OAuthState.objects.filter(connection=connection, workspace_id=connection.workspace_id)
    (others if started is None else others.exclude(pk=started.pk)).delete()


def clear(connection: Connection, *, ends_starts: bool = False) -> None:
    """There are no tokens any more, or none that an authorization gave. A refresh that is under way keeps nothing.

    `ends_starts`: connect links are void, and authorizations that were started come to nothing.
    """
    rows = {"connection": connection, "workspace_id": connection.workspace_id}
    values = blank()
    if ends_starts:
        values["link_generation"] = F("link_generation") + 1
    OAuthGrant.objects.filter(**rows).update(**values)
    if ends_starts:
        OAuthState.objects.filter(**rows).delete()


# --- revoking -------------------------------------------------------------------------------------------------------


Revocation = tuple[int | None, Mapping[str, Any], Client | None]
"""A connection's tokens on their way out: the document's version (None: it did not open), the document, and the app."""


def revoke(connection: Connection, document: Mapping[str, Any], client: Client | None) -> None:
    """Ask the vendor to revoke. A vendor that does not answer is left alone: the tokens are gone here."""
    provider, config = providers.get(connection.type), connection.config
    oauth = provider.oauth
    if oauth is None or client is None or not tokens.is_granted(document):
        return
    if oauth.shares_tokens and _is_shared(connection):
        return
    now = database_now()
    is_over = oauth.revoke_with == "bearer" and tokens.is_expired(document, now)
    if is_over and tokens.can_renew(oauth, config, document):  # only a live access token can revoke itself
        try:
            renewed = tokens.renew(provider, config, document, client, tokens.REVOKE_SECONDS, asked_at=now)
            document = tokens.merged(document, renewed)
        except NoTokenError:
            pass
    if not tokens.revoke(provider, config, document, client):
        logger.warning("connection %s: %s did not revoke its token", connection.public_id, provider.name)


def _is_shared(connection: Connection) -> bool:
    """Whether another connection, anybody's, has the same token, as it is to the same account. When in doubt, yes."""
    if not connection.account_id:
        return True
    others = Connection.objects.filter(type=connection.type, account_id=connection.account_id)
    return others.exclude(pk=connection.pk).filter(credential_hints__has_key="access_token").exists()


def needs_revoking(connection: Connection) -> bool:
    """Whether ending the connection's authorization asks its vendor."""
    try:
        oauth = providers.get(connection.type).oauth
    except KeyError:
        return False
    return oauth is not None and oauth.is_by_person and "access_token" in connection.credential_hints


def prepare_revocation(connection: Connection, actor: str) -> Revocation | None:
    """What there is to revoke, opened before it is destroyed; None for a connection without tokens."""
    if not needs_revoking(connection):
        return None
    purpose = "oauth revoke"
    try:
        opened = open_document(connection, actor, purpose)
    except vault.CredentialRefused:
        return None, {}, None
    grant = OAuthGrant.objects.filter(connection=connection, workspace_id=connection.workspace_id).first()
    client_id = grant.client_id if grant is not None else ""
    try:
        client = client_for(connection.workspace_id, connection.type, actor=actor, purpose=purpose, id=client_id)
    except vault.KeyMissing:
        client = None
    return opened.version, opened.secret, client


def revoke_one_of(workspace_id: uuid.UUID, actor: str) -> int:
    """Revoke for one more connection of a deleted workspace; 0 when none is left."""
    grant = OAuthGrant.objects.filter(workspace_id=workspace_id).select_related("connection").first()
    if grant is None:
        return 0
    connection = grant.connection
    revocation = prepare_revocation(connection, actor)
    grant.delete()  # first, so that a vendor that never answers is asked once
    if revocation is not None:
        revoke(connection, *revocation[1:])
    return 1
