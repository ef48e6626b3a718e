"""Destinations of a workspace."""

from datetime import datetime

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from meshes.kit import ids
from workspaces.models import Workspace
from workspaces.vault import models as vault_models  # noqa: F401  (tables of this application, with the vault)


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
