"""The tenant and its keys."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from meshes.kit import ids


class Workspace(models.Model):
    """A tenant. It owns everything below it, and every query names it."""

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    name = models.CharField(max_length=200)
    external_id = models.CharField(max_length=128, null=True, blank=True)  # noqa: DJ001  (NULL: many may have none)
    ingest_rate = models.FloatField(null=True, blank=True, help_text="Events per second; empty: the default.")
    backlog_limit = models.BigIntegerField(null=True, blank=True, help_text="Open deliveries; empty: the default.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)
    purged_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        db_table = "workspaces"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["external_id"], condition=Q(deleted_at=None), name="workspaces_external_id_unique"
            ),
            models.CheckConstraint(
                condition=Q(external_id=None) | Q(external_id__regex=r"^[A-Za-z0-9_.-]{1,128}$"),
                name="workspaces_external_id_form",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.external_id or self.public_id})"

    @property
    def public_id(self) -> str:
        return ids.encode(ids.WORKSPACE, self.pk)


class ApiKey(models.Model):
    """A key of the API. Of its secret only the SHA-256 is kept; during a rotation two are live."""

    class Kind(models.TextChoices):
        ACCOUNT = "account", "account: every workspace"
        WORKSPACE = "workspace", "workspace: one tenant's own"
        PUBLISHABLE = "publishable", "publishable: one workspace, POST /events only"

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    workspace = models.ForeignKey(Workspace, null=True, blank=True, on_delete=models.PROTECT, related_name="api_keys")
    kind = models.CharField(max_length=16, choices=Kind.choices)
    name = models.CharField(max_length=200)
    scopes = ArrayField(models.CharField(max_length=32), default=list)
    secret_hash = models.BinaryField(max_length=32)
    previous_hash = models.BinaryField(max_length=32, null=True, blank=True)
    previous_expires_at = models.DateTimeField(null=True, blank=True)
    allowed_origins = ArrayField(models.CharField(max_length=255), default=list, blank=True)
    version = models.IntegerField(default=1)
    audience_from_version = models.IntegerField(default=1, null=True, editable=False)
    """Machine tokens signed with the secret of this version or a later one must have `aud`; NULL: with none yet."""
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "api_keys"
        verbose_name = "API key"
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="account", workspace=None) | (~Q(kind="account") & Q(workspace__isnull=False)),
                name="api_keys_workspace_by_kind",
            ),
            models.UniqueConstraint(fields=["workspace", "id"], name="api_keys_workspace_id_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.public_id})"

    @property
    def public_id(self) -> str:
        return ids.encode(ids.KEY, self.pk)


class IdempotencyRecord(models.Model):
    """What was answered to an `Idempotency-Key`, for 24 hours.

    `scope` is a workspace, or the caller's API key where a request is about none; status 0: not answered yet.
    """

    scope = models.UUIDField()
    path = models.CharField(max_length=64)
    key = models.CharField(max_length=255)
    body_hash = models.BinaryField(max_length=32)
    status_code = models.IntegerField()
    answer = models.JSONField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "idempotency_records"
        constraints = [
            models.UniqueConstraint(fields=["scope", "path", "key"], name="idempotency_records_unique"),
        ]
        indexes = [models.Index(fields=["created_at"], name="idempotency_records_by_age")]

    def __str__(self) -> str:
        return f"{self.path} {self.key}"


class Installation(models.Model):
    """Which database this installation lives in, and whether it is held: one row, see `workspaces.installation`."""

    id = models.SmallIntegerField(primary_key=True, default=1, editable=False)
    system_identifier = models.BigIntegerField(null=True, help_text="Of the PostgreSQL cluster; empty: not known.")
    database_oid = models.BigIntegerField(help_text="The database's number in its cluster.")
    held_at = models.DateTimeField(null=True, help_text="Since when nothing leaves; empty: it is not held.")
    checked_at = models.DateTimeField(null=True, help_text="When an operator was shown what is in question.")
    account_key_id = models.UUIDField(null=True, help_text="The account key that `make up` made for itself.")

    class Meta:
        db_table = "installation"
        verbose_name_plural = "installation"
        constraints = [models.CheckConstraint(condition=Q(id=1), name="installation_one_row")]

    def __str__(self) -> str:
        return "held" if self.held_at else "running"


class JournalEntry(models.Model):
    """What could not be written to the journal yet: see `workspaces.journal`."""

    entry = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "journal_entries"
        verbose_name_plural = "journal entries"

    def __str__(self) -> str:
        return f"not written since {self.created_at:%Y-%m-%d %H:%M:%S}"
