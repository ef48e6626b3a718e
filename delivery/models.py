"""What was received, what became of it, and when.

Events, payloads, ledgers, deliveries and attempts are RANGE-partitioned by week on their UUIDv7 ids; every reference
between tenant tables is a composite foreign key `(workspace_id, id)` in the database (see the first migration).
"""

from datetime import datetime

from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Now

from connections.models import Connection
from meshes.kit import clock, ids
from workspaces.models import Workspace


class Event(models.Model):
    """An immutable fact received. Whether it still waits for fan-out is a row in `Unrouted`."""

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.DO_NOTHING, related_name="+", db_index=False)
    type = models.CharField(max_length=128)
    api_key_id = models.UUIDField(null=True)
    payload_bytes = models.IntegerField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "events"
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["workspace", "id"], name="events_workspace_id_unique")]
        indexes = [
            models.Index(fields=["workspace", "type", "-id"], name="events_by_type"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.public_id}"

    @property
    def public_id(self) -> str:
        return ids.encode(ids.EVENT, self.pk)


class Payload(models.Model):
    """An event's payload, byte for byte as received (UTF-8 JSON text). Erasure empties it."""

    event = models.OneToOneField(
        Event, primary_key=True, on_delete=models.DO_NOTHING, related_name="payload", db_constraint=False
    )
    workspace = models.ForeignKey(
        Workspace, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    body = models.TextField()
    erased_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "payloads"

    def __str__(self) -> str:
        return f"{len(self.body)} characters"


class Unrouted(models.Model):
    """An event that waits for fan-out: inserted with it, deleted by fan-out."""

    event = models.OneToOneField(
        Event, primary_key=True, on_delete=models.DO_NOTHING, related_name="unrouted", db_constraint=False
    )
    workspace = models.ForeignKey(
        Workspace, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    created_at = models.DateTimeField()
    lease_id = models.UUIDField(null=True, help_text="Of the worker that routes it; without one it rests or waits.")
    lease_until = models.DateTimeField(null=True, help_text="When the lease lapses, or until when the event rests.")
    lease_session = models.UUIDField(null=True, help_text="The `WorkerSession` in which it was leased.")
    tries = models.IntegerField(default=0, help_text="Claims whose worker was lost.")
    failures = models.IntegerField(db_default=0, help_text="Tries that lost no worker: each rest is longer.")
    cause = models.CharField(max_length=32, db_default="", help_text="Why it was set aside.")
    detail = models.TextField(db_default="", help_text="What its last try failed with.")
    poisoned_at = models.DateTimeField(null=True, help_text="When it was set aside; a person routes it again.")

    class Meta:
        db_table = "unrouted"
        verbose_name = "unrouted event"
        indexes = [
            models.Index(fields=["created_at"], name="unrouted_by_age"),
            models.Index(
                fields=["workspace", "event"],
                condition=models.Q(poisoned_at__isnull=False),
                name="unrouted_set_aside",
            ),
        ]

    def __str__(self) -> str:
        return str(self.event_id)


class RoutingLedger(models.Model):
    """Which rules of the workspace were considered for one event, and what became of each: a list of entries
    `{rule, version, connection, result, delivery?, clause?, reason?}`, result being `matched | filtered | disabled |
    held | mapping_failed`."""

    event = models.OneToOneField(
        Event, primary_key=True, on_delete=models.DO_NOTHING, related_name="ledger", db_constraint=False
    )
    workspace = models.ForeignKey(
        Workspace, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    entries = models.JSONField(default=list)
    created_at = models.DateTimeField()

    class Meta:
        db_table = "routing_ledgers"

    def __str__(self) -> str:
        return f"{len(self.entries)} rules considered"


class Rule(models.Model):
    """In one workspace: event pattern and filter → one connection, an action, a mapping."""

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.PROTECT, related_name="rules")
    connection = models.ForeignKey(Connection, on_delete=models.PROTECT, related_name="rules", db_constraint=False)
    name = models.CharField(max_length=200, blank=True, default="", db_default="")
    event = models.CharField(max_length=128, help_text="Exact, `lead.*` or `*`.")
    filter = models.JSONField(null=True, blank=True)
    mapping = models.JSONField(null=True, blank=True)
    action = models.CharField(max_length=64)
    enabled = models.BooleanField(default=True)
    version = models.IntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        db_table = "rules"
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["workspace", "id"], name="rules_workspace_id_unique")]

    def __str__(self) -> str:
        return f"{self.event} ({self.public_id})"

    @property
    def public_id(self) -> str:
        return ids.encode(ids.RULE, self.pk)

    @property
    def title(self) -> str:
        """What people read: the name, without one the event pattern."""
        return self.name or self.event


class RoutingStamp(models.Model):
    """Moves on whenever something is written that fan-out in a workspace goes by: rules, connections, the workspace.

    Only triggers write it (see the first migration), so that no code can forget to. None: no rule was ever written.
    """

    workspace = models.OneToOneField(
        Workspace, primary_key=True, on_delete=models.CASCADE, related_name="+", db_constraint=False
    )
    stamp = models.BigIntegerField()

    class Meta:
        db_table = "routing_stamps"
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.stamp)


class Replay(models.Model):
    """A request to send a filtered set of deliveries again, worked off by a sweep at a pace."""

    class Status(models.TextChoices):
        RUNNING = "running"
        COMPLETED = "completed"
        CANCELLED = "cancelled"

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.PROTECT, related_name="replays")
    filter = models.JSONField(default=dict)
    mapping = models.CharField(
        max_length=16,
        blank=True,
        default="",
        db_default="",
        help_text="original, current; empty: by the cause of each delivery.",
    )
    may_duplicate = models.BooleanField(default=False, db_default=False)
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.RUNNING)
    total = models.BigIntegerField(default=0)
    reopened = models.BigIntegerField(default=0)
    skipped = models.BigIntegerField(default=0)
    skipped_by_reason = models.JSONField(
        default=dict, db_default=Value({}, models.JSONField()), help_text="Of what was skipped, the number of each."
    )
    cursor = models.UUIDField(null=True)
    until = models.UUIDField(null=True, help_text="The newest delivery that existed when the replay was asked for.")
    requested_by = models.CharField(max_length=200)
    next_batch_at = models.DateTimeField(db_default=Now(), help_text="Before this moment its pace allows no more.")
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "replays"
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["workspace", "id"], name="replays_workspace_id_unique")]
        indexes = [models.Index(fields=["status", "id"], name="replays_by_status")]

    def __str__(self) -> str:
        return f"{self.status}: {self.reopened} of {self.total}"

    @property
    def public_id(self) -> str:
        return ids.encode(ids.REPLAY, self.pk)


class Delivery(models.Model):
    """One event to one connection because of one rule. A dead letter is a delivery in state `dead`.

    `in_flight` is no stored status: it is `pending` with a live lease. A claim writes the lease columns and
    `attempt_number` only, none of them indexed, so that it stays a HOT update.
    """

    class Status(models.TextChoices):
        PENDING = "pending"
        SUCCEEDED = "succeeded"
        HELD = "held"
        DEAD = "dead"
        CANCELLED = "cancelled"

    id = models.UUIDField(primary_key=True, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.DO_NOTHING, related_name="+", db_index=False)
    event = models.ForeignKey(
        Event, on_delete=models.DO_NOTHING, related_name="deliveries", db_constraint=False, db_index=False
    )
    rule = models.ForeignKey(
        Rule, on_delete=models.DO_NOTHING, related_name="deliveries", db_constraint=False, db_index=False
    )
    connection = models.ForeignKey(
        Connection, on_delete=models.DO_NOTHING, related_name="deliveries", db_constraint=False, db_index=False
    )
    replay = models.ForeignKey(
        Replay, null=True, on_delete=models.DO_NOTHING, related_name="deliveries", db_constraint=False, db_index=False
    )
    replay_of = models.ForeignKey(
        "self",
        null=True,
        on_delete=models.DO_NOTHING,
        related_name="+",
        db_constraint=False,
        db_index=False,
        help_text="The delivery in whose place this one was made, with another body.",
    )
    replaced_by = models.ForeignKey(
        "self",
        null=True,
        on_delete=models.DO_NOTHING,
        related_name="+",
        db_constraint=False,
        db_index=False,
        help_text="The newest delivery that was made in its place.",
    )
    replayed_at = models.DateTimeField(null=True, help_text="When it was last sent again under its own id.")
    event_type = models.CharField(max_length=128)
    action = models.CharField(max_length=64)
    body = models.TextField(null=True)  # noqa: DJ001  (NULL: the event's own payload)
    frozen = models.JSONField(default=dict, help_text="The part of the connection's config that shapes the body.")
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.PENDING)
    cause = models.CharField(max_length=64, blank=True, default="")
    detail = models.TextField(blank=True, default="")
    outcome = models.CharField(max_length=16, blank=True, default="", help_text="Of the newest attempt.")
    attempt_number = models.IntegerField(default=0, help_text="Attempts ever claimed; goes on over replays.")
    budget_used = models.IntegerField(default=0, help_text="Attempts that counted since creation or replay.")
    losses = models.IntegerField(default=0, help_text="Claims whose worker was lost.")
    next_attempt_at = models.DateTimeField(null=True)
    lease_id = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    lease_session = models.UUIDField(null=True, help_text="The `WorkerSession` in which it was leased.")
    claimed_at = models.DateTimeField(null=True)
    claimed_by = models.CharField(max_length=100, blank=True, default="")
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "deliveries"
        ordering = ["-id"]
        verbose_name_plural = "deliveries"
        constraints = [
            models.UniqueConstraint(fields=["workspace", "id"], name="deliveries_workspace_id_unique"),
            models.CheckConstraint(
                condition=~Q(status="pending") | Q(next_attempt_at__isnull=False), name="deliveries_pending_is_due"
            ),
        ]
        indexes = [
            models.Index(fields=["event"], name="deliveries_by_event"),
            models.Index(fields=["workspace", "status", "-id"], name="deliveries_by_status"),
            models.Index(fields=["connection", "status", "-id"], name="deliveries_by_connection"),
            models.Index(fields=["next_attempt_at"], condition=Q(status="pending"), name="deliveries_due"),
            models.Index(
                fields=["connection", "next_attempt_at"], condition=Q(status="pending"), name="deliveries_due_by_lane"
            ),
            models.Index(fields=["connection", "id"], condition=Q(status="held"), name="deliveries_held"),
            models.Index(fields=["-id"], condition=Q(status="dead"), name="deliveries_dead"),
            models.Index(fields=["replay"], condition=Q(replay__isnull=False), name="deliveries_by_replay"),
            models.Index(fields=["replay_of"], condition=Q(replay_of__isnull=False), name="deliveries_by_replay_of"),
            models.Index(
                fields=["replaced_by"], condition=Q(replaced_by__isnull=False), name="deliveries_by_replaced_by"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.public_id} ({self.state})"

    @property
    def public_id(self) -> str:
        return ids.encode(ids.DELIVERY, self.pk)

    @property
    def state(self) -> str:
        """The state that users see: the stored status, or `in_flight` while a lease is live."""
        return state_of(self.status, self.lease_until, clock.now())


class DeadLetter(Delivery):
    """A delivery that will not be tried again by itself: a state, with a list of its own for operators."""

    class Meta:
        proxy = True
        default_permissions = ()


def state_of(status: str, lease_until: datetime | None, now: datetime) -> str:
    """`in_flight` where a pending delivery has a live lease, else the stored status."""
    if status == Delivery.Status.PENDING and lease_until is not None and lease_until > now:
        return "in_flight"
    return status


class WorkerSession(models.Model):
    """A worker process while PostgreSQL knows that it is there: it holds an advisory lock in a session of its own.

    Where nobody holds the lock, and nobody comes back for it, the session ends, and what was leased in it ends too.
    """

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    lock_key = models.BigIntegerField(help_text="Of the advisory lock; another after each reconnection.")
    worker = models.CharField(max_length=100)
    started_at = models.DateTimeField(db_default=Now())
    missing_since = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "worker_sessions"
        default_permissions = ()

    def __str__(self) -> str:
        return self.worker


class SweepRun(models.Model):
    """When a sweep last came to its end, so that one that has stopped is seen."""

    name = models.CharField(max_length=40, primary_key=True)
    succeeded_at = models.DateTimeField()

    class Meta:
        db_table = "sweep_runs"
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


class Attempt(models.Model):
    """One try. Inserted once: by settling, or as `uncertain` by the sweep that found its worker lost."""

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    workspace = models.ForeignKey(
        Workspace, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    delivery = models.ForeignKey(
        Delivery, on_delete=models.DO_NOTHING, related_name="attempts", db_constraint=False, db_index=False
    )
    number = models.IntegerField()
    started_at = models.DateTimeField()
    duration_ms = models.IntegerField(null=True)
    outcome = models.CharField(max_length=16)
    status_code = models.IntegerField(null=True)
    error_class = models.CharField(max_length=64, blank=True, default="")
    error = models.TextField(blank=True, default="", help_text="In words that a tenant understands.")
    request_method = models.CharField(max_length=8, blank=True, default="")
    request_url = models.TextField(blank=True, default="")
    request_headers = models.JSONField(default=list)
    response_headers = models.JSONField(default=list)
    response_body = models.BinaryField(null=True)
    response_truncated = models.BooleanField(default=False)
    request_body = models.BinaryField(null=True)
    request_truncated = models.BooleanField(default=False, db_default=False)
    steps = models.JSONField(null=True, help_text="The calls before the last one, of an action that needs several.")
    omitted_fields = models.JSONField(null=True)
    credential_version = models.IntegerField(null=True)
    worker = models.CharField(max_length=100, blank=True, default="")

    class Meta:
        db_table = "attempts"
        ordering = ["number"]
        indexes = [models.Index(fields=["delivery", "number"], name="attempts_by_delivery")]

    def __str__(self) -> str:
        return f"attempt {self.number}: {self.outcome}"

    @property
    def public_id(self) -> str:
        return ids.encode(ids.ATTEMPT, self.pk)
