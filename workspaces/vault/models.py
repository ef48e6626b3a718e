"""The tables of the vault: sealed documents, the record of each opening, and the seals over those records."""

import uuid
from datetime import datetime
from typing import Any, Literal, Self, get_args

from django.db import models
from django.db.models import Func, Q, TextField, Value
from fernet_fields import EncryptedTextField

from meshes.kit import ids
from workspaces.models import ApiKey, Workspace

SealedOwner = Literal["connection", "api_key", "oauth_app"]
"""What a sealed document may belong to."""

LABEL = "connections"
"""The application under which Django knows these tables: operators' rights and the admin's addresses name it. Their
rows belong to connections, keys and OAuth apps, so the database refers to tables of the layer above; the code does not.
"""


class SealedTextField(EncryptedTextField):  # type: ignore[misc]  # the library has no types
    """Text is encrypted by the library, as with any field of it; bytes are a token already, and are kept as they are.

    The library's field does not see what row it is in, so it cannot bind a document to its owner.
    """

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        if isinstance(value, bytes):
            return connection.Database.Binary(value)
        return super().get_db_prep_save(value, connection)


class SealedDocumentQuerySet(models.QuerySet["SealedDocument"]):
    def with_token(self) -> models.QuerySet[Any]:
        """The rows with their ciphertext as `token`; selecting the field itself would decrypt it."""
        token = Func("document", Value("escape"), function="encode", output_field=TextField())
        return self.defer("document").annotate(token=token)


class SealedDocument(models.Model):
    """One sealed secret. The document repeats workspace, owner, kind and version; opening refuses if they differ.

    Read and written by `workspaces.vault.vault` only.
    """

    id = models.UUIDField(primary_key=True, default=ids.uuid7, editable=False)
    workspace = models.ForeignKey(Workspace, null=True, on_delete=models.PROTECT, related_name="+")
    connection = models.ForeignKey(
        "connections.Connection",
        null=True,
        on_delete=models.CASCADE,
        related_name="sealed_documents",
        db_constraint=False,
    )
    api_key = models.ForeignKey(ApiKey, null=True, on_delete=models.CASCADE, related_name="sealed_documents")
    oauth_app = models.ForeignKey(
        "connections.OAuthApp",
        null=True,
        on_delete=models.CASCADE,
        related_name="sealed_documents",
        db_constraint=False,
    )
    kind = models.CharField(max_length=32)
    version = models.IntegerField()
    document = SealedTextField()
    key_id = models.CharField(max_length=16, help_text="Fingerprint of the Fernet key that sealed it.")
    created_at = models.DateTimeField(auto_now_add=True)
    sealed_at = models.DateTimeField(null=True, help_text="When this version was made; empty: not known.")

    objects = SealedDocumentQuerySet.as_manager()

    class Meta:
        app_label = LABEL
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
    def owner(self) -> tuple[uuid.UUID | None, SealedOwner, uuid.UUID]:
        """Its workspace, and the kind and id of what it belongs to: the constraint `sealed_documents_one_owner`."""
        for kind in get_args(SealedOwner):
            if (owner_id := getattr(self, f"{kind}_id")) is not None:
                return self.workspace_id, kind, owner_id
        raise AssertionError("a sealed document belongs to something")

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
        app_label = LABEL
        db_table = "access_records"
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["workspace", "-id"], name="access_records_by_workspace"),
            models.Index(fields=["number"], name="access_records_by_number"),
        ]

    def __str__(self) -> str:
        return f"{self.purpose} by {self.actor}"

    @classmethod
    def about(
        cls,
        owner: tuple[uuid.UUID | None, str, uuid.UUID],
        kind: str,
        version: int,
        actor: str,
        purpose: str,
        **more: Any,
    ) -> Self:
        """A record that is not stored yet. `owner` is its workspace, and the kind and id of what it is about."""
        workspace_id, owner_kind, owner_id = owner
        return cls(
            workspace_id=workspace_id, owner_kind=owner_kind, owner_id=owner_id, kind=kind, version=version,
            actor=actor, purpose=purpose, **more,
        )  # fmt: skip

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
        app_label = LABEL
        db_table = "access_log_seals"
        ordering = ["-segment"]

    def __str__(self) -> str:
        return f"segment {self.segment}"
