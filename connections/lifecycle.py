"""What happens to a connection by its owner's will: create, edit, pause, resume, rotate, delete.

Each change is one conditional UPDATE, so that of two at once one wins and the other is told. Secrets are opened before
the transaction, but for tokens that end with it. After the commit `connection_changed` is sent.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q
from django.dispatch import Signal

from connections import credentials as stored
from connections import outbound, outside, providers
from connections.credentials import ConflictError
from connections.messages import RequestRefusedError, with_ascii_host
from connections.models import Connection, ConnectionHealth, OAuthState
from connections.oauth import grants, tokens
from connections.oauth.tokens import Tokens
from connections.providers.base import Account, FieldProblem, Granted, InvalidFields, Provider
from meshes.kit import clock, ids
from workspaces import journal
from workspaces.vault import access_log, sealing, vault
from workspaces.vault.models import SealedDocument

Status = Connection.Status

connection_changed = Signal()
"""Sent after the commit with `connection_id` (UUID): status, pause, limits, config or credentials have changed, or the
connection is new or deleted."""
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
"""The columns of a connection's health once somebody has fixed it; the last failure stays what it was."""
TO_AUTHORIZE_WORDS = "It has not been authorized yet: open its authorization URL or connect link."
TO_GIVE_WORDS = "It has no credentials yet."
DISCONNECTED_WORDS = "It was disconnected. Authorize it again to use it."
ENDED_WORDS = "The connection was disconnected, or authorized otherwise, meanwhile. Start again."
MOVED_WORDS = "The connection was moved while it was authorized. Start again."
DELETED_WORDS = "The connection has been deleted."
CHANGED_WORDS = "The connection has been changed or deleted meanwhile; read it again."


@dataclass(frozen=True, slots=True)
class Change:
    """The row after a change, and the secrets that it made: to be shown once, in plain text."""

    connection: Connection
    made: Mapping[str, str] = field(default_factory=dict, repr=False)


# --- what its owner does --------------------------------------------------------------------------------------------


def prepare_create(
    workspace_id: uuid.UUID,
    type: str,
    *,
    actor: str = "",
    config: Mapping[str, Any] | None = None,
    credentials: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Callable[[], Change]:
    """A new connection, active or waiting to be authorized: all that is checked is checked now, and what is returned
    writes. `columns` are others of its row, such as `name`; `actor` is for the access record.

    Raises KeyError for an unknown type, and InvalidFields.
    """
    provider = providers.get(type)
    given = stored.read_given(provider, credentials or {}, {})
    cleaned = check(provider, config or {}, given)
    document, made = stored.make(provider, given)

    @transaction.atomic
    def write() -> Change:
        reason = TO_GIVE_WORDS if provider.oauth is None else TO_AUTHORIZE_WORDS
        waiting = _waiting(reason) if provider.auth == "oauth2" and not given else {}
        values = {"type": type, "config": cleaned, "credential_hints": tokens.hints_of(document), **columns, **waiting}
        connection = Connection.objects.create(workspace_id=workspace_id, **values)
        stored.seal(connection, document, actor, vault.CREATED)
        _announce(connection)
        return Change(connection, made)

    return write


def edit(
    connection: Connection,
    *,
    actor: str,
    config: Mapping[str, Any] | None = None,
    credentials: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Change:
    """Change what is given; in config and credentials key by key, None removing one. `columns` are others of the row.

    New credentials end `needs_reauth` and `credential_error`. Where the old ones do not open any more, the generated
    secrets are made anew too. Raises InvalidFields, Problem `credentials_required` where credentials would be sent
    elsewhere that the edit does not bring, and ConflictError when the connection changed meanwhile.
    """
    provider = providers.get(connection.type)
    changed = stored.read_given(provider, credentials or {}, connection.credential_hints)
    if config or changed:
        merged = merge(connection.config, config or {})
        present = stored.present_after(provider, connection.credential_hints, changed)
        columns["config"] = check(provider, merged, present, saved=connection.config)
    after = columns.get("config", connection.config)
    moved = bool(stored.check_move(provider, connection.config, after, connection.credential_hints, changed))
    void = tokens.are_void(provider.oauth, changed, connection.config, after)
    if void:  # also where no token was seen: a refresh may have got one since
        changed |= dict.fromkeys(tokens.TOKEN_KEYS - changed.keys())
    replacement = stored.replace(provider, connection, changed, actor) if changed else None
    return _save(connection, columns, replacement, ends_grant=void, moved=moved, actor=actor, purpose=vault.REPLACED)


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
    """A newly generated secret; the one before goes on signing for the provider's overlap. Raises
    ConflictError. The present one is opened now, and what is returned writes; it raises ConflictError too.
    """
    rotated = stored.rotate(providers.get(connection.type), connection, actor)
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
    in is forgotten: it was not brought again. Raises ConflictError for a connection that was deleted or moved
    meanwhile, or disconnected or authorized otherwise since the authorization was `started`.
    """
    provider = providers.get(connection.type)
    with transaction.atomic():
        row = lock(connection.workspace_id, connection.pk)
        if row is None:
            raise ConflictError(DELETED_WORDS)
        if started is not None and not OAuthState.objects.filter(pk=started.pk, workspace_id=row.workspace_id).exists():
            raise ConflictError(ENDED_WORDS)
        if stored.moved(provider, connection.config, row.config):
            raise ConflictError(MOVED_WORDS)
        config = {**row.config, **granted.config}
        moved = stored.moved(provider, row.config, config)
        document = stored.authorized(provider, row, new, actor, keeps_typed=not moved)
        stored.seal(row, document, actor, vault.AUTHORIZED)
        now = clock.database_now()
        _rows(row).update(
            config=config, credential_hints=tokens.hints_of(document), updated_at=now, version=F("version") + 1,
            **_columns_of(granted.account or Account("")),
        )  # fmt: skip
        _rows(row).filter(status__in=AWAITING_CREDENTIALS).update(
            status=Status.ACTIVE, status_reason="", status_changed_at=now, paused_until=None
        )
        grants.establish(row, new, client_id, started)
        if moved and not row.config.keys().isdisjoint(moved):  # else it had been nowhere before
            access_log.record_action(**stored.owner_of(row), actor=actor, purpose="moved")
        _announce(row)
    return _reload(connection)


def disconnect(connection: Connection, *, actor: str, asks_vendor: bool = True) -> Connection:
    """Take the tokens out of the vault, make connect links void, and revoke at the vendor after the commit.

    Not `asks_vendor`: it was asked before. Raises ConflictError where nothing is authorized this way, and when the
    connection changed meanwhile; OutsideBusyError where the vendor cannot be asked now.
    """
    provider = providers.get(connection.type)
    if provider.oauth is None or not provider.oauth.is_by_person:
        raise ConflictError(f"{provider.name} connections are not authorized, so there is nothing to disconnect.")
    with outside.keeping_places(), transaction.atomic():
        row = lock(connection.workspace_id, connection.pk)
        if row is None or row.version != connection.version:
            raise ConflictError(CHANGED_WORDS)
        if asks_vendor and grants.needs_revoking(row):
            outside.keep_place()
        revocation = grants.prepare_revocation(row, actor)
        replacement: stored.Replacement | None = None
        if revocation is not None:
            version, opened, _ = revocation
            document = provider.make_secrets() if version is None else tokens.without_tokens(opened)
            replacement = document, {}, version
        waiting = _waiting(DISCONNECTED_WORDS)
        _save(connection, waiting, replacement, activates=False, actor=actor, purpose=vault.DISCONNECTED)
        grants.clear(connection, ends_starts=True)
        _note("connection_disconnected", connection, version=connection.version + 1)
        _revoke_later(row, revocation if asks_vendor else None)
    return _reload(connection)


def pause(connection: Connection) -> Connection:
    """Hold all deliveries until `resume`; again changes nothing. Raises ConflictError when it is held otherwise."""
    if not _move(connection, [Status.ACTIVE], Status.PAUSED, "Paused by its owner."):
        current = _reload(connection)
        if current.status != Status.PAUSED:
            raise ConflictError(f"The connection is {current.status}; its deliveries are held already.")
    return _reload(connection)


def resume(connection: Connection) -> Connection:
    """End whatever holds the connection, a pause of its lane too. Raises ConflictError for a deleted one."""
    held = [status for status in Status if status != Status.DELETED]
    if not _move(connection, held, Status.ACTIVE, ""):
        raise ConflictError(DELETED_WORDS)
    return _reload(connection)


def delete(connection: Connection, *, actor: str = "", asks_vendor: bool = True) -> bool:
    """Leave a tombstone: history stays readable, secrets are destroyed. False when that was done before.

    Not `asks_vendor`: it was asked to revoke the tokens before. Raises OutsideBusyError where there is something
    to revoke, and the vendor cannot be asked now.
    """
    now = clock.database_now()
    with outside.keeping_places(), transaction.atomic():
        row = lock(connection.workspace_id, connection.pk)
        if row is None:
            return False
        if asks_vendor and grants.needs_revoking(row):
            outside.keep_place()
        revocation = grants.prepare_revocation(row, actor) if asks_vendor else None
        _rows(row).update(
            status=Status.DELETED, status_reason="", status_changed_at=now, deleted_at=now, updated_at=now,
            paused_until=None, credential_hints={}, config=_without_queries(row), version=F("version") + 1,
        )  # fmt: skip
        vault.destroy(**stored.owner_of(connection), actor=actor)
        grants.clear(connection, ends_starts=True)
        _announce(connection)
        _note("connection_deleted", connection)
        _revoke_later(row, revocation)
    return True


def hold(connection: Connection, status: str, reason: str) -> bool:
    """Take an active connection out of service; False when it was not active."""
    return _move(connection, [Status.ACTIVE], status, reason)


def end_failures(connection: Connection) -> bool:
    """A test has succeeded: end what a failure began, a breaker's pause too. False when there was nothing.

    A user's own pause stays, and so does the cool-down that a 429 asked for.
    """
    if _move(connection, [Status.DISABLED, *AWAITING_CREDENTIALS], Status.ACTIVE, ""):
        return True
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
    values = _columns_of(account)
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

    URLs that are not those `saved` are shown to the outbound client, which looks no name up; credentials only by
    presence.
    """
    cleaned = provider.clean_config(config)
    problems = list(provider.check(cleaned, credentials))
    for declared in provider.config_fields:
        url = cleaned.get(declared.key)
        if declared.type == "url" and url is not None and url != (saved or {}).get(declared.key):
            try:
                outbound.check_url(url)
            except RequestRefusedError as error:
                problems.append(FieldProblem(f"/config/{declared.key}", error.message, "url"))
            cleaned[declared.key] = with_ascii_host(url)
    if problems:
        raise InvalidFields(problems)
    return cleaned


# --- what an operator's missing key had stopped ---------------------------------------------------------------------

EARLIER_WORDS = (
    "The stored credentials could not be opened. Nothing was sent; set the credentials anew.",
    "The stored credentials do not open. Replace them.",
)
"""What earlier versions said of a missing key, and of a document that somebody had changed."""
RECOVERED_AT_ONCE = 100


def recover(now: datetime) -> int:
    """Look at connections in `credential_error`; how many were looked at.

    Where the document's key is not among FERNET_KEYS, that alone is the cause (an earlier version stopped connections
    for that; today they cool down): the connection is `active`. Where an earlier version said why, and the document
    opens as this connection's, its key is back: `active`. Where it does not open, the words become today's, and the
    connection waits for its owner.
    """
    document = SealedDocument.objects.filter(connection=OuterRef("pk"), kind=vault.CREDENTIALS)
    stopped = Connection.objects.filter(status=Status.CREDENTIAL_ERROR, workspace__deleted_at=None)
    stopped = stopped.annotate(lacks_key=Exists(document.exclude(key_id__in=[*sealing.key_ids(), sealing.GIVEN_UP])))
    found = list(
        stopped.filter(Q(lacks_key=True) | Q(status_reason__in=EARLIER_WORDS)).order_by("pk")[:RECOVERED_AT_ONCE]
    )
    for connection in found:
        try:
            if not connection.lacks_key:
                stored.open_document(connection, vault.this_process(), "recover")
        except vault.CredentialRefused:
            _rows(connection).filter(status=Status.CREDENTIAL_ERROR).update(status_reason=stored.REFUSED_WORDS)
        else:
            _move(connection, [Status.CREDENTIAL_ERROR], Status.ACTIVE, "")
    return len(found)


# --- writing --------------------------------------------------------------------------------------------------------


def _note(did: journal.Did, connection: Connection, **facts: int) -> None:
    """In the journal, where it is kept."""
    workspace = ids.encode(ids.WORKSPACE, connection.workspace_id)
    journal.note(did, workspace=workspace, connection=connection.public_id, **facts)


def _rows(connection: Connection) -> Any:
    return Connection.objects.filter(pk=connection.pk, workspace_id=connection.workspace_id)


def lock(workspace_id: uuid.UUID, connection_id: uuid.UUID) -> Connection | None:
    """The row as it is now, and until the transaction's end; None for a deleted one. An edit and a refresh that ends
    wait for one another."""
    rows = Connection.objects.filter(pk=connection_id, workspace_id=workspace_id).exclude(status=Status.DELETED)
    return rows.select_for_update(no_key=True).first()


def _reload(connection: Connection) -> Connection:
    row: Connection = _rows(connection).get()
    return row


def _save(
    connection: Connection,
    values: Mapping[str, Any],
    replacement: stored.Replacement | None,
    *,
    actor: str,
    purpose: str,
    ends_grant: bool = False,
    activates: bool = True,
    moved: bool = False,
) -> Change:
    """Write the columns, and a new document, over the versions that were read. Raises ConflictError."""
    now = clock.database_now()
    document, made, over = replacement or (None, {}, None)
    hints = {} if document is None else {"credential_hints": tokens.hints_of(document)}
    rows = _rows(connection).filter(version=connection.version).exclude(status=Status.DELETED)
    with transaction.atomic():
        if not rows.update(**values, **hints, version=F("version") + 1, updated_at=now):
            raise ConflictError(CHANGED_WORDS)
        if document is not None:
            try:
                stored.seal(connection, document, actor, purpose, over=over)
            except vault.Overtaken:
                raise ConflictError(CHANGED_WORDS) from None
        if document is not None and activates:
            _rows(connection).filter(status__in=AWAITING_CREDENTIALS).update(
                status=Status.ACTIVE, status_reason="", status_changed_at=now
            )
        if ends_grant:
            grants.clear(connection)
        if moved:
            access_log.record_action(**stored.owner_of(connection), actor=actor, purpose="moved")
        _announce(connection)
    return Change(_reload(connection), made)


def _columns_of(account: Account) -> dict[str, str]:
    """As much of it as the columns hold."""
    return {"account_id": account.id[:200], "account_name": account.name[:200]}


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


def _revoke_later(connection: Connection, revocation: grants.Revocation | None) -> None:
    """Ask the vendor after the commit, in the place that was taken before anything changed."""

    def revoke() -> None:  # no partial: of a robust hook that fails, Django reads the name
        if revocation is not None:
            grants.revoke(connection, *revocation[1:])

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
