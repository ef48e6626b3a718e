"""What other layers may want to know."""

from django.dispatch import Signal

workspace_deleted = Signal()
"""Sent after the commit with `workspace_id` (UUID): it refuses new events from now on."""
