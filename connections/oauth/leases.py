"""The lease under which one process renews a connection's token while all others wait for it: rows of `oauth_grants`.

The functions take and return lists, so that the threads of a worker share statements; none of them asks a vendor. They
bear being run twice with the same arguments. Who renews does `begin_refresh`, then the request, then `finish_refresh`:
the new token is in the vault before anybody uses it. Locks are taken in one order everywhere: connection, grant, vault.
"""

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection as database
from django.db import transaction
from django.db.models import F

from connections import credentials as keeping
from connections import lifecycle, providers, vault
from connections.models import Connection, OAuthGrant
from connections.oauth import apps, grants, tokens
from connections.oauth.clients import Client
from connections.oauth.tokens import Tokens
from connections.oauth.troubles import FIRST_REST_SECONDS, LONGEST_REST_SECONDS, ended, unavailable
from connections.providers.base import OAuth, Provider, Verdict, reauthorize
from connections.secret import Secret
from workspaces import ids, installation
from workspaces.clock import Reading, database_now
from workspaces.installation import NOT_HELD

logger = logging.getLogger(__name__)

LEASE_SECONDS = 30
"""Three times the longest request to a token endpoint. When a holder dies, another goes on after this."""
PURPOSE = "oauth refresh"
HELD_WORDS = "Meshes was restored from a backup, and asks for no new token until its operator has released it."
HELD_REST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Need:
    """Who needs a better token than that of the document's `version`, and under which lease it would ask for one.

    The delivery and its attempt are for the access record.
    """

    workspace_id: uuid.UUID
    connection_id: uuid.UUID
    version: int
    actor: str
    delivery_id: uuid.UUID | None = None
    attempt_number: int | None = None
    lease_id: uuid.UUID = field(default_factory=ids.uuid7)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a connection's grant stands at this moment."""

    type: str
    config: Mapping[str, Any] = field(repr=False)
    is_deleted: bool
    version: int
    client_id: str
    is_leased: bool
    has_ended: bool
    rest_seconds: float
    failures: int
    last_error: str
    now: datetime

    def is_settled(self, need: Need) -> bool:
        """Whether there is nothing more to wait for: a newer document, nobody who asks, or no asking any more."""
        return self.version != need.version or not self.is_leased or self.has_ended or self.is_deleted


@dataclass(frozen=True, slots=True)
class Lease:
    """It is ours to ask for a new token, with this."""

    need: Need
    provider: Provider
    config: Mapping[str, Any] = field(repr=False)
    version: int
    credentials: Mapping[str, Any] = field(repr=False)
    client: Client = field(repr=False)
    failures: int
    clock: Reading


@dataclass(frozen=True, slots=True)
class Renewed:
    """Another document than the one that was not good enough, and the config that it stands beside."""

    config: Mapping[str, Any] = field(repr=False)
    version: int
    credentials: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody else is asking."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease was no longer ours, and the tokens were not kept. `is_gone`: nothing wants them any more."""

    is_gone: bool


@dataclass(frozen=True, slots=True)
class Finish:
    """What came of a lease: tokens, or the trouble."""

    lease: Lease
    result: Tokens | Verdict


Begun = Lease | Renewed | Busy | Verdict
"""A verdict says why there will be no token."""

# --- reading --------------------------------------------------------------------------------------------------------

STANDINGS = """
SELECT c.id, c.workspace_id, c.type, c.config::text, c.status = 'deleted', coalesce(s.version, 0),
    coalesce(g.client_id, ''), coalesce(g.lease_until > clock_timestamp(), false), g.ended_at IS NOT NULL,
    greatest(0, coalesce(extract(epoch FROM g.not_before - clock_timestamp()), 0))::float,
    coalesce(g.refresh_failures, 0), coalesce(g.last_error, ''), clock_timestamp()
FROM connections c
LEFT JOIN sealed_documents s
    ON s.workspace_id = c.workspace_id AND s.connection_id = c.id AND s.kind = 'credentials'
LEFT JOIN oauth_grants g ON g.workspace_id = c.workspace_id AND g.connection_id = c.id
WHERE c.id = ANY(%s)
"""


def read_tokens(needs: Sequence[Need]) -> list[Standing | None]:
    """How the grants of these connections stand; None for a connection that is not there. Opens nothing."""
    with database.cursor() as cursor:
        cursor.execute(STANDINGS, [sorted({need.connection_id for need in needs})])
        rows = cursor.fetchall()
    found = {(row[1], row[0]): Standing(row[2], json.loads(row[3]), *row[4:]) for row in rows}
    return [found.get((need.workspace_id, need.connection_id)) for need in needs]


# --- beginning ------------------------------------------------------------------------------------------------------

MAKE = """
INSERT INTO oauth_grants (connection_id, workspace_id, client_id, scope, refresh_failures, last_error, link_generation)
SELECT id, workspace_id, '', '', 0, '', 1 FROM connections WHERE id = ANY(%s) ORDER BY id
ON CONFLICT (connection_id) DO NOTHING
"""
TAKE = f"""
WITH wanted AS (SELECT * FROM unnest(%s::uuid[], %s::uuid[]) AS w (connection_id, lease_id)),
locked AS (
    SELECT connection_id FROM oauth_grants WHERE connection_id IN (SELECT connection_id FROM wanted)
    ORDER BY connection_id FOR UPDATE
)
UPDATE oauth_grants g SET lease_id = w.lease_id, lease_until = clock_timestamp() + make_interval(secs => %s)
FROM wanted w JOIN locked USING (connection_id)
WHERE g.connection_id = w.connection_id AND g.ended_at IS NULL
    AND (g.lease_until IS NULL OR g.lease_until <= clock_timestamp() OR g.lease_id = w.lease_id)
    AND (g.not_before IS NULL OR g.not_before <= clock_timestamp()) AND {NOT_HELD}
RETURNING g.lease_id
"""


def begin_refresh(needs: Sequence[Need]) -> list[Begun]:
    """For each need the lease, the newer document that is there already, or why there is neither.

    Of several needs for one connection at most one gets its lease. Opening a document leaves an access record.
    """
    with transaction.atomic():
        standings = read_tokens(needs)
        wanting = {need.connection_id: need for need, now in zip(needs, standings, strict=True) if _may_take(need, now)}
        taken = _take(list(wanting.values())) if wanting else set()
        if taken:
            standings = read_tokens(needs)  # what was committed before our locks is seen from here on
        return [_begin(need, standing, need.lease_id in taken) for need, standing in zip(needs, standings, strict=True)]


def _may_take(need: Need, standing: Standing | None) -> bool:
    if standing is None or standing.is_deleted or standing.has_ended or standing.rest_seconds > 0:
        return False
    return standing.version == need.version


def _take(needs: Sequence[Need]) -> set[uuid.UUID]:
    """The leases that were taken; rows are made where there are none."""
    connection_ids = [need.connection_id for need in needs]
    with database.cursor() as cursor:
        cursor.execute(MAKE, [connection_ids])
        cursor.execute(TAKE, [connection_ids, [need.lease_id for need in needs], LEASE_SECONDS])
        return {row[0] for row in cursor.fetchall()}


def _begin(need: Need, standing: Standing | None, is_ours: bool) -> Begun:
    if standing is None or standing.is_deleted:
        return ended("The destination")
    if standing.version != need.version:
        begun: Begun = _open(need, standing.config)
        if isinstance(begun, Renewed) and begun.version != standing.version:
            begun = Busy()  # it was replaced at this moment, and the config perhaps with it
    elif is_ours:
        begun = _lease(need, standing)
    elif standing.has_ended:
        return reauthorize(standing.last_error, "authorization_ended")
    elif standing.rest_seconds > 0:
        return unavailable(standing.last_error, standing.rest_seconds)
    elif installation.is_held():
        return unavailable(HELD_WORDS, HELD_REST_SECONDS)
    else:
        return Busy()
    if is_ours and not isinstance(begun, Lease):
        _rows(need).update(lease_id=None, lease_until=None)
    return begun


def _open(need: Need, config: Mapping[str, Any]) -> Renewed | Verdict:
    try:
        opened = vault.open(
            workspace_id=need.workspace_id,
            owner_kind="connection",
            owner_id=need.connection_id,
            kind=vault.CREDENTIALS,
            actor=need.actor,
            purpose=PURPOSE,
            delivery_id=need.delivery_id,
            attempt_number=need.attempt_number,
        )
    except vault.CredentialRefused as refused:
        return keeping.verdict_on(refused)
    return Renewed(config, opened.version, opened.secret)


def _lease(need: Need, standing: Standing) -> Lease | Busy | Verdict:
    opened = _open(need, standing.config)
    if not isinstance(opened, Renewed):
        return opened
    if opened.version != standing.version:
        return Busy()
    provider = providers.get(standing.type)
    if not tokens.can_renew(provider.oauth, standing.config, opened.credentials) or provider.oauth is None:
        return ended(provider.name)
    try:
        client = _client(need, provider.oauth, standing, opened.credentials)
    except vault.KeyMissing as missing:  # of the app's own document
        return keeping.verdict_on(missing)
    if client is None:
        public_id = ids.encode(ids.CONNECTION, need.connection_id)
        logger.error("connection %s: the OAuth client that was authorized is not configured", public_id)
        words = f"The {provider.name} app that this connection was authorized with is not set up any more."
        return unavailable(words, LONGEST_REST_SECONDS)  # an operator has to come
    clock = Reading(standing.now)
    return Lease(need, provider, standing.config, opened.version, opened.credentials, client, standing.failures, clock)


def _client(need: Need, oauth: OAuth, standing: Standing, credentials: Mapping[str, Any]) -> Client | None:
    if oauth.grant == "client_credentials":
        return Client(credentials[oauth.client_id_field].reveal(), credentials[oauth.client_secret_field])
    return apps.client_for(need.workspace_id, standing.type, actor=need.actor, purpose=PURPOSE, id=standing.client_id)


def _rows(need: Need) -> Any:
    """The grant's row, while the lease is this one."""
    return OAuthGrant.objects.filter(
        connection_id=need.connection_id, workspace_id=need.workspace_id, lease_id=need.lease_id
    )


# --- finishing ------------------------------------------------------------------------------------------------------


def finish_refresh(finishes: Sequence[Finish]) -> list[Renewed | Lost]:
    """Keep what came of leases: tokens in the vault and their end in the grant, in one transaction each.

    Nothing is kept whose lease is no longer its own: the connection was disconnected, deleted or authorized anew
    meanwhile, or another went on after the lease had lapsed.
    """
    return [
        _keep(finish.lease, finish.result) if isinstance(finish.result, Tokens) else _fail(finish.lease, finish.result)
        for finish in finishes
    ]


def _keep(lease: Lease, new: Tokens) -> Renewed | Lost:
    need = lease.need
    with transaction.atomic():
        connection = _lock(need)
        if connection is None or not _rows(need).select_for_update().exists():
            return Lost(is_gone=connection is None or _has_none(lease, connection))
        kept = _seal(lease, new, connection.config)
        changed: dict[str, Any] = {"lease_id": None, "lease_until": None}
        if isinstance(kept, Renewed):
            changed |= grants.facts_of(new)
            _show_hints(connection, kept.credentials)
        _rows(need).update(**changed)
        return kept


def _has_none(lease: Lease, connection: Connection) -> bool:
    """Whether the owner has taken the tokens away; a client of the customer's own may have had none so far."""
    oauth = lease.provider.oauth
    is_authorized = oauth is not None and oauth.is_by_person
    return is_authorized and "access_token" not in connection.credential_hints


def _lock(need: Need) -> Connection | None:
    """The connection's row, locked, unless it is deleted."""
    rows = Connection.objects.filter(pk=need.connection_id, workspace_id=need.workspace_id)
    return rows.exclude(status=Connection.Status.DELETED).select_for_update(no_key=True).first()


def _seal(lease: Lease, new: Tokens, config: Mapping[str, Any]) -> Renewed | Lost:
    """Seal over the document that was opened, or, where only other credentials have changed since, over that one."""
    base: Renewed | Verdict = Renewed(config, lease.version, lease.credentials)
    while isinstance(base, Renewed):
        document = tokens.merged(base.credentials, new)
        try:
            version = vault.seal(
                document,
                workspace_id=lease.need.workspace_id,
                owner_kind="connection",
                owner_id=lease.need.connection_id,
                kind=vault.CREDENTIALS,
                actor=lease.need.actor,
                purpose=vault.REFRESHED,
                over=base.version,
            )
            return Renewed(config, version, document)
        except vault.Overtaken:
            base = _open(lease.need, config)
            if isinstance(base, Renewed) and _tokens_of(base.credentials) != _tokens_of(lease.credentials):
                return Lost(is_gone=False)
    return Lost(is_gone=False)


def _tokens_of(document: Mapping[str, Any]) -> list[Secret | None]:
    return [document.get(key) for key in sorted(tokens.SHOWN_KEYS)]


def _show_hints(connection: Connection, document: Mapping[str, Any]) -> None:
    hints = keeping.hints_of(document)
    if hints != connection.credential_hints:
        Connection.objects.filter(pk=connection.pk, workspace_id=connection.workspace_id).update(credential_hints=hints)


def _fail(lease: Lease, verdict: Verdict) -> Lost:
    """End the lease. What only the owner can mend holds the connection; an end of the authorization is told once."""
    need, now = lease.need, database_now()
    is_end = verdict.hold == Connection.Status.NEEDS_REAUTH
    changed: dict[str, Any] = {
        "lease_id": None,
        "lease_until": None,
        "refresh_failures": F("refresh_failures") + (0 if verdict.is_ours else 1),
        "last_error": verdict.words[:300],
    }
    if is_end and lease.provider.oauth is not None and lease.provider.oauth.is_by_person:
        changed["ended_at"] = now
    elif is_end or verdict.retry_after_seconds is not None:  # the customer may mend its own client
        changed["not_before"] = now + timedelta(seconds=verdict.retry_after_seconds or FIRST_REST_SECONDS)
    with transaction.atomic():
        connection = _lock(need)
        is_ours = connection is not None and bool(_rows(need).update(**changed))
        if connection is not None and is_ours and verdict.hold is not None:
            lifecycle.hold(connection, verdict.hold, verdict.words)
    if is_ours and is_end:
        public_id = ids.encode(ids.CONNECTION, need.connection_id)
        logger.error("connection %s gets no more tokens: %s", public_id, verdict.words)
    return Lost(is_gone=False)
