"""What other layers may want to know."""

from django.dispatch import Signal

keys_used = Signal()
"""Sent in the transaction that notes the use, at most once a minute for each key, with `keys`: (id, workspace id or
None, version) of each."""

workspace_deleted = Signal()
"""Sent after the commit with `workspace_id` (UUID): it refuses new events from now on."""
