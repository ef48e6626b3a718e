"""A token that is good, for one attempt or call: renewed before use when it is due, and after a refusal, once.

However many need another token at the same moment, one has the lease (in `oauth_grants`) and asks for it, and the
others wait for what it got. Who renews does `begin_refresh`, then the request, then `finish_refresh`: the new token is
in the vault before anybody uses it. These two take and return lists, so that the threads of a worker share statements;
neither asks a vendor, and both bear being run twice with the same arguments. Locks are taken in one order everywhere:
connection, grant, vault.
"""

import json
import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from django.db import Error, close_old_connections, transaction
from django.db import connection as database
from django.db.models import F

from connections import lifecycle, providers
from connections.credentials import moved, verdict_on
from connections.messages import Response
from connections.models import Connection, OAuthGrant
from connections.oauth import grants, tokens
from connections.oauth.tokens import Client, NoTokenError, Tokens, ended, unavailable
from connections.providers.base import Provider, Verdict
from connections.providers.verdicts import reauthorize
from meshes.kit import ids
from meshes.kit.clock import Reading, database_now
from meshes.kit.database_faults import Fault, fault_of
from workspaces import installation
from workspaces.installation import NOT_HELD
from workspaces.vault import vault

logger = logging.getLogger(__name__)

LEASE_SECONDS = 30
"""Three times the longest request to a token endpoint. When a holder dies, another goes on after this."""
WAIT_SECONDS = 10.0
"""How long one waits for a token that somebody else asks for."""
KEEP_SECONDS = 15.0
"""How long a call that somebody waits for tries to keep new tokens; with the request before it, less than a lease."""
POLL_SECONDS = 0.1
PURPOSE = "oauth refresh"
HELD_MESSAGE = "Meshes was restored from a backup, and asks for no new token until its operator has released it."
HELD_COOL_DOWN_SECONDS = 60.0
BUSY_MESSAGE = "Another worker is still asking for a new token."
BUSY_COOL_DOWN_SECONDS = 5.0
MOVED_MESSAGE = "The connection was moved meanwhile; the next attempt goes where it leads now."


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
class GrantState:
    """How a connection's grant is at this moment."""

    type: str
    config: Mapping[str, Any] = field(repr=False)
    is_deleted: bool
    version: int
    client_id: str
    is_leased: bool
    has_ended: bool
    cool_down_seconds: float
    failures: int
    last_error: str
    now: datetime


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
    """Another document than the one that was not good enough, and the config that it belongs to."""

    config: Mapping[str, Any] = field(repr=False)
    version: int
    credentials: Mapping[str, Any] = field(repr=False)


class Lost(Enum):
    """The lease was no longer ours, and the tokens were not kept."""

    OVERTAKEN = "another has gone on"
    GONE = "nothing wants them any more"


Begun = Lease | Renewed | Verdict | None
"""A verdict says why there will be no token. None: another worker is asking."""
Finish = tuple[Lease, Tokens | Verdict]
"""What came of a lease: tokens, or why there are none."""

# --- for one attempt or call ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps that touch the database, for one connection each: called directly, or through groups."""

    begin: Callable[[Need], Begun]
    finish: Callable[[Finish], Renewed | Lost]
    read: Callable[[Need], GrantState | None]
    keep_seconds: float = KEEP_SECONDS
    """How long new tokens are kept in memory while the database takes none: nobody else has them."""


DIRECT = Steps(
    begin=lambda need: begin_refresh([need])[0],
    finish=lambda finish: finish_refresh([finish])[0],
    read=lambda need: read_states([need])[0],
)
"""For threads with a database connection of their own."""


class Authorization:
    """The opened credentials of one attempt or call, and their version.

    `need` says who uses them, for the access records, and which version was opened. `clock` is PostgreSQL's, by which
    tokens live. `opened` are the secrets of all that were opened meanwhile, for masking: an answer may quote a token
    that has been replaced.
    """

    def __init__(
        self,
        need: Need,
        provider: Provider,
        config: Mapping[str, Any],
        credentials: Mapping[str, Any],
        clock: Reading,
        steps: Steps = DIRECT,
    ) -> None:
        self.version = need.version
        self.credentials = credentials
        self.opened = [tokens.secrets_of(credentials)]
        self._need, self._provider, self._config, self._clock, self._steps = need, provider, config, clock, steps
        self._was_refused = False

    def prepare(self, until: float) -> None:
        """Before use: renew the token when it is due. Raises NoTokenError where the one at hand is of no use either.

        `until` (of the monotonic clock) ends waiting and asking.
        """
        now = self._clock.now()
        if not self._can_renew() or not tokens.is_due(self.credentials, now):
            return
        is_expired = tokens.is_expired(self.credentials, now)
        try:
            self._renew(until, WAIT_SECONDS if is_expired else 0.0)
        except NoTokenError as error:
            if is_expired or error.is_final:
                raise

    def renew_after(self, response: Response, until: float) -> bool:
        """After an answer: whether it refused the token and there is another now, so that it is worth asking again.

        Only once; a second refusal is the answer. Raises NoTokenError.
        """
        if self._was_refused or not self._can_renew() or not self._provider.is_unauthorized(response):
            return False
        self._was_refused = True
        self._renew(until, WAIT_SECONDS)
        return True

    def _can_renew(self) -> bool:
        return tokens.can_renew(self._provider.oauth, self._config, self.credentials)

    def _renew(self, until: float, patience: float) -> None:
        before = self.credentials.get("access_token")
        while self.credentials.get("access_token") == before:  # else only other credentials have changed
            renewed = renew(
                replace(self._need, version=self.version, lease_id=ids.uuid7()), self._steps, until, patience
            )
            if renewed.config != self._config and moved(self._provider, self._config, renewed.config):
                raise NoTokenError(unavailable(MOVED_MESSAGE))
            self.version, self.credentials = renewed.version, renewed.credentials
            self.opened.append(tokens.secrets_of(renewed.credentials))


def renew(need: Need, steps: Steps, until: float, patience: float = WAIT_SECONDS) -> Renewed:
    """A newer document than the need's: asked for here, or by another within the patience (s). Raises NoTokenError."""
    patient_until = min(time.monotonic() + patience, until)
    while True:
        begun = steps.begin(need)
        if isinstance(begun, Lease):
            begun = _ask(begun, steps, until)
        elif begun is None:
            _wait(need, steps, patient_until)
        if isinstance(begun, Renewed):
            return begun
        if isinstance(begun, Verdict):
            raise NoTokenError(begun)


def _ask(lease: Lease, steps: Steps, until: float) -> Renewed | None:
    """Ask the vendor, and keep the answer before it is used; None where another has gone on. Raises NoTokenError."""
    provider, config, credentials, client = lease.provider, lease.config, lease.credentials, lease.client
    try:
        seconds = until - time.monotonic()
        if seconds <= 0:
            raise NoTokenError(unavailable("There was no time left to ask for a token."))
        new = tokens.renew(provider, config, credentials, client, seconds, asked_at=lease.clock.now())
    except NoTokenError as error:
        verdict = tokens.with_cool_down(error.verdict, lease.failures)
        steps.finish((lease, verdict))
        raise NoTokenError(verdict) from None
    kept = _keep_patiently((lease, new), steps)
    if isinstance(kept, Renewed):
        return kept
    if kept is Lost.GONE:
        if provider.oauth is not None and not provider.oauth.shares_tokens:  # nobody else knows this one
            tokens.revoke(provider, config, tokens.merged(credentials, new), client)
        raise NoTokenError(ended(provider.name))
    return None


def _keep_patiently(finish: Finish, steps: Steps) -> Renewed | Lost:
    """Keep new tokens, with patience while PostgreSQL cannot, for whatever reason that does not lie in themselves:
    nobody else has them, and the old ones may be void.

    A lease that lapses meanwhile does no harm: who cannot write cannot take it either, and `finish` checks the lease.
    """
    ends_at = time.monotonic() + steps.keep_seconds
    while True:
        try:
            return steps.finish(finish)
        except Error as error:
            if fault_of(error) is Fault.ITEM or time.monotonic() >= ends_at:
                raise
            time.sleep(0.5)
            close_old_connections()


def _wait(need: Need, steps: Steps, until: float) -> None:
    """Until there is a newer document, nobody who asks, or no asking any more. Raises NoTokenError when patience ends
    first."""
    while time.monotonic() < until:
        state = steps.read(need)
        if state is None or state.is_deleted or state.has_ended or not state.is_leased or state.version != need.version:
            return
        time.sleep(POLL_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311  (spreads the threads that wait)
    raise NoTokenError(unavailable(BUSY_MESSAGE, BUSY_COOL_DOWN_SECONDS))


# --- beginning ------------------------------------------------------------------------------------------------------

STATES = """
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


def read_states(needs: Sequence[Need]) -> list[GrantState | None]:
    """How the grants of these connections are; None for a connection that is not there. Opens nothing."""
    with database.cursor() as cursor:
        cursor.execute(STATES, [sorted({need.connection_id for need in needs})])
        rows = cursor.fetchall()
    found = {(row[1], row[0]): GrantState(row[2], json.loads(row[3]), *row[4:]) for row in rows}
    return [found.get((need.workspace_id, need.connection_id)) for need in needs]


def begin_refresh(needs: Sequence[Need]) -> list[Begun]:
    """For each need the lease, the newer document that is there already, or why there is neither.

    Of several needs for one connection at most one gets its lease. Opening a document leaves an access record.
    """
    with transaction.atomic():
        states = read_states(needs)
        taken: set[uuid.UUID] = set()
        wanting = {
            need.connection_id: need.lease_id
            for need, state in zip(needs, states, strict=True)
            if state is not None and not (state.is_deleted or state.has_ended or state.cool_down_seconds > 0)
            and state.version == need.version
        }  # fmt: skip
        if wanting:
            with database.cursor() as cursor:
                cursor.execute(MAKE, [list(wanting)])
                cursor.execute(TAKE, [list(wanting), list(wanting.values()), LEASE_SECONDS])
                taken = {row[0] for row in cursor.fetchall()}
        if taken:
            states = read_states(needs)  # what was committed before our locks is seen from here on
        return [_begin(need, state, need.lease_id in taken) for need, state in zip(needs, states, strict=True)]


def _begin(need: Need, state: GrantState | None, is_ours: bool) -> Begun:
    if state is None or state.is_deleted:
        return ended("The destination")
    if state.version != need.version:
        begun: Begun = _open(need, state.config)
        if isinstance(begun, Renewed) and begun.version != state.version:
            begun = None  # it was replaced at this moment, and the config perhaps with it
    elif is_ours:
        begun = _lease(need, state)
    elif state.has_ended:
        return reauthorize(state.last_error, "authorization_ended")
    elif state.cool_down_seconds > 0:
        return unavailable(state.last_error, state.cool_down_seconds)
    elif installation.is_held():
        return unavailable(HELD_MESSAGE, HELD_COOL_DOWN_SECONDS)
    else:
        return None
    if is_ours and not isinstance(begun, Lease):
        _leased(need).update(**grants.UNLEASED)
    return begun


def _lease(need: Need, state: GrantState) -> Lease | Verdict | None:
    opened = _open(need, state.config)
    if not isinstance(opened, Renewed):
        return opened
    if opened.version != state.version:
        return None
    provider, credentials = providers.get(state.type), opened.credentials
    oauth = provider.oauth
    if oauth is None or not tokens.can_renew(oauth, state.config, credentials):
        return ended(provider.name)
    client: Client | None
    if oauth.grant == "client_credentials":
        client = Client(credentials[oauth.client_id_field].reveal(), credentials[oauth.client_secret_field])
    else:
        try:
            client = grants.client_for(
                need.workspace_id, state.type, actor=need.actor, purpose=PURPOSE, id=state.client_id
            )
        except vault.KeyMissing as missing:  # of the app's own document
            return verdict_on(missing)
    if client is None:
        public_id = ids.encode(ids.CONNECTION, need.connection_id)
        logger.error("connection %s: the OAuth client that was authorized is not configured", public_id)
        message = f"The {provider.name} app that this connection was authorized with is not set up any more."
        return unavailable(message, tokens.LONGEST_COOL_DOWN_SECONDS)  # an operator has to come
    clock = Reading(state.now)
    return Lease(need, provider, state.config, opened.version, credentials, client, state.failures, clock)


def _open(need: Need, config: Mapping[str, Any]) -> Renewed | Verdict:
    try:
        opened = vault.open(
            **_owner_of(need),
            actor=need.actor,
            purpose=PURPOSE,
            delivery_id=need.delivery_id,
            attempt_number=need.attempt_number,
        )
    except vault.CredentialRefused as refused:
        return verdict_on(refused)
    return Renewed(config, opened.version, opened.secret)


def _owner_of(need: Need) -> dict[str, Any]:
    """How the vault knows the connection's document."""
    return {
        "workspace_id": need.workspace_id, "owner_kind": "connection", "owner_id": need.connection_id,
        "kind": vault.CREDENTIALS,
    }  # fmt: skip


def _leased(need: Need) -> Any:
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
    return [_keep(lease, result) if isinstance(result, Tokens) else _fail(lease, result) for lease, result in finishes]


def _keep(lease: Lease, new: Tokens) -> Renewed | Lost:
    need, oauth = lease.need, lease.provider.oauth
    with transaction.atomic():
        connection = lifecycle.lock(need.workspace_id, need.connection_id)
        if connection is None or not _leased(need).select_for_update().exists():
            is_by_person = oauth is not None and oauth.is_by_person  # a client of the customer's may have had none yet
            is_gone = connection is None or (is_by_person and "access_token" not in connection.credential_hints)
            return Lost.GONE if is_gone else Lost.OVERTAKEN
        kept = _seal(lease, new, connection.config)
        changed = dict(grants.UNLEASED)
        if isinstance(kept, Renewed):
            changed |= grants.columns_of(new)
            hints = tokens.hints_of(kept.credentials)
            if hints != connection.credential_hints:
                rows = Connection.objects.filter(pk=connection.pk, workspace_id=connection.workspace_id)
                rows.update(credential_hints=hints)
        _leased(need).update(**changed)
        return kept


def _seal(lease: Lease, new: Tokens, config: Mapping[str, Any]) -> Renewed | Lost:
    """Seal over the document that was opened, or, where only other credentials have changed since, over that one."""
    base: Renewed | Verdict = Renewed(config, lease.version, lease.credentials)
    while isinstance(base, Renewed):
        if any(base.credentials.get(key) != lease.credentials.get(key) for key in tokens.SHOWN_KEYS):
            break
        document = tokens.merged(base.credentials, new)
        owner, actor = _owner_of(lease.need), lease.need.actor
        try:
            version = vault.seal(document, **owner, actor=actor, purpose=vault.REFRESHED, over=base.version)
            return Renewed(config, version, document)
        except vault.Overtaken:
            base = _open(lease.need, config)
    return Lost.OVERTAKEN


def _fail(lease: Lease, verdict: Verdict) -> Lost:
    """End the lease. What only the owner can fix holds the connection; an end of the authorization is logged once."""
    need, now, oauth = lease.need, database_now(), lease.provider.oauth
    is_end = verdict.hold == Connection.Status.NEEDS_REAUTH
    changed: dict[str, Any] = {
        **grants.UNLEASED,
        "refresh_failures": F("refresh_failures") + (0 if verdict.is_ours else 1),
        "last_error": verdict.words[:300],
    }
    if is_end and oauth is not None and oauth.is_by_person:
        changed["ended_at"] = now
    elif is_end or verdict.retry_after_seconds is not None:  # the customer may fix its own client
        seconds = verdict.retry_after_seconds or tokens.FIRST_COOL_DOWN_SECONDS
        changed["not_before"] = now + timedelta(seconds=seconds)
    with transaction.atomic():
        connection = lifecycle.lock(need.workspace_id, need.connection_id)
        is_ours = connection is not None and bool(_leased(need).update(**changed))
        if connection is not None and is_ours and verdict.hold is not None:
            lifecycle.hold(connection, verdict.hold, verdict.words)
    if is_ours and is_end:
        public_id = ids.encode(ids.CONNECTION, need.connection_id)
        logger.error("connection %s gets no more tokens: %s", public_id, verdict.words)
    return Lost.OVERTAKEN
