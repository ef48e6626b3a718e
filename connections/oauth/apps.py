"""Apps that a workspace brings itself: its own name on the vendor's consent page, and its own quota.

The id stands in `oauth_apps`; the secret is sealed in the vault for that row.
"""

import uuid

from django.conf import settings
from django.db import transaction

from connections import vault
from connections.models import OAuthApp
from connections.oauth.clients import Client
from connections.secret import Secret

KIND = "client"


def put(workspace_id: uuid.UUID, type: str, client_id: str, secret: Secret, *, actor: str = "") -> OAuthApp:
    """Make or replace the workspace's app at a vendor. `actor` is for the access record."""
    values = {"client_id": client_id, "secret_hint": secret.masked_hint()}
    with transaction.atomic():
        app, _ = OAuthApp.objects.update_or_create(workspace_id=workspace_id, type=type, defaults=values)
        vault.seal(
            {"secret": secret},
            workspace_id=workspace_id,
            owner_kind="oauth_app",
            owner_id=app.pk,
            kind=KIND,
            actor=actor,
        )
    return app


def find(workspace_id: uuid.UUID, type: str) -> OAuthApp | None:
    """The workspace's own app, without its secret."""
    return OAuthApp.objects.filter(workspace_id=workspace_id, type=type).first()


def remove(workspace_id: uuid.UUID, type: str | None = None, *, actor: str = "") -> int:
    """Forget the workspace's app at a vendor, or all of them; how many there were."""
    apps = OAuthApp.objects.filter(workspace_id=workspace_id)
    if type is not None:
        apps = apps.filter(type=type)
    with transaction.atomic():
        found = list(apps.select_for_update().order_by("pk").values_list("pk", flat=True))  # first, as `put` does
        for pk in found:
            vault.destroy(workspace_id=workspace_id, owner_kind="oauth_app", owner_id=pk, actor=actor)
        apps.filter(pk__in=found).delete()
    return len(found)


def client_id_for(workspace_id: uuid.UUID, type: str) -> str | None:
    """The id of the app with which a new authorization asks; None without one. Opens nothing."""
    app = find(workspace_id, type)
    if app is not None:
        return app.client_id
    client: Client | None = settings.MESHES_OAUTH_CLIENTS.get(type)
    return None if client is None else client.id


def client_for(workspace_id: uuid.UUID, type: str, *, actor: str, purpose: str, id: str = "") -> Client | None:
    """The app with its secret: the workspace's own if it has one, else the installation's; None without either.

    With an `id` only the app of that id: a token belongs to the app that it was given to. The opening is recorded.
    Raises vault.KeyMissing.
    """
    app = find(workspace_id, type)
    if app is not None and id in ("", app.client_id):
        return _open(app, actor, purpose)
    client: Client | None = settings.MESHES_OAUTH_CLIENTS.get(type)
    return client if client is not None and id in ("", client.id) else None


def _open(app: OAuthApp, actor: str, purpose: str) -> Client | None:
    try:
        opened = vault.open(
            workspace_id=app.workspace_id,
            owner_kind="oauth_app",
            owner_id=app.pk,
            kind=KIND,
            actor=actor,
            purpose=purpose,
        )
    except vault.KeyMissing:
        raise
    except vault.CredentialRefused:
        return None
    return Client(app.client_id, opened.secret["secret"])
