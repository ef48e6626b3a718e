"""How the tests of the servers call them."""

import base64
import hashlib
import secrets
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests

from meshes.dev.vendors.oauth import OAuthServer
from meshes.dev.vendors.server import VendorServer

BACK = "https://meshes.example/oauth/callback"


def call(
    server: VendorServer[Any], method: str, path: str, document: Any = None, token: str | None = None, **options: Any
) -> requests.Response:
    """One request with the developer token, or another, as bearer; `headers` and other options are of `requests`."""
    headers = {"authorization": f"Bearer {server.token if token is None else token}", **options.pop("headers", {})}
    if document is not None:
        options["json"] = document
    return requests.request(method, server.url + path, headers=headers, allow_redirects=False, timeout=10, **options)


def basic(user: str, password: str = "") -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def authorize(server: OAuthServer[Any], path: str, **query: str) -> dict[str, str]:
    """What the vendor's page sends back to the app; keywords are the page's parameters."""
    asked = {"client_id": server.client_id, "redirect_uri": BACK, "response_type": "code", "state": "s1", **query}
    answer = requests.get(server.url + path, params=asked, allow_redirects=False, timeout=10)
    assert answer.status_code == 302, answer.text
    parts = urlsplit(answer.headers["location"])
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == BACK
    return {name: values[0] for name, values in parse_qs(parts.query).items()}


def challenge() -> tuple[str, dict[str, str]]:
    """A verifier of PKCE, and the page's parameters for it."""
    verifier = secrets.token_urlsafe(48)
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return verifier, {"code_challenge": digest, "code_challenge_method": "S256"}


def tokens(server: OAuthServer[Any], path: str, **fields: str) -> requests.Response:
    """The token endpoint's answer. The app's id and secret stand where the vendor wants them."""
    if "body" not in server.client_auth:
        headers = basic(server.client_id, server.client_secret)
        return requests.post(server.url + path, data=fields, headers=headers, timeout=10)
    app = {"client_id": server.client_id, "client_secret": server.client_secret}
    return requests.post(server.url + path, data={**app, **fields}, timeout=10)
