"""What other layers may want to know."""

from django.dispatch import Signal

connection_changed = Signal()
"""Sent after the commit with `connection_id` (UUID): status, pause, limits, config or credentials have changed, or the
connection is new or deleted."""
