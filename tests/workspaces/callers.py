"""Callers of the API for tests: Django's test client with a key."""

from collections.abc import Callable, Sequence
from typing import Any

from django.test import Client

from workspaces import keys
from workspaces.keys import CredentialError, IssuedKey
from workspaces.models import Workspace


def issue(
    kind: str = "account", scopes: Sequence[str] = keys.SCOPES, workspace: Workspace | None = None, **values: Any
) -> IssuedKey:
    if kind == "publishable":
        scopes = keys.PUBLISHABLE_SCOPES
    return keys.create_key(name=f"{kind} key", kind=kind, scopes=scopes, workspace=workspace, **values)


def caller(
    kind: str = "account", scopes: Sequence[str] = keys.SCOPES, workspace: Workspace | None = None, **values: Any
) -> Client:
    return bearer(issue(kind, scopes, workspace, **values).key)


def bearer(credential: str) -> Client:
    """As a program calls: without a CSRF token, which the API must not ask for."""
    headers = {"authorization": f"Bearer {credential}"}
    return Client(headers=headers, raise_request_exception=False, enforce_csrf_checks=True)


def post(client: Client, path: str, document: Any = None, **headers: Any) -> Any:
    """POST a document as JSON; the answer is Django's, as the middleware left it."""
    return client.post(path, document, content_type="application/json", **headers)


def why_refused(verify: Callable[[str], Any], text: str) -> str | None:
    """The reason for which a key or token lets nobody in; None where it does."""
    try:
        verify(text)
    except CredentialError as error:
        return error.reason
    return None
