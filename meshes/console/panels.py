"""What deliveries add to the pages of connections and workspaces."""

from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from connections.models import Connection
from delivery.dispatch import connection_health
from delivery.models import Delivery, Rule
from meshes.console import overview
from meshes.console.connections import ConnectionAdmin
from meshes.console.workspaces import WorkspaceAdmin
from meshes.kit import clock
from workspaces.models import Workspace

COUNTED = (Delivery.Status.PENDING, Delivery.Status.HELD, Delivery.Status.DEAD)
NEWEST = 10
MOST_RULES = 50


def health(request: HttpRequest, connection: Connection) -> SafeString | str:
    """How the connection does, as its owner is told, and the state of its breaker."""
    now = clock.now()
    context = {
        "health": connection_health.examine(connection, now),
        "breaker": connection_health.breaker_of(connection, now),
        "counters": connection_health.health_of(connection),
    }
    return render_to_string("admin/delivery/health_panel.html", context, request)


def lane(request: HttpRequest, connection: Connection) -> SafeString | str:
    """The connection's lane as the broker has it now."""
    context = {"lane": overview.lane_stats(connection.workspace_id, connection.pk)}
    return render_to_string("admin/delivery/lane_panel.html", context, request)


def deliveries(request: HttpRequest, connection: Connection) -> SafeString | str:
    """The connection's rules, its open and dead deliveries, and its newest ones."""
    if not request.user.has_perm("delivery.view_delivery"):
        return ""
    newest = Delivery.objects.filter(connection=connection).defer("body", "frozen").order_by("-pk")[:NEWEST]
    context: dict[str, Any] = {
        "connection": connection,
        "counts": overview.count_by_status(connection.pk, COUNTED),
        "newest": list(newest),
        "rules": list(Rule.objects.filter(connection=connection, deleted_at=None).order_by("-pk")[:MOST_RULES]),
    }
    return render_to_string("admin/delivery/deliveries_panel.html", context, request)


def elsewhere(request: HttpRequest, workspace: Workspace) -> SafeString | str:
    """The way from a workspace to what it owns."""
    return render_to_string("admin/delivery/workspace_panel.html", {"workspace": workspace}, request)


ConnectionAdmin.panels += [health, lane, deliveries]
WorkspaceAdmin.panels += [elsewhere]
