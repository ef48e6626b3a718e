"""A caller of the API for tests: a real key, real requests through the whole of Django."""

import json
from typing import Any

from django.test import Client

from workspaces import keys
from workspaces.models import Workspace

ALL_SCOPES = keys.SCOPES


class Caller:
    """Sends JSON with a key, and reads JSON."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._client = Client(headers={"authorization": f"Bearer {key}"}, enforce_csrf_checks=True)

    def get(self, path: str, **query: Any) -> Any:
        return self._client.get(f"/api/v1{path}", query)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self._send("post", path, body, headers)

    def patch(self, path: str, body: Any) -> Any:
        return self._send("patch", path, body, {})

    def delete(self, path: str) -> Any:
        return self._client.delete(f"/api/v1{path}")

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        data = body if isinstance(body, (str, bytes)) else json.dumps({} if body is None else body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return getattr(self._client, method)(f"/api/v1{path}", data, content_type="application/json", headers=named)


def account(*scopes: str) -> Caller:
    """A caller with an account key; with all scopes unless some are named."""
    return Caller(keys.create_key(name="account", kind="account", scopes=scopes or ALL_SCOPES).key)


def tenant(workspace: Workspace, *scopes: str, kind: str = "workspace") -> Caller:
    """A caller with a key of one workspace."""
    issued = keys.create_key(name="tenant", kind=kind, scopes=scopes or ALL_SCOPES, workspace=workspace)
    return Caller(issued.key)


def mistakes(answer: Any) -> dict[str, str]:
    """The places that a problem names, and the rule that each breaks."""
    assert answer["content-type"] == "application/problem+json"
    return {
        mistake.get("pointer", mistake.get("parameter", mistake.get("header"))): mistake["rule"]
        for mistake in answer.json().get("errors", [])
    }
