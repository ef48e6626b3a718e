"""Records of what somebody did that opened no sealed document: of kind `action`, in the same sealed log.

An operator who looks at a customer's payload, a connection that is moved to another host, a connect link that is made
or used: each leaves one. `owner_kind` and `owner_id` say what it was done to.
"""

import uuid
from collections.abc import Collection
from typing import Literal, get_args

from meshes.kit import ids
from workspaces.vault.models import AccessRecord

OwnerKind = Literal["workspace", "connection", "api_key", "oauth_app", "rule", "event", "delivery", "attempt", "replay"]
Purpose = Literal["moved", "viewed", "link_made", "link_used"]

ACTION = "action"
"""The kind of these records."""
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
PREFIXES: dict[OwnerKind, str] = {
    "workspace": ids.WORKSPACE,
    "connection": ids.CONNECTION,
    "api_key": ids.KEY,
    "oauth_app": ids.APP,
    "rule": ids.RULE,
    "event": ids.EVENT,
    "delivery": ids.DELIVERY,
    "attempt": ids.ATTEMPT,
    "replay": ids.REPLAY,
}
"""The prefix of the owner's public id."""
MAX_ACTOR = 200


def record_action(
    *, workspace_id: uuid.UUID | None, owner_kind: OwnerKind, owner_id: uuid.UUID, actor: str, purpose: Purpose
) -> None:
    """Record that `actor` did this to the owner, in the caller's transaction: there is not the one without the other.

    `actor` is an API key's public id, `operator ada`, `connect link`, a command, or a process.
    """
    record_actions({(workspace_id, owner_kind, owner_id)}, actor=actor, purpose=purpose)


def record_actions(
    owners: Collection[tuple[uuid.UUID | None, OwnerKind, uuid.UUID]], *, actor: str, purpose: Purpose
) -> None:
    """`record_action` for many `(workspace_id, owner_kind, owner_id)`, in one statement."""
    AccessRecord.objects.bulk_create(
        AccessRecord(
            workspace_id=workspace_id,
            owner_kind=owner_kind,
            owner_id=owner_id,
            kind=ACTION,
            version=0,
            actor=actor[:MAX_ACTOR],
            purpose=purpose,
        )
        for workspace_id, owner_kind, owner_id in owners
    )
