"""Making, changing and deleting a workspace."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from psycopg2.errorcodes import UNIQUE_VIOLATION

from meshes.api.fields import store
from meshes.kit.database_faults import sqlstate
from workspaces import directory, journal
from workspaces.models import Workspace
from workspaces.signals import workspace_deleted


class ExternalIdTaken(Exception):  # noqa: N818 - names the state
    """Another live workspace has this external id."""


def create_workspace(fields: Mapping[str, Any]) -> Workspace:
    """A new workspace with these fields. Raises ExternalIdTaken."""
    try:
        with transaction.atomic():
            return Workspace.objects.create(**fields)
    except IntegrityError as error:
        if sqlstate(error) != UNIQUE_VIOLATION:
            raise
        raise ExternalIdTaken from error


def change_workspace(workspace: Workspace, fields: Mapping[str, Any]) -> None:
    """Set these fields. Raises ExternalIdTaken."""
    try:
        with transaction.atomic():
            store(workspace, **fields)
            transaction.on_commit(directory.forget)
    except IntegrityError as error:
        if sqlstate(error) != UNIQUE_VIOLATION:
            raise
        raise ExternalIdTaken from error


def delete_workspace(workspace: Workspace, now: datetime) -> None:
    """Refuse new events from now on, and tell those who cancel and purge; doing it twice changes nothing.

    The row stays, so that what the workspace has lived through stays readable until it is purged.
    """
    with transaction.atomic():
        if Workspace.objects.filter(pk=workspace.pk, deleted_at=None).update(deleted_at=now, updated_at=now):
            journal.note("workspace_deleted", workspace=workspace.public_id)
            transaction.on_commit(directory.forget)
            transaction.on_commit(lambda: workspace_deleted.send(sender=Workspace, workspace_id=workspace.pk))
