"""Destinations of a workspace, and the table of sealed documents that `workspaces.vault.vault` alone reads."""

import uuid
from datetime import datetime

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Func, Q, Value

from meshes.kit import ids
from workspaces.models import ApiKey, Workspace
from workspaces.vault.fields import SealedTextField


class Connection(models.Model):
    """One customer's account at a provider: config here, credentials sealed in the vault.

    What holds a connection stands in `status` and `paused_until`; the lane has only a copy.
    """

    class Status(models.TextChoices):
        ACTIVE = "active"
        PAUSED = "paused"
        DISABLED = "disabled"
        NEEDS_REAUTH = "needs_reauth"
        CREDENTIAL_ERROR = "credential_error"
        DELETED = "deleted"

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.PROTECT, related_name="connections")
    type = models.CharField(max_length=64)
    name = models.CharField(max_length=200)
    config = models.JSONField(default=dict)
    credential_hints = models.JSONField(default=dict, help_text="Masks to show, such as ••••1234; never a secret.")
    retry_schedule = ArrayField(models.FloatField(), null=True, blank=True, help_text="Seconds; empty: the default.")
    in_flight = models.IntegerField(null=True, blank=True)
    rate = models.FloatField(null=True, blank=True, help_text="Requests per second.")
    timeout_seconds = models.FloatField(null=True, blank=True)
    status = models.CharField(max_length=32, choices=Status.choices, default=Status.ACTIVE)
    status_reason = models.TextField(blank=True, default="")
    status_changed_at = models.DateTimeField(null=True, blank=True)
    paused_until = models.DateTimeField(null=True, blank=True, help_text="A 429 or an open breaker; ends by itself.")
    account_id = models.CharField(
        max_length=200, blank=True, default="", help_text="The vendor's own, learnt by a test."
    )
    account_name = models.CharField(max_length=200, blank=True, default="")
    version = models.IntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        db_table = "connections"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["workspace", "id"], name="connections_workspace_id_unique"),
            models.CheckConstraint(
                condition=Q(in_flight=None) | Q(in_flight__range=(1, 1000)), name="connections_in_flight_range"
            ),
            models.CheckConstraint(condition=Q(rate=None) | Q(rate__gt=0), name="connections_rate_positive"),
            models.CheckConstraint(
                condition=Q(timeout_seconds=None) | Q(timeout_seconds__range=(1, 30)),
                name="connections_timeout_range",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.type})"

    @property
    def public_id(self) -> str:
        return ids.encode(ids.CONNECTION, self.pk)


class ConnectionHealth(models.Model):
    """Counters of a connection's health, apart from it and written on change only."""

    class Breaker(models.TextChoices):
        CLOSED = "closed"
        OPEN = "open"
        HALF_OPEN = "half_open"

    connection = models.OneToOneField(
        Connection, primary_key=True, on_delete=models.CASCADE, related_name="health", db_constraint=False
    )
    workspace = models.ForeignKey(Workspace, on_delete=models.PROTECT, related_name="+")
    breaker = models.CharField(max_length=16, choices=Breaker.choices, default=Breaker.CLOSED)
    consecutive_failures = models.IntegerField(default=0)
    opened_by = models.CharField(
        max_length=16, blank=True, default="", db_default="", help_text="failures, throttled or no_credentials."
    )
    opened_times = models.IntegerField(default=0, help_text="Openings in a row: each doubles the pause.")
    probe_until = models.DateTimeField(null=True, blank=True)
    first_failure_at = models.DateTimeField(null=True, blank=True)
    last_failure_at = models.DateTimeField(null=True, blank=True)
    last_success_at = models.DateTimeField(null=True, blank=True, help_text="To the minute, while all is well.")

    class Meta:
        db_table = "connection_health"
        verbose_name_plural = "connection health"

    def __str__(self) -> str:
        return f"{self.breaker}, {self.consecutive_failures} failures in a row"

    def breaker_at(self, paused_until: datetime | None, now: datetime) -> str:
        """The breaker at this moment: once the pause of its connection is over, the next delivery is its probe."""
        is_over = self.breaker == self.Breaker.OPEN and paused_until is not None and paused_until <= now
        return self.Breaker.HALF_OPEN if is_over else self.breaker


class SealedDocument(models.Model):
    """One sealed secret. The document repeats workspace, owner, kind and version; opening refuses if they differ.

    Read and written by `workspaces.vault.vault` only.
    """

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    workspace = models.ForeignKey(Workspace, null=True, on_delete=models.PROTECT, related_name="+")
    connection = models.ForeignKey(
        Connection, null=True, on_delete=models.CASCADE, related_name="sealed_documents", db_constraint=False
    )
    api_key = models.ForeignKey(ApiKey, null=True, on_delete=models.CASCADE, related_name="sealed_documents")
    oauth_app = models.ForeignKey(
        "OAuthApp", null=True, on_delete=models.CASCADE, related_name="sealed_documents", db_constraint=False
    )
    kind = models.CharField(max_length=32)
    version = models.IntegerField()
    document = SealedTextField()
    key_id = models.CharField(max_length=16, help_text="Fingerprint of the Fernet key that sealed it.")
    created_at = models.DateTimeField(auto_now_add=True)
    sealed_at = models.DateTimeField(null=True, help_text="When this version was made; empty: not known.")

    class Meta:
        db_table = "sealed_documents"
        constraints = [
            models.CheckConstraint(
                condition=Q(connection=None, api_key__isnull=False, oauth_app=None)
                | Q(connection__isnull=False, api_key=None, oauth_app=None, workspace__isnull=False)
                | Q(connection=None, api_key=None, oauth_app__isnull=False, workspace__isnull=False),
                name="sealed_documents_one_owner",
            ),
            models.UniqueConstraint(fields=["connection", "kind"], name="sealed_documents_connection_kind"),
            models.UniqueConstraint(fields=["api_key", "kind"], name="sealed_documents_api_key_kind"),
            models.UniqueConstraint(fields=["oauth_app", "kind"], name="sealed_documents_oauth_app_kind"),
        ]
        indexes = [models.Index(fields=["key_id", "id"], name="sealed_documents_by_key")]

    def __str__(self) -> str:
        return f"{self.kind} v{self.version}"

    @property
    def set_at(self) -> datetime | None:
        """When the secret was last set or renewed, not sealed anew; None: that was not recorded."""
        return self.sealed_at or (self.created_at if self.version == 1 else None)


class AccessRecord(models.Model):
    """The record of one opening or change of a sealed document: who, when, why, for which delivery and attempt.

    Never changed and never deleted: triggers refuse it. `number` is drawn when the row is inserted, and the order in
    which `workspaces.vault.access_log` seals.
    """

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    number = models.BigIntegerField(
        db_default=Func(Value("access_records_number"), function="nextval"), editable=False, help_text="In the log."
    )
    workspace = models.ForeignKey(
        Workspace, null=True, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    owner_kind = models.CharField(max_length=16)
    owner_id = models.UUIDField()
    kind = models.CharField(max_length=32)
    version = models.IntegerField()
    actor = models.CharField(max_length=200, help_text="Which process or person opened it.")
    purpose = models.CharField(max_length=64)
    granted = models.BooleanField(default=True)
    delivery_id = models.UUIDField(null=True)
    attempt_number = models.IntegerField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "access_records"
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["workspace", "-id"], name="access_records_by_workspace"),
            models.Index(fields=["number"], name="access_records_by_number"),
        ]

    def __str__(self) -> str:
        return f"{self.purpose} by {self.actor}"

    @property
    def connection_id(self) -> uuid.UUID | None:
        """The connection whose credentials it is about."""
        return self.owner_id if self.owner_kind == "connection" else None

    @property
    def api_key_id(self) -> uuid.UUID | None:
        """The key whose signing secret it is about."""
        return self.owner_id if self.owner_kind == "api_key" else None

    @property
    def oauth_app_id(self) -> uuid.UUID | None:
        """The workspace's own app whose secret it is about."""
        return self.owner_id if self.owner_kind == "oauth_app" else None


class AccessLogSeal(models.Model):
    """What a stretch of the access log was when it was sealed; see `workspaces.vault.access_log`.

    It covers the records of the week `week` whose numbers lie above `after`, up to `last`. `head` is the SHA-256 of all
    that and of the head before, so that no seal can be changed without the ones after it. `marks` are a few bytes of
    each record, by which a check can say which one differs; they go with the week. Nothing else is ever changed.
    """

    segment = models.BigIntegerField(primary_key=True)
    week = models.DateField(help_text="The Monday of the records' week.")
    after = models.BigIntegerField()
    last = models.BigIntegerField()
    count = models.IntegerField(help_text="How many records it covers.")
    content = models.CharField(max_length=64, help_text="SHA-256 of the SHA-256s of the records.")
    previous = models.CharField(max_length=64)
    head = models.CharField(max_length=64)
    sealed_at = models.DateTimeField()
    marks = models.BinaryField(null=True)

    class Meta:
        db_table = "access_log_seals"
        ordering = ["-segment"]

    def __str__(self) -> str:
        return f"segment {self.segment}"


class OAuthApp(models.Model):
    """A workspace's own app at a vendor, with which its connections are authorized; the secret is in the vault."""

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.PROTECT, related_name="+")
    type = models.CharField(max_length=64)
    client_id = models.CharField(max_length=255)
    secret_hint = models.CharField(max_length=16, help_text="A mask to show; never the secret.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "oauth_apps"
        verbose_name = "OAuth app"
        constraints = [
            models.UniqueConstraint(fields=["workspace", "type"], name="oauth_apps_workspace_type_unique"),
            models.UniqueConstraint(fields=["workspace", "id"], name="oauth_apps_workspace_id_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.type} app {self.client_id}"

    @property
    def public_id(self) -> str:
        return ids.encode(ids.APP, self.pk)


class OAuthGrant(models.Model):
    """What is known of a connection's authorization without a secret, and the lease under which a token is renewed."""

    connection = models.OneToOneField(
        Connection, primary_key=True, on_delete=models.CASCADE, related_name="oauth_grant", db_constraint=False
    )
    workspace = models.ForeignKey(Workspace, on_delete=models.PROTECT, related_name="+")
    client_id = models.CharField(max_length=255, blank=True, default="", help_text="The app that was authorized.")
    scope = models.TextField(blank=True, default="")
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: not known, or never.")
    refreshed_at = models.DateTimeField(null=True, blank=True)
    refresh_failures = models.IntegerField(default=0, help_text="In a row.")
    not_before = models.DateTimeField(null=True, blank=True, help_text="No refresh until then, after a failure.")
    last_error = models.CharField(max_length=300, blank=True, default="")
    ended_at = models.DateTimeField(null=True, blank=True, help_text="The vendor ended it: no refresh any more.")
    lease_id = models.UUIDField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    link_generation = models.IntegerField(default=1, help_text="Connect links of an earlier one are void.")
    shared_callback = models.BooleanField(
        default=False, db_default=False, help_text="Authorized by the redirect URI that all vendors shared."
    )

    class Meta:
        db_table = "oauth_grants"
        verbose_name = "authorization"
        indexes = [
            models.Index(fields=["connection"], condition=Q(shared_callback=True), name="oauth_grants_shared_callback")
        ]

    def __str__(self) -> str:
        if self.ended_at:
            return "ended"
        return f"until {self.expires_at:%Y-%m-%d %H:%M:%S}" if self.expires_at else "without an end"


class OAuthState(models.Model):
    """An authorization that has been started: good once, for ten minutes, in one browser.

    One that an API key started belongs to the first browser that opens its address.
    """

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    state_hash = models.CharField(unique=True, max_length=64, help_text="SHA-256 of the state; hexadecimal.")
    connection = models.ForeignKey(Connection, on_delete=models.CASCADE, related_name="+", db_constraint=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.PROTECT, related_name="+")
    session = models.CharField(max_length=80, help_text="key:<id of an API key> or browser:<hash of a cookie>.")
    opened_in = models.CharField(
        max_length=80, blank=True, default="", db_default="", help_text="browser:<hash of a cookie>; empty: not opened."
    )
    client_id = models.CharField(max_length=255)
    redirect_uri = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "oauth_states"
        verbose_name = "started authorization"

    def __str__(self) -> str:
        return f"{self.created_at:%Y-%m-%d %H:%M:%S}"
