"""Why a delivery is in its state, in one word: all that there are."""

from connections.models import Connection
from connections.providers.verdicts import ERROR_CLASSES
from delivery.dispatch import cancelling

DEAD = ("exhausted", "rejected", "uncertain", "our_fault", "poison", "mapping_failed", "evaluation_limit")
HELD = tuple(
    status.value for status in Connection.Status if status not in (Connection.Status.ACTIVE, Connection.Status.DELETED)
)
CANCELLED = (*cancelling.WORDS, "replaced", "filtered")
ALL = tuple(dict.fromkeys((*DEAD, *HELD, *CANCELLED, *ERROR_CLASSES)))
"""What is pending has the error class of its last attempt."""
