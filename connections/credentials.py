"""A connection's credentials as one document: what is given, what stays, what Meshes makes, and where it may be sent.

A document is `{key: Secret, …}` with what a provider keeps beside (a webhook's replaced secrets). Its masks, the hints,
stand in the connection's row. A hint that is sent back leaves its secret as it is.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from connections.messages import RequestRefusedError, parse_url
from connections.models import Connection
from connections.oauth import tokens
from connections.oauth.tokens import Tokens
from connections.providers.base import Field, FieldProblem, InvalidFields, Outcome, Provider, Verdict
from connections.providers.fields import pointer_to
from meshes.api.problems import Problem
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
"""Not the words of earlier versions, which said the same where a key was missing: see `lifecycle.recover`."""

Replacement = tuple[dict[str, Any], dict[str, str], int | None]
"""A document that replaces the one of a version (None: whatever is there); between them, in plain text, the secrets in
it that were made."""


class ConflictError(Problem):
    """The connection is not in the state that this needs; `str()` says why, for the API."""

    def __init__(self, detail: str) -> None:
        super().__init__(409, detail=detail)

    def __str__(self) -> str:
        return self.detail


def verdict_on(refused: vault.CredentialRefused) -> Verdict:
    """What credentials that do not open mean for an attempt. A missing key is no fault of the connection's owner."""
    if isinstance(refused, vault.KeyMissing):
        return Verdict(Outcome.RETRY, KEY_MISSING, KEY_MISSING_WORDS, RETRY_SECONDS, is_counted=False)
    return Verdict(Outcome.BROKEN, "credential_refused", REFUSED_WORDS, hold="credential_error")


# --- what is given, and what Meshes makes ---------------------------------------------------------------------------


def read_given(provider: Provider, given: Mapping[str, Any], hints: Mapping[str, str]) -> dict[str, Any]:
    """What is given and differs from what is stored; None removes. Raises InvalidFields.

    `hints` are the masks of what is stored, empty for a new connection.
    """
    generated = {declared.key for declared in provider.credential_fields if declared.generated}
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

    Raises ConflictError where something of the owner's would be missing then.
    """
    opened = _open_to_replace(provider, connection, actor, "replace credentials", given=changed)
    made = {} if opened else provider.make_secrets()
    merged = {**(opened.secret if opened else made), **changed}
    document = wrapped({key: value for key, value in merged.items() if value is not None})
    return document, _strings(made), opened.version if opened else None


def rotate(provider: Provider, connection: Connection, actor: str) -> Replacement:
    """The document with newly generated secrets. Raises ConflictError, also where the provider has none."""
    opened = _open_to_replace(provider, connection, actor, "rotate secret")
    document = provider.rotate_secrets(opened.secret, clock.database_now()) if opened else provider.make_secrets()
    if not document:
        raise ConflictError(f"{provider.name} has no secret that Meshes makes.")
    sealed = wrapped(document)
    generated = {declared.key for declared in provider.credential_fields if declared.generated}
    made = {key: sealed[key].reveal() for key in generated & sealed.keys()}
    return sealed, made, opened.version if opened else None


def _open_to_replace(
    provider: Provider, connection: Connection, actor: str, purpose: str, given: Iterable[str] = ()
) -> vault.Opened | None:
    """None where it does not open and nothing is lost with it. Raises ConflictError where only the owner, or an
    operator who has the key, can help."""
    try:
        return open_document(connection, actor, purpose)
    except vault.KeyMissing:
        raise ConflictError(KEY_MISSING_WORDS) from None
    except vault.CredentialRefused:
        if (user_keys(provider) & connection.credential_hints.keys()).difference(given):
            raise ConflictError("The stored credentials do not open. Send all of them again.") from None
        return None


def authorized(
    provider: Provider, connection: Connection, new: Tokens, actor: str, *, keeps_typed: bool
) -> dict[str, Any]:
    """The document with the tokens of a new authorization. Not `keeps_typed`: without what the owner had given."""
    try:
        current = open_document(connection, actor, "oauth authorize").secret
    except vault.CredentialRefused:
        current = provider.make_secrets()
    if not keeps_typed:
        current = {key: value for key, value in current.items() if key not in user_keys(provider)}
    return tokens.granted(current, new)


def user_keys(provider: Provider) -> set[str]:
    return {declared.key for declared in provider.credential_fields if not declared.generated}


def wrapped(document: Mapping[str, Any]) -> dict[str, Any]:
    """Strings of the first level as Secrets."""
    return {key: Secret(value) if isinstance(value, str) else value for key, value in document.items()}


def _strings(made: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in made.items() if isinstance(value, str)}


# --- the vault ------------------------------------------------------------------------------------------------------


def open_document(connection: Connection, actor: str, purpose: str) -> vault.Opened:
    """The opened document, with an access record. Raises vault.CredentialRefused."""
    return vault.open(**owner_of(connection), kind=vault.CREDENTIALS, actor=actor, purpose=purpose)


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
    owner = owner_of(connection)
    vault.seal(document, **owner, kind=vault.CREDENTIALS, actor=actor, purpose=purpose, over=over)


def owner_of(connection: Connection) -> dict[str, Any]:
    """How the vault and its records know the connection."""
    return {"workspace_id": connection.workspace_id, "owner_kind": "connection", "owner_id": connection.pk}


# --- where they are sent --------------------------------------------------------------------------------------------


def moved(provider: Provider, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The config fields through which requests go to another origin after an edit than before."""
    return [field.key for field in provider.host_fields if _origin(field, before) != _origin(field, after)]


def check_move(
    provider: Provider,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    stored: Mapping[str, Any],
    changed: Mapping[str, Any],
) -> list[str]:
    """`moved`, with everything brought again that is `stored` and sent. Raises Problem `credentials_required`.

    Whoever may edit the config may not read the credentials, so the config must not be a way to have them sent
    elsewhere: an edit that changes the scheme, host or port of anywhere that they go brings them again. Paths are free.
    `changed` are the credentials that the edit sets, or removes: None. What Meshes makes itself is never sent.
    """
    fields = moved(provider, before, after)
    sent = [field.key for field in provider.credential_fields if not field.generated and field.key in stored]
    missing = [key for key in sent if key not in changed]
    if not fields or not missing:
        return fields
    named = ", ".join(f"config.{key}" for key in fields)
    raise Problem(
        422,
        "credentials_required",
        "The credentials must be given again",
        f"{named} would send stored credentials to another scheme, host or port. Give them again in the same request.",
        errors=[
            {
                "pointer": pointer_to("/credentials", key),
                "detail": "This credential does not move along: give it again, or null to remove it.",
                "rule": "credentials_required",
            }
            for key in missing
        ],
    )


def _origin(field: Field, config: Mapping[str, Any]) -> str:
    """Scheme, host and port of a URL, whichever way they are written; of any other field its value."""
    value = config.get(field.key, field.default)
    if not isinstance(value, str):
        return repr(value)
    try:
        target = parse_url(value)
    except RequestRefusedError:
        return value.lower()
    return f"{target.scheme}://{target.host}:{target.port}"
