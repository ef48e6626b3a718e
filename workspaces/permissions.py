"""What a key may do: views declare, this checks. What is not declared is refused."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from workspaces.authentication import Identity
from workspaces.models import ApiKey

if TYPE_CHECKING:  # DRF imports this module while it makes that class
    from rest_framework.views import APIView


class HasScope(BasePermission):
    """A view declares, for itself or per action (an action is the viewset's, else the method in small letters):

    `required_scope`: the scope, or a tuple of which one is enough; a string, or a mapping by action.
    `publishable_actions`: what publishable keys may do. `account_actions`: what only account keys may do.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        identity = request.auth
        if not isinstance(identity, Identity):
            return False
        if request.method not in view.allowed_methods:
            return True  # nothing is there to protect; the view answers 405
        action = getattr(view, "action", None) or str(request.method).lower()
        if identity.kind == ApiKey.Kind.PUBLISHABLE and action not in getattr(view, "publishable_actions", ()):
            raise PermissionDenied("A publishable key may only post single events.")
        if identity.kind != ApiKey.Kind.ACCOUNT and action in getattr(view, "account_actions", ()):
            raise PermissionDenied("Only an account key may do that.")
        accepted = accepted_scopes(view, action)
        if identity.scopes.isdisjoint(accepted):
            raise PermissionDenied(f"The key lacks the scope {' or '.join(accepted)}.")
        return True


def accepted_scopes(view: "APIView", action: str) -> tuple[str, ...]:
    """The scopes of which one is enough for the action."""
    declared = getattr(view, "required_scope", None)
    if isinstance(declared, Mapping):
        declared = declared.get(action)
    if not declared:
        raise ImproperlyConfigured(f"{type(view).__name__} declares no required_scope for {action!r}")
    return (declared,) if isinstance(declared, str) else tuple(declared)
