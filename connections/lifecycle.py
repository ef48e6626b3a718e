"""What happens to a connection by its owner's will: create, edit, pause, resume, rotate, delete.

Each change is one conditional UPDATE, so that of two at once one wins and the other is told. Secrets are opened before
the transaction, but for tokens that end with it. After the commit `connection_changed` is sent.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.db import transaction
from django.db.models import F

from connections import credentials as keeping
from connections import origins, outbound, outside, providers
from connections.messages import OutboundError, RequestRefusedError, with_ascii_host
from connections.models import Connection, ConnectionHealth, OAuthState
from connections.oauth import grants, tokens
from connections.oauth.tokens import Tokens
from connections.providers.base import Account, FieldProblem, Granted, InvalidFields, Provider
from connections.signals import connection_changed
from meshes.kit import clock, ids
from workspaces import journal
from workspaces.vault import access_log, vault

Status = Connection.Status

TUNING = frozenset({"retry_schedule", "in_flight", "rate", "timeout_seconds"})
"""Columns that an owner may set as they are."""
AWAITING_CREDENTIALS = (Status.NEEDS_REAUTH, Status.CREDENTIAL_ERROR)
"""What new credentials end."""
CLOSED_BREAKER: Mapping[str, Any] = {
    "breaker": ConnectionHealth.Breaker.CLOSED,
    "opened_by": "",
    "consecutive_failures": 0,
    "opened_times": 0,
    "first_failure_at": None,
    "probe_until": None,
}
"""The columns of a connection's health once somebody has mended it; the last failure stays what it was."""
TO_AUTHORIZE_WORDS = "It has not been authorized yet: open its authorization URL or connect link."
TO_GIVE_WORDS = "It has no credentials yet."
DISCONNECTED_WORDS = "It was disconnected. Authorize it again to use it."
ENDED_WORDS = "The connection was disconnected, or authorized otherwise, meanwhile. Start again."
MOVED_WORDS = "The connection was moved while it was authorized. Start again."
DELETED_WORDS = "The connection has been deleted."
CHANGED_WORDS = "The connection has been changed or deleted meanwhile; read it again."


class Conflict(Exception):  # noqa: N818 - names the state
    """The connection is not in the state that this change starts from. `str()` says why, for the API."""


@dataclass(frozen=True, slots=True)
class Change:
    """The row after a change, and the secrets that it made: to be shown once, in plain text."""

    connection: Connection
    made: Mapping[str, str] = field(default_factory=dict, repr=False)


def create(
    workspace_id: uuid.UUID,
    type: str,
    name: str,
    config: Mapping[str, Any],
    credentials: Mapping[str, Any],
    tuning: Mapping[str, Any],
    *,
    actor: str = "",
) -> Change:
    """A new connection: active, or waiting to be authorized. Raises KeyError for an unknown type, and InvalidFields.

    `actor` is for the access record.
    """
    return prepare_create(workspace_id, type, name, config, credentials, tuning, actor=actor)()


def prepare_create(
    workspace_id: uuid.UUID,
    type: str,
    name: str,
    config: Mapping[str, Any],
    credentials: Mapping[str, Any],
    tuning: Mapping[str, Any],
    *,
    actor: str = "",
) -> Callable[[], Change]:
    """`create` in two: all that is checked is checked now, and what is returned writes. Raises as it does."""
    provider = providers.get(type)
    given = keeping.read_given(provider, credentials, {})
    cleaned = check(provider, config, given)
    document, made = keeping.make(provider, given)

    @transaction.atomic
    def write() -> Change:
        connection = Connection.objects.create(
            workspace_id=workspace_id,
            type=type,
            name=name,
            config=cleaned,
            credential_hints=keeping.hints_of(document),
            **(_waiting(_to_authorize(provider)) if provider.auth == "oauth2" and not given else {}),
            **{column: value for column, value in tuning.items() if column in TUNING},
        )
        keeping.seal(connection, document, actor, vault.CREATED)
        _announce(connection)
        return Change(connection, made)

    return write


def edit(
    connection: Connection,
    *,
    actor: str,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    credentials: Mapping[str, Any] | None = None,
    tuning: Mapping[str, Any] | None = None,
) -> Change:
    """Change what is given; in config and credentials key by key, None removing one.

    New credentials end `needs_reauth` and `credential_error`. Where the old ones do not open any more, the generated
    secrets are made anew too. Raises InvalidFields, CredentialsRequired where credentials would be sent elsewhere that
    the edit does not bring, and Conflict when the connection changed meanwhile.
    """
    provider = providers.get(connection.type)
    values = {column: value for column, value in (tuning or {}).items() if column in TUNING}
    if name is not None:
        values["name"] = name
    changed = keeping.read_given(provider, credentials or {}, connection.credential_hints)
    if config or changed:
        merged = merge(connection.config, config or {})
        present = keeping.present_after(provider, connection.credential_hints, changed)
        values["config"] = check(provider, merged, present, saved=connection.config)
    after = values.get("config", connection.config)
    moved = bool(origins.check_move(provider, connection.config, after, connection.credential_hints, changed))
    void = tokens.are_void(provider.oauth, changed, connection.config, after)
    if void:  # also where no token was seen: a refresh may have got one since
        changed |= dict.fromkeys(tokens.TOKEN_KEYS - changed.keys())
    if not changed:
        return _save(connection, values, ends_grant=void, moved=moved, actor=actor)
    try:
        replacement = keeping.replace(provider, connection, changed, actor)
    except keeping.Lost:
        raise Conflict("The stored credentials do not open. Send all of them again.") from None
    except vault.KeyMissing:
        raise Conflict(keeping.KEY_MISSING_WORDS) from None
    return _save(connection, values, replacement, ends_grant=void, moved=moved, actor=actor, purpose=vault.REPLACED)


def merge(present: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the change, name by name and object by object; null removes (RFC 7396)."""
    merged = dict(present)
    for key, value in change.items():
        held = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = merge(held if isinstance(held, Mapping) else {}, value)
        else:
            merged[key] = value
    return {key: value for key, value in merged.items() if value is not None}


def prepare_rotation(connection: Connection, *, actor: str) -> Callable[[], Change]:
    """A newly generated secret; the one before goes on signing for the provider's overlap. Raises Conflict.

    The present one is opened now, and what is returned writes; it raises Conflict too.
    """
    provider = providers.get(connection.type)
    try:
        rotated = keeping.rotate(provider, connection, actor)
    except keeping.Lost:
        raise Conflict("The stored credentials do not open. Send all of them again.") from None
    except vault.KeyMissing:
        raise Conflict(keeping.KEY_MISSING_WORDS) from None
    if rotated is None:
        raise Conflict(f"{provider.name} has no secret that Meshes makes.")
    return partial(_save, connection, {}, rotated, actor=actor, purpose=vault.ROTATED)


def authorize(
    connection: Connection,
    new: Tokens,
    granted: Granted,
    *,
    client_id: str,
    actor: str,
    started: OAuthState | None = None,
) -> Connection:
    """Keep what an authorization gave; it ends `needs_reauth` and `credential_error`, connect links, and every other
    authorization of the connection that is under way.

    The config additions are checked already. Where they send requests elsewhere than before, what the owner had typed
    in is forgotten: it was not brought again. Raises Conflict for a connection that was deleted or moved meanwhile, or
    disconnected or authorized otherwise since the authorization was `started`.
    """
    provider = providers.get(connection.type)
    account = granted.account or Account("")
    with transaction.atomic():
        row = _lock(connection)
        if row is None:
            raise Conflict(DELETED_WORDS)
        if started is not None and not OAuthState.objects.filter(pk=started.pk, workspace_id=row.workspace_id).exists():
            raise Conflict(ENDED_WORDS)
        if origins.moved(provider, connection.config, row.config):
            raise Conflict(MOVED_WORDS)
        config = {**row.config, **granted.config}
        moved = origins.moved(provider, row.config, config)
        document = keeping.authorized(provider, row, new, actor, keeps_typed=not moved)
        keeping.seal(row, document, actor, vault.AUTHORIZED)
        now = clock.database_now()
        _rows(row).update(
            config=config, credential_hints=keeping.hints_of(document), updated_at=now,
            account_id=account.id[:200], account_name=account.name[:200], version=F("version") + 1,
        )  # fmt: skip
        _rows(row).filter(status__in=AWAITING_CREDENTIALS).update(
            status=Status.ACTIVE, status_reason="", status_changed_at=now, paused_until=None
        )
        grants.establish(row, new, client_id, started)
        if moved and not row.config.keys().isdisjoint(moved):  # else it had been nowhere before
            _record_move(row, actor)
        _announce(row)
    return _reload(connection)


def _record_move(connection: Connection, actor: str) -> None:
    """Record that the connection's requests go to another scheme, host or port from now on."""
    access_log.record_action(
        workspace_id=connection.workspace_id,
        owner_kind="connection",
        owner_id=connection.pk,
        actor=actor,
        purpose="moved",
    )


def disconnect(connection: Connection, *, actor: str, asks_vendor: bool = True) -> Connection:
    """Take the tokens out of the vault, make connect links void, and revoke at the vendor after the commit.

    Not `asks_vendor`: it was asked before.

    Raises Conflict where nothing is authorized this way, and when the connection changed meanwhile; NoPlace where the
    vendor cannot be asked now.
    """
    provider = providers.get(connection.type)
    if provider.oauth is None or not provider.oauth.is_by_person:
        raise Conflict(f"{provider.name} connections are not authorized, so there is nothing to disconnect.")
    with outside.keeping_places(), transaction.atomic():
        row = _lock(connection)
        if row is None or row.version != connection.version:
            raise Conflict(CHANGED_WORDS)
        if asks_vendor and grants.needs_revoking(row):
            outside.keep_place()
        revocation = grants.prepare_revocation(row, actor)
        replacement = None
        if revocation is not None:
            is_open = revocation.version is not None
            document = tokens.without_tokens(revocation.document) if is_open else provider.make_secrets()
            replacement = keeping.Replacement(document, {}, revocation.version)
        waiting = _waiting(DISCONNECTED_WORDS)
        _save(connection, waiting, replacement, mends=False, actor=actor, purpose=vault.DISCONNECTED)
        grants.clear(connection, ends_starts=True)
        _note("connection_disconnected", connection, version=connection.version + 1)
        _revoke_later(revocation if asks_vendor else None)
    return _reload(connection)


def pause(connection: Connection) -> Connection:
    """Hold all deliveries until `resume`; pausing twice changes nothing. Raises Conflict when it is held otherwise."""
    if not _move(connection, [Status.ACTIVE], Status.PAUSED, "Paused by its owner."):
        current = _reload(connection)
        if current.status != Status.PAUSED:
            raise Conflict(f"The connection is {current.status}; its deliveries are held already.")
    return _reload(connection)


def resume(connection: Connection) -> Connection:
    """End whatever holds the connection, a pause of its lane too. Raises Conflict for a deleted one."""
    held = [status for status in Status if status != Status.DELETED]
    if not _move(connection, held, Status.ACTIVE, ""):
        raise Conflict(DELETED_WORDS)
    return _reload(connection)


def delete(connection: Connection, *, actor: str = "", asks_vendor: bool = True) -> bool:
    """Leave a tombstone: history stays readable, secrets are destroyed. False when that was done before.

    Not `asks_vendor`: it was asked to revoke the tokens before.

    Raises NoPlace where there is something to revoke, and the vendor cannot be asked now.
    """
    now = clock.database_now()
    with outside.keeping_places(), transaction.atomic():
        row = _lock(connection)
        if row is None:
            return False
        if asks_vendor and grants.needs_revoking(row):
            outside.keep_place()
        revocation = grants.prepare_revocation(row, actor) if asks_vendor else None
        _rows(row).update(
            status=Status.DELETED, status_reason="", status_changed_at=now, deleted_at=now, updated_at=now,
            paused_until=None, credential_hints={}, config=_without_queries(row), version=F("version") + 1,
        )  # fmt: skip
        keeping.destroy(connection, actor)
        grants.clear(connection, ends_starts=True)
        _announce(connection)
        _note("connection_deleted", connection)
        _revoke_later(revocation)
    return True


def hold(connection: Connection, status: str, reason: str) -> bool:
    """Take an active connection out of service; False when it was not active."""
    return _move(connection, [Status.ACTIVE], status, reason)


def restart(connection: Connection) -> bool:
    """Put a connection back to work whose credentials were never at fault; False when it is no `credential_error`."""
    return _move(connection, [Status.CREDENTIAL_ERROR], Status.ACTIVE, "")


def explain(connection: Connection, reason: str) -> None:
    """Say in other words why a connection is in `credential_error`."""
    _rows(connection).filter(status=Status.CREDENTIAL_ERROR).update(status_reason=reason)


def mend(connection: Connection) -> bool:
    """A test has succeeded: end what a failure began, a breaker's pause too. False when there was nothing.

    A user's own pause stays, and so does the rest that a 429 asked for.
    """
    held = [Status.DISABLED, Status.NEEDS_REAUTH, Status.CREDENTIAL_ERROR]
    return _move(connection, held, Status.ACTIVE, "") or _close_breaker(connection)


def _close_breaker(connection: Connection) -> bool:
    opened = ConnectionHealth.objects.filter(connection=connection, connection__status=Status.ACTIVE)
    opened = opened.exclude(breaker=ConnectionHealth.Breaker.CLOSED).exclude(opened_by="throttled")
    with transaction.atomic():
        closed = bool(opened.update(**CLOSED_BREAKER))
        if closed:
            _rows(connection).filter(status=Status.ACTIVE).update(paused_until=None)
            _announce(connection)
    return closed


def learn_account(connection: Connection, account: Account) -> bool:
    """Keep whose account a test has found behind the connection. False when that was known."""
    values = {"account_id": account.id[:200], "account_name": account.name[:200]}
    with transaction.atomic():
        learnt = bool(_rows(connection).exclude(**values).update(**values))
        if learnt:
            _announce(connection)
    return learnt


def check(
    provider: Provider,
    config: Mapping[str, Any],
    credentials: Mapping[str, Any],
    saved: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The config with defaults, host names in ASCII. Raises InvalidFields.

    URLs that are not those `saved` are shown to the outbound client; credentials only by presence.
    """
    cleaned = provider.clean_config(config)
    problems = list(provider.check(cleaned, credentials))
    for declared in provider.config_fields:
        url = cleaned.get(declared.key)
        if declared.type == "url" and url is not None and url != (saved or {}).get(declared.key):
            problems += _url_problems(f"/config/{declared.key}", url)
            cleaned[declared.key] = with_ascii_host(url)
    if problems:
        raise InvalidFields(problems)
    return cleaned


def _url_problems(pointer: str, url: str) -> list[FieldProblem]:
    try:
        outbound.check_url(url)
    except RequestRefusedError as error:
        return [FieldProblem(pointer, error.message, "url")]
    except OutboundError:
        return []  # what cannot be looked up now is looked up when it is dialled
    return []


def _note(did: journal.Did, connection: Connection, **facts: int) -> None:
    """In the journal, where it is kept."""
    workspace = ids.encode(ids.WORKSPACE, connection.workspace_id)
    journal.note(did, workspace=workspace, connection=connection.public_id, **facts)


def _rows(connection: Connection) -> Any:
    return Connection.objects.filter(pk=connection.pk, workspace_id=connection.workspace_id)


def _lock(connection: Connection) -> Connection | None:
    """The row as it is now, and until the transaction's end; None for a deleted one. A refresh that ends waits."""
    row: Connection | None = _rows(connection).exclude(status=Status.DELETED).select_for_update(no_key=True).first()
    return row


def _reload(connection: Connection) -> Connection:
    row: Connection = _rows(connection).get()
    return row


def _save(
    connection: Connection,
    values: Mapping[str, Any],
    replacement: keeping.Replacement | None = None,
    *,
    ends_grant: bool = False,
    mends: bool = True,
    moved: bool = False,
    actor: str = "",
    purpose: str = "",
) -> Change:
    """Write the columns, and a new document, over the versions that were read. Raises Conflict."""
    now = clock.database_now()
    hints = {} if replacement is None else {"credential_hints": keeping.hints_of(replacement.document)}
    rows = _rows(connection).filter(version=connection.version).exclude(status=Status.DELETED)
    with transaction.atomic():
        if not rows.update(**values, **hints, version=F("version") + 1, updated_at=now):
            raise Conflict(CHANGED_WORDS)
        if replacement is not None:
            try:
                keeping.seal(connection, replacement.document, actor, purpose, over=replacement.over)
            except vault.Overtaken:
                raise Conflict(CHANGED_WORDS) from None
        if replacement is not None and mends:
            _rows(connection).filter(status__in=AWAITING_CREDENTIALS).update(
                status=Status.ACTIVE, status_reason="", status_changed_at=now
            )
        if ends_grant:
            grants.clear(connection)
        if moved:
            _record_move(connection, actor)
        _announce(connection)
    return Change(_reload(connection), replacement.made if replacement else {})


def _to_authorize(provider: Provider) -> str:
    return TO_AUTHORIZE_WORDS if provider.oauth is not None else TO_GIVE_WORDS


def _waiting(reason: str) -> dict[str, Any]:
    """The columns of a connection that waits to be authorized."""
    return {"status": Status.NEEDS_REAUTH, "status_reason": reason, "status_changed_at": clock.database_now()}


def _move(connection: Connection, origins: list[Any], status: str, reason: str) -> bool:
    """Change the status, where it is one of `origins`. Who asks for `active` ends pauses too."""
    now = clock.database_now()
    values: dict[str, Any] = {"status": status, "status_reason": reason, "status_changed_at": now, "updated_at": now}
    if status == Status.ACTIVE:
        values["paused_until"] = None
    with transaction.atomic():
        moved = bool(_rows(connection).filter(status__in=origins).update(**values))
        if moved:
            _announce(connection)
    return moved


def _revoke_later(revocation: grants.Revocation | None) -> None:
    """Ask the vendor after the commit, in the place that was taken before anything changed."""

    def revoke() -> None:  # no partial: of a robust hook that fails, Django reads the name
        if revocation is not None:
            revocation.send()

    transaction.on_commit(revoke, robust=True)


def _announce(connection: Connection) -> None:
    transaction.on_commit(lambda: connection_changed.send_robust(sender=Connection, connection_id=connection.pk))


def _without_queries(connection: Connection) -> dict[str, Any]:
    """The config for a tombstone: queries of URLs may carry keys."""
    provider = providers.get(connection.type)
    urls = {declared.key for declared in provider.config_fields if declared.type == "url"}
    return {
        key: urlunsplit(urlsplit(value)._replace(query="")) if key in urls else value
        for key, value in connection.config.items()
    }
