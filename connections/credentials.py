"""A connection's credentials as one document: what is given, what stays, what Meshes makes. Pure but for the vault.

A document is `{key: Secret, …}` with what a provider keeps beside (a webhook's replaced secrets). Its masks, the hints,
stand in the connection's row. A hint that is sent back leaves its secret as it is.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from connections.models import Connection
from connections.oauth import tokens
from connections.oauth.tokens import Tokens
from connections.providers.base import FieldProblem, InvalidFields, Outcome, Provider, Verdict, pointer_to
from meshes.kit import clock
from workspaces.vault import vault
from workspaces.vault.secret import MASK, Secret

RETRY_SECONDS = 60.0
"""So soon after the operator has put a missing key back, what waits for it goes on."""
KEY_MISSING = "key_missing"
KEY_MISSING_WORDS = (
    "The encryption key of the stored credentials is missing here. Nothing was sent, and nothing is lost:"
    " it goes on by itself when the operator has put the key back."
)
REFUSED_WORDS = (
    "The stored credentials are damaged, or were stored for something else. Nothing was sent; set the credentials anew."
)
"""Not the words of earlier versions, which said the same where a key was missing: see `connections.recovering`."""


def verdict_on(refused: vault.CredentialRefused) -> Verdict:
    """What credentials that do not open mean for an attempt. A missing key is no fault of the connection's owner."""
    if isinstance(refused, vault.KeyMissing):
        return Verdict(Outcome.RETRY, KEY_MISSING, KEY_MISSING_WORDS, RETRY_SECONDS, is_counted=False)
    return Verdict(Outcome.BROKEN, "credential_refused", REFUSED_WORDS, hold="credential_error")


class Lost(Exception):  # noqa: N818 - names the state
    """The stored credentials do not open, and only their owner can give them again."""


class Replacement(NamedTuple):
    """A document that replaces the one of version `over` (None: whatever is there), and the secrets in it that were
    made, in plain text."""

    document: dict[str, Any]
    made: dict[str, str]
    over: int | None


def read_given(provider: Provider, given: Mapping[str, Any], hints: Mapping[str, str]) -> dict[str, Any]:
    """What is given and differs from what is stored; None removes. Raises InvalidFields.

    `hints` are the masks of what is stored, empty for a new connection.
    """
    generated = generated_keys(provider)
    changed, problems = {}, []
    for key, value in given.items():
        if isinstance(value, str) and value == hints.get(key):
            continue
        pointer = pointer_to("/credentials", key)
        if key in generated:
            problems.append(FieldProblem(pointer, "Meshes makes this secret; rotate it.", "generated"))
        elif isinstance(value, str) and value.startswith(MASK):
            problems.append(FieldProblem(pointer, "This is not the mask of the stored secret.", "mask"))
        else:
            changed[key] = value
    if problems:
        raise InvalidFields(problems)
    removed = {key: None for key, value in changed.items() if value is None}
    return removed | provider.clean_credentials(changed, kept=hints.keys() - changed.keys())


def present_after(provider: Provider, hints: Mapping[str, str], changed: Mapping[str, Any]) -> dict[str, Any]:
    """The credentials of the owner's that there will be, masks standing for those that stay."""
    kept = {key: hint for key, hint in hints.items() if key in user_keys(provider)}
    return {key: value for key, value in {**kept, **changed}.items() if value is not None}


def make(provider: Provider, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The document of a new connection, and the secrets in it that Meshes made, in plain text."""
    made = provider.make_secrets()
    return wrapped({**given, **made}), _strings(made)


def replace(provider: Provider, connection: Connection, changed: Mapping[str, Any], actor: str) -> Replacement:
    """The document with the change; secrets are made for it where the old document does not open.

    Raises Lost where something of the owner's would be missing then, and vault.KeyMissing.
    """
    made: dict[str, Any] = {}
    version: int | None = None
    try:
        version, current = _versioned(open_document(connection, actor, "replace credentials"))
    except vault.KeyMissing:
        raise
    except vault.CredentialRefused:
        if (user_keys(provider) & connection.credential_hints.keys()) - changed.keys():
            raise Lost from None
        current = made = provider.make_secrets()
    merged = {key: value for key, value in {**current, **changed}.items() if value is not None}
    return Replacement(wrapped(merged), _strings(made), version)


def rotate(provider: Provider, connection: Connection, actor: str) -> Replacement | None:
    """The document with newly generated secrets; None where the provider has none. Raises Lost,
    and vault.KeyMissing."""
    version: int | None = None
    document: dict[str, Any] | None
    try:
        version, current = _versioned(open_document(connection, actor, "rotate secret"))
        document = provider.rotate_secrets(current, clock.database_now())
    except vault.KeyMissing:
        raise
    except vault.CredentialRefused:
        if user_keys(provider) & connection.credential_hints.keys():
            raise Lost from None
        document = provider.make_secrets()
    if not document:
        return None
    sealed = wrapped(document)
    made = {key: sealed[key].reveal() for key in generated_keys(provider) & sealed.keys()}
    return Replacement(sealed, made, version)


def authorized(
    provider: Provider, connection: Connection, new: Tokens, actor: str, *, keeps_typed: bool
) -> dict[str, Any]:
    """The document with the tokens of a new authorization. Not `keeps_typed`: without what the owner had given."""
    try:
        current = open_all(connection, actor, "oauth authorize")
    except vault.CredentialRefused:
        current = provider.make_secrets()
    if not keeps_typed:
        current = {key: value for key, value in current.items() if key not in user_keys(provider)}
    return tokens.granted(current, new)


def _versioned(opened: vault.Opened) -> tuple[int, dict[str, Any]]:
    return opened.version, opened.secret


def open_all(connection: Connection, actor: str, purpose: str) -> dict[str, Any]:
    """The opened document's secrets, with an access record. Raises vault.CredentialRefused."""
    return open_document(connection, actor, purpose).secret


def open_document(connection: Connection, actor: str, purpose: str) -> vault.Opened:
    """The opened document, with an access record. Raises vault.CredentialRefused."""
    return vault.open(
        workspace_id=connection.workspace_id,
        owner_kind="connection",
        owner_id=connection.pk,
        kind=vault.CREDENTIALS,
        actor=actor,
        purpose=purpose,
    )


def seal(
    connection: Connection,
    document: Mapping[str, Any],
    actor: str = "",
    purpose: str = "",
    *,
    over: int | None = None,
) -> None:
    """Keep the document under its next version; the one before is gone. In the transaction that holds the row.

    `actor` and `purpose` stand in the access record; see `vault.seal`. Raises vault.Overtaken where the document is no
    longer the one of version `over`.
    """
    vault.seal(
        document,
        workspace_id=connection.workspace_id,
        owner_kind="connection",
        owner_id=connection.pk,
        kind=vault.CREDENTIALS,
        actor=actor,
        purpose=purpose,
        over=over,
    )


def destroy(connection: Connection, actor: str = "") -> None:
    """Delete everything that is sealed for the connection."""
    vault.destroy(workspace_id=connection.workspace_id, owner_kind="connection", owner_id=connection.pk, actor=actor)


def hints_of(document: Mapping[str, Any]) -> dict[str, str]:
    """The masks to show: `{"token": "••••1234"}`.

    Tokens that a vendor gave show nothing of themselves: nobody knows them by their end, and the mask stays the same
    however often they are renewed.
    """
    secrets = {key: value for key, value in document.items() if isinstance(value, Secret)}
    hints = {key: value.masked_hint() for key, value in secrets.items()}
    if tokens.is_granted(document):
        hints = tokens.without_tokens(hints) | dict.fromkeys(tokens.SHOWN_KEYS & secrets.keys(), MASK)
    return hints


def generated_keys(provider: Provider) -> set[str]:
    return {declared.key for declared in provider.credential_fields if declared.generated}


def user_keys(provider: Provider) -> set[str]:
    return {declared.key for declared in provider.credential_fields if not declared.generated}


def wrapped(document: Mapping[str, Any]) -> dict[str, Any]:
    """Strings of the first level as Secrets."""
    return {key: Secret(value) if isinstance(value, str) else value for key, value in document.items()}


def _strings(made: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in made.items() if isinstance(value, str)}
