"""Revoking at the vendor what a connection no longer needs: after the commit, bounded, as far as the vendor answers."""

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connections import credentials as keeping
from connections import providers, vault
from connections.models import Connection, OAuthGrant
from connections.oauth import apps, exchange, tokens
from connections.oauth.clients import Client
from connections.oauth.troubles import NoToken
from connections.providers.base import OAuth, Provider
from workspaces import ids
from workspaces.clock import database_now

logger = logging.getLogger(__name__)

PURPOSE = "oauth revoke"


@dataclass(frozen=True, slots=True)
class Revocation:
    """A connection's tokens on their way out. `version` is None where the document did not open."""

    connection: Connection
    provider: Provider
    version: int | None
    document: Mapping[str, Any] = field(repr=False)
    client: Client | None = field(repr=False)

    def send(self) -> None:
        """Ask the vendor to revoke. A vendor that does not answer is left alone: the tokens are gone here."""
        oauth = self.provider.oauth
        if oauth is None or self.client is None or not tokens.is_granted(self.document):
            return
        if oauth.shares_tokens and is_shared(self.connection):
            return
        if not exchange.revoke(self.provider, self.connection.config, self._live(oauth, self.client), self.client):
            public_id = ids.encode(ids.CONNECTION, self.connection.pk)
            logger.warning("connection %s: %s did not revoke its token", public_id, self.provider.name)

    def _live(self, oauth: OAuth, client: Client) -> Mapping[str, Any]:
        """The document, with an access token that can revoke itself where that is asked for."""
        provider, config, document, now = self.provider, self.connection.config, self.document, database_now()
        is_over = oauth.revoke_with == "bearer" and tokens.is_expired(document, now)
        if not is_over or not tokens.can_renew(oauth, config, document):
            return document
        try:
            renewed = exchange.renew(provider, config, document, client, exchange.REVOKE_SECONDS, asked_at=now)
        except NoToken:
            return document
        return tokens.merged(document, renewed)


def is_needed(connection: Connection) -> bool:
    """Whether ending the connection's authorization asks its vendor."""
    return _provider_of(connection) is not None and "access_token" in connection.credential_hints


def prepare(connection: Connection, actor: str) -> Revocation | None:
    """What there is to revoke, opened before it is destroyed; None for a connection without tokens."""
    provider = _provider_of(connection)
    if provider is None or not is_needed(connection):
        return None
    try:
        opened = keeping.open_document(connection, actor, PURPOSE)
    except vault.CredentialRefused:
        return Revocation(connection, provider, None, {}, None)
    grant = OAuthGrant.objects.filter(connection=connection, workspace_id=connection.workspace_id).first()
    client_id = grant.client_id if grant is not None else ""
    try:
        client = apps.client_for(connection.workspace_id, connection.type, actor=actor, purpose=PURPOSE, id=client_id)
    except vault.KeyMissing:
        client = None
    return Revocation(connection, provider, opened.version, opened.secret, client)


def is_shared(connection: Connection) -> bool:
    """Whether another connection, anybody's, has the same token, as it is to the same account. When in doubt, yes."""
    if not connection.account_id:
        return True
    others = Connection.objects.filter(type=connection.type, account_id=connection.account_id)
    return others.exclude(pk=connection.pk).filter(credential_hints__has_key="access_token").exists()


def revoke_one_of(workspace_id: uuid.UUID, actor: str) -> int:
    """Revoke for one more connection of a deleted workspace; 0 when none is left."""
    grant = OAuthGrant.objects.filter(workspace_id=workspace_id).select_related("connection").first()
    if grant is None:
        return 0
    revocation = prepare(grant.connection, actor)
    grant.delete()  # first, so that a vendor that never answers is asked once
    if revocation is not None:
        revocation.send()
    return 1


def _provider_of(connection: Connection) -> Provider | None:
    """The provider, where it authorizes connections."""
    try:
        provider = providers.get(connection.type)
    except providers.UnknownProvider:
        return None
    oauth = provider.oauth
    return provider if oauth is not None and oauth.is_by_person else None
