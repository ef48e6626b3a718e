"""Making, changing and deleting a workspace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.dispatch import Signal
from psycopg2.errorcodes import UNIQUE_VIOLATION

from meshes.api.fields import store
from meshes.api.problems import Problem
from meshes.kit.database_faults import sqlstate
from workspaces import endpoints, journal
from workspaces.models import Workspace

workspace_deleted = Signal()
"""Sent after the commit with `workspace_id` (UUID): it refuses new events from now on."""


@contextmanager
def _unique_external_id() -> Iterator[None]:
    """Raises Problem 409 where another live workspace has the external id."""
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        if sqlstate(error) != UNIQUE_VIOLATION:
            raise
        mistake = {"detail": "Another workspace has this external id.", "rule": "taken"}
        raise Problem(409, errors=[{"pointer": "/external_id", **mistake}]) from error


def create_workspace(fields: Mapping[str, Any]) -> Workspace:
    """A new workspace with these fields. Raises Problem 409 for an external id that is taken."""
    with _unique_external_id():
        return Workspace.objects.create(**fields)


def change_workspace(workspace: Workspace, fields: Mapping[str, Any]) -> None:
    """Set these fields. Raises Problem 409 for an external id that is taken."""
    with _unique_external_id():
        store(workspace, **fields)
        transaction.on_commit(endpoints.forget_workspaces)


def delete_workspace(workspace: Workspace, now: datetime) -> None:
    """Refuse new events from now on, and tell those who cancel and purge; doing it twice changes nothing.

    The row stays, so that what the workspace has lived through stays readable until it is purged.
    """
    with transaction.atomic():
        if Workspace.objects.filter(pk=workspace.pk, deleted_at=None).update(deleted_at=now, updated_at=now):
            journal.note("workspace_deleted", workspace=workspace.public_id)
            transaction.on_commit(endpoints.forget_workspaces)
            transaction.on_commit(lambda: workspace_deleted.send(sender=Workspace, workspace_id=workspace.pk))
