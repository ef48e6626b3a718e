"""Which data stand where: every column of the database has a class, and docs/data.md is written from here.

A column that is not named in `TABLES` fails `tests/meshes/test_data_classes.py`: name it there, under its class, and
run `manage.py write_data_docs`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from django.apps import apps
from django.contrib import admin
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Model


@dataclass(frozen=True, slots=True)
class DataClass:
    """A class of data, and what holds for all of it."""

    name: str
    what: str
    readers: str
    logs: str
    at_rest: str


CLASSES = (
    DataClass(
        "credential",
        "What opens something: credentials at destinations, passwords, keys, sessions, second factors.",
        "Nobody reads it back. Processes open a credential to send with it, which leaves a record; pages show masks.",
        "Never.",
        "Credentials of destinations and secrets of authenticators are [sealed](vault.md) with `FERNET_KEYS`; keys,"
        " states, recovery codes, passwords and cookies stand as hashes. The database alone gives none of them away.",
    ),
    DataClass(
        "payload",
        "What events carried, what was made of it, and what destinations answered: customers' data, and personal data"
        " of their customers where events have any.",
        "The workspace, by keys with `events:read` (reasons of connections: `config`). Operators with the permissions"
        " named below: each look leaves a record `viewed` in the workspace's [access log](access-log.md#actions).",
        "Never, but for what an unforeseen error may quote. PostgreSQL's own log quotes no rows where it is set as"
        " `compose.yaml` and [`make up`](monitoring.md) do.",
        "In clear: encrypt the disks of PostgreSQL and its dumps.",
    ),
    DataClass(
        "tenant",
        "A workspace's own: its name, where it sends to, its rules, its accounts at vendors.",
        "The workspace, by keys with `config` or `admin`; account keys; operators with the permissions named below.",
        "Ids only.",
        "In clear: as above.",
    ),
    DataClass(
        "operator",
        "Personal data of those who operate: names, addresses of mail, what they did and when.",
        "Operators with the permissions named below; a workspace sees the user's name in records of its access log.",
        "User names and client addresses, in [`meshes.security`](logs.md).",
        "In clear: as above.",
    ),
    DataClass(
        "internal",
        "How the installation works: ids, states, counters, moments.",
        "Operators with the permissions named below, and in part the workspace.",
        "Yes.",
        "In clear.",
    ),
)
NAMES = tuple(each.name for each in CLASSES)


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a model's table by their class, in one string each, and how long rows are kept."""

    kept: str
    credential: str = ""
    payload: str = ""
    tenant: str = ""
    operator: str = ""
    internal: str = ""

    def columns(self) -> dict[str, list[str]]:
        """By class, those that have any columns here."""
        return {name: getattr(self, name).split() for name in NAMES if getattr(self, name)}


WITH_ITS_CONNECTION = "with its connection"
WITH_ITS_USER = "until an operator deletes the user or group"
FOR_EVER = "as long as the installation"
PAYLOAD_DAYS = "`MESHES_RETENTION_PAYLOAD_DAYS` (90); until an [erasure](retention.md)"
EVENT_DAYS = "`MESHES_RETENTION_EVENT_DAYS` (120)"

TABLES: Mapping[str, Table] = {
    "workspaces.Workspace": Table(
        kept="for ever; of a deleted one this row alone",
        tenant="name external_id",
        internal="id ingest_rate backlog_limit created_at updated_at deleted_at purged_at",
    ),
    "workspaces.ApiKey": Table(
        kept="for ever, since records name them; revoked with its workspace",
        credential="secret_hash previous_hash",
        tenant="name scopes allowed_origins",
        internal="id workspace_id kind previous_expires_at version audience_from_version expires_at last_used_at"
        " revoked_at created_at",
    ),
    "workspaces.IdempotencyRecord": Table(
        kept="24 hours",
        payload="body_hash",
        tenant="key answer",
        internal="id scope path status_code created_at",
    ),
    "workspaces.Installation": Table(
        kept=FOR_EVER, internal="id system_identifier database_oid held_at checked_at account_key_id"
    ),
    "workspaces.JournalEntry": Table(kept="until it is in the file", internal="id entry created_at"),
    "connections.Connection": Table(
        kept="until its workspace is deleted; a deleted one without credentials and queries of URLs",
        payload="status_reason",
        tenant="type name config credential_hints account_id account_name",
        internal="id workspace_id retry_schedule in_flight rate timeout_seconds status status_changed_at paused_until"
        " version created_at updated_at deleted_at",
    ),
    "connections.ConnectionHealth": Table(
        kept=WITH_ITS_CONNECTION,
        internal="connection_id workspace_id breaker consecutive_failures opened_by opened_times probe_until"
        " first_failure_at last_failure_at last_success_at",
    ),
    "connections.SealedDocument": Table(
        kept="until it is replaced, or its owner deleted",
        credential="document",
        internal="id workspace_id connection_id api_key_id oauth_app_id kind version key_id created_at sealed_at",
    ),
    "connections.AccessRecord": Table(
        kept="`MESHES_RETENTION_ACCESS_DAYS` (365)",
        operator="actor",
        internal="id number workspace_id owner_kind owner_id kind version purpose granted delivery_id attempt_number"
        " created_at",
    ),
    "connections.AccessLogSeal": Table(
        kept=FOR_EVER, internal="segment week after last count content previous head sealed_at marks"
    ),
    "connections.OAuthApp": Table(
        kept="until it is removed, or its workspace deleted",
        tenant="type client_id secret_hint",
        internal="id workspace_id created_at updated_at",
    ),
    "connections.OAuthGrant": Table(
        kept=WITH_ITS_CONNECTION,
        tenant="client_id scope",
        internal="connection_id workspace_id expires_at refreshed_at refresh_failures not_before last_error ended_at"
        " lease_id lease_until link_generation shared_callback",
    ),
    "connections.OAuthState": Table(
        kept="70 minutes",
        credential="state_hash session opened_in",
        tenant="client_id redirect_uri",
        internal="id connection_id workspace_id created_at expires_at used_at",
    ),
    "delivery.Event": Table(
        kept=EVENT_DAYS, tenant="type", internal="id workspace_id api_key_id payload_bytes created_at"
    ),
    "delivery.Payload": Table(kept=PAYLOAD_DAYS, payload="body", internal="event_id workspace_id erased_at"),
    "delivery.Unrouted": Table(
        kept="until its fan-out",
        internal="event_id workspace_id created_at lease_id lease_until lease_session tries failures cause detail"
        " poisoned_at",
    ),
    "delivery.RoutingLedger": Table(
        kept="`MESHES_RETENTION_LEDGER_DAYS` (120); values in it until an [erasure](retention.md)",
        payload="entries",
        internal="event_id workspace_id created_at",
    ),
    "delivery.Rule": Table(
        kept="until its workspace is deleted",
        tenant="name event filter mapping action",
        internal="id workspace_id connection_id enabled version created_at updated_at deleted_at",
    ),
    "delivery.RoutingStamp": Table(kept="with its workspace", internal="workspace_id stamp"),
    "delivery.Replay": Table(
        kept=EVENT_DAYS,
        tenant="filter",
        internal="id workspace_id mapping may_duplicate status total reopened skipped skipped_by_reason cursor until"
        " requested_by next_batch_at created_at finished_at",
    ),
    "delivery.Delivery": Table(
        kept=f"`MESHES_RETENTION_DELIVERY_DAYS` (120); the body {PAYLOAD_DAYS}",
        payload="body detail",
        tenant="event_type action frozen",
        internal="id workspace_id event_id rule_id connection_id replay_id replay_of_id replaced_by_id replayed_at"
        " status cause outcome attempt_number budget_used losses next_attempt_at lease_id lease_until lease_session"
        " claimed_at claimed_by created_at finished_at",
    ),
    "delivery.Attempt": Table(
        kept="`MESHES_RETENTION_ATTEMPT_DAYS` (30); bodies until an [erasure](retention.md)",
        payload="error request_url request_headers request_body response_headers response_body steps omitted_fields",
        internal="id workspace_id delivery_id number started_at duration_ms outcome status_code error_class"
        " request_method response_truncated request_truncated credential_version worker",
    ),
    "delivery.WorkerSession": Table(
        kept="until its leases have ended", internal="id lock_key worker started_at missing_since ended_at"
    ),
    "delivery.SweepRun": Table(kept=FOR_EVER, internal="name succeeded_at"),
    "auth.User": Table(
        kept=WITH_ITS_USER,
        credential="password",
        operator="username first_name last_name email last_login is_superuser is_staff is_active date_joined",
        internal="id",
    ),
    "auth.Group": Table(kept=WITH_ITS_USER, operator="name", internal="id"),
    "auth.Permission": Table(kept=FOR_EVER, internal="id name content_type_id codename"),
    "auth.User_groups": Table(kept=WITH_ITS_USER, operator="user_id group_id", internal="id"),
    "auth.User_user_permissions": Table(kept=WITH_ITS_USER, operator="user_id permission_id", internal="id"),
    "auth.Group_permissions": Table(kept=WITH_ITS_USER, internal="id group_id permission_id"),
    "admin.LogEntry": Table(
        kept="`MESHES_RETENTION_ACCESS_DAYS` (365)",
        operator="user_id object_repr change_message",
        internal="id action_time content_type_id object_id action_flag",
    ),
    "signin.OperatorSession": Table(
        kept="until it ends, see [sessions](admin.md#sessions); the key is a hash of the cookie",
        credential="session_key session_data",
        operator="user_id started_at seen_at address browser",
    ),
    "signin.Authenticator": Table(
        kept="until it is removed, or its user; the secret is sealed",
        credential="secret",
        operator="user_id name confirmed added_at",
        internal="id key_id last_step",
    ),
    "signin.RecoveryCode": Table(
        kept="until it is used or replaced; random bits, as a hash",
        credential="digest",
        operator="user_id",
        internal="id",
    ),
    "signin.FirstPassword": Table(kept="until the password is changed", operator="user_id origin made_at"),
    "contenttypes.ContentType": Table(kept=FOR_EVER, internal="id app_label model"),
    "migrations.Migration": Table(kept=FOR_EVER, internal="id app name applied"),
}


def models() -> Iterator[type[Model]]:
    """Every model with a table of its own, those of other packages and of many-to-many relations too."""
    every: list[type[Model]] = [*apps.get_models(include_auto_created=True), MigrationRecorder.Migration]
    for model in every:
        if model._meta.managed and not model._meta.proxy:
            yield model


def columns_of(model: type[Model]) -> list[str]:
    return [str(field.column) for field in model._meta.local_concrete_fields]


def problems() -> list[str]:
    """What is missing in `TABLES`, named twice, or there no more; each says what to do."""
    found = []
    known = {model._meta.label: columns_of(model) for model in models()}
    for label, columns in known.items():
        table = TABLES.get(label)
        named = [column for part in table.columns().values() for column in part] if table else []
        for column in columns:
            if named.count(column) != 1:
                found.append(
                    f"{label}.{column} has {'no class' if column not in named else 'two classes'}: name it in TABLES of"
                    f" meshes/data_classes.py, under one of {', '.join(NAMES)}; then run manage.py write_data_docs"
                )
        found += [f"{label}.{column} in TABLES is no column any more" for column in named if column not in columns]
    return found + [f"{label} in TABLES is no model any more" for label in TABLES if label not in known]


# --- docs/data.md ---------------------------------------------------------------------------------------------------


PROSE = Path(__file__).parent / "templates" / "meshes" / "data.md"
"""What the page says around the tables."""


def page() -> str:
    """The text of docs/data.md."""
    tables = [_table(model) for model in sorted(models(), key=_place)]
    return PROSE.read_text().replace("{classes}", _classes()).replace("{tables}", "\n\n".join(tables))


def _place(model: type[Model]) -> tuple[int, str]:
    """In the order of the classes: what has secrets or payloads first."""
    held = TABLES[model._meta.label].columns()
    return min(NAMES.index(name) for name in held), str(model._meta.db_table)


def _classes() -> str:
    rows = ["| class | what | who sees it | in logs | on disks and in dumps |", "|---|---|---|---|---|"]
    rows += [f"| `{each.name}` | {each.what} | {each.readers} | {each.logs} | {each.at_rest} |" for each in CLASSES]
    return "\n".join(rows)


def _table(model: type[Model]) -> str:
    table = TABLES[model._meta.label]
    rows = ["| class | columns |", "|---|---|"]
    rows += [f"| {name} | {', '.join(f'`{each}`' for each in part)} |" for name, part in table.columns().items()]
    is_shown = admin.site.is_registered(model)
    shown = f"`{model._meta.app_label}.view_{model._meta.model_name}`" if is_shown else "no page"
    facts = f"Kept {table.kept}. In the admin: {shown}."
    return f"### `{model._meta.db_table}`\n\n{facts}\n\n" + "\n".join(rows)
