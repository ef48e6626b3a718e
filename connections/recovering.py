"""Connections that were stopped because a key of the operator's was missing return to work by themselves.

A present version stops none for that: it rests (`connections.credentials.verdict_on`). Earlier versions made it
`credential_error`, as they did where somebody had changed the document, in the same words.
"""

from datetime import datetime

from django.db.models import Exists, OuterRef, Q

from connections import credentials as keeping
from connections import lifecycle
from connections.models import Connection
from workspaces.vault import sealing, vault
from workspaces.vault.models import SealedDocument

EARLIER_WORDS = (
    "The stored credentials could not be opened. Nothing was sent; set the credentials anew.",
    "The stored credentials do not open. Replace them.",
)
"""What earlier versions said of either."""
AT_ONCE = 100


def recover(now: datetime) -> int:
    """Look at connections in `credential_error`; how many were looked at.

    Where the document's key is not among FERNET_KEYS, that alone is the cause: the connection is `active` and rests.
    Where an earlier version said why, and the document opens as this connection's, its key is back: `active`. Where it
    does not open, the words become today's, and the connection waits for its owner.
    """
    document = SealedDocument.objects.filter(connection=OuterRef("pk"), kind=vault.CREDENTIALS)
    stopped = Connection.objects.filter(status=Connection.Status.CREDENTIAL_ERROR, workspace__deleted_at=None)
    stopped = stopped.annotate(lacks_key=Exists(document.exclude(key_id__in=[*sealing.key_ids(), sealing.GIVEN_UP])))
    found = list(stopped.filter(Q(lacks_key=True) | Q(status_reason__in=EARLIER_WORDS)).order_by("pk")[:AT_ONCE])
    for connection in found:
        if connection.lacks_key or _opens(connection):
            lifecycle.restart(connection)
        else:
            lifecycle.explain(connection, keeping.REFUSED_WORDS)
    return len(found)


def _opens(connection: Connection) -> bool:
    try:
        keeping.open_document(connection, vault.this_process(), "recover")
    except vault.CredentialRefused:
        return False
    return True
