"""A vendor on loopback: it authorizes, gives tokens out and takes them back, and has an API that asks for one.

It speaks for every provider of these tests: `…/authorize`, `…/token`, `…/revoke` by the end of the path, and whatever
else is its API. It holds to RFC 6749 and RFC 7636, and, told so, to the habits of vendors that differ.
"""

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from tests.receivers import _Server

CANARY = "canary-"
"""Begins every code, token and secret of this vendor, so that none can hide."""

CLIENT_ID, CLIENT_SECRET = "app-1", f"{CANARY}client-secret"


@dataclass
class Asked:
    """One request: its form (or JSON) and its headers in small letters."""

    path: str
    form: dict[str, str]
    headers: dict[str, str]

    @property
    def bearer(self) -> str:
        return self.headers.get("authorization", "").rpartition(" ")[2]


@dataclass
class Reply:
    status: int
    document: Any
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return self.document if isinstance(self.document, bytes) else json.dumps(self.document).encode()


class Gate:
    """Holds answers back until it is opened."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()

    def hold(self) -> None:
        self._reached.set()
        self._opened.wait(30)

    def is_reached(self) -> bool:
        """Somebody waits at it, within ten seconds."""
        return self._reached.wait(10)

    def open(self) -> None:
        self._opened.set()


@dataclass
class Vendor:
    """Its state, and what tests tell it to do."""

    url: str = ""
    clients: dict[str, str] = field(default_factory=lambda: {CLIENT_ID: CLIENT_SECRET})
    rotates: bool = False
    """A refresh token is good once; used twice, everything that came of it is revoked."""
    extra: dict[str, Any] = field(default_factory=lambda: {"expires_in": 1800})
    """What a reply says beside the tokens."""
    granted_scopes: Any = None
    """None: those that were asked for."""
    before_reply: Callable[[Asked], Reply | None] = lambda asked: None
    """Asked at every token request, outside the lock: may wait, and may answer instead."""
    gate: Gate | None = None
    """Holds the token endpoint's answers back, after what they tell has happened."""
    revoke_gate: Gate | None = None
    api: Callable[[Asked], Reply] = lambda asked: Reply(200, {"portalId": 7})
    """What the API answers to those with a good token."""

    token_requests: list[Asked] = field(default_factory=list)
    api_requests: list[Asked] = field(default_factory=list)
    revoked: list[Asked] = field(default_factory=list)
    access_tokens: set[str] = field(default_factory=set)
    refresh_tokens: set[str] = field(default_factory=set)
    used_refresh_tokens: set[str] = field(default_factory=set)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def refreshes(self) -> list[Asked]:
        return [asked for asked in self.token_requests if asked.form["grant_type"] == "refresh_token"]

    # --- the person at the browser ----------------------------------------------------------------------------------

    def consent(self, url: str, **more: str) -> dict[str, str]:
        """Open the authorization URL and agree: the parameters that the browser brings back."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["response_type"] == "code"
        assert asked["client_id"] in self.clients
        code = self._new("code")
        self._codes[code] = asked
        return {"code": code, "state": asked["state"], **more}

    # --- the token endpoint -----------------------------------------------------------------------------------------

    def grant(self, kind: str = "granted") -> dict[str, Any]:
        """Tokens, out of thin air."""
        access, refresh = self._new(f"access-{kind}"), self._new(f"refresh-{kind}")
        self.access_tokens.add(access)
        self.refresh_tokens.add(refresh)
        return {"access_token": access, "refresh_token": refresh, "token_type": "bearer"} | self.extra

    def expire_access(self) -> None:
        """Access tokens that are out are good no more."""
        self.access_tokens.clear()

    def take(self, asked: Asked) -> Reply:
        self.token_requests.append(asked)
        gate = self.gate
        reply = self.before_reply(asked) or self._decide(asked)
        if gate is not None:
            gate.hold()
        return reply

    def _decide(self, asked: Asked) -> Reply:
        with self._lock:
            if not self._knows_client(asked):
                return Reply(401, {"error": "invalid_client", "error_description": f"{CANARY}echo"})
            taken: Reply = getattr(self, f"_take_{asked.form['grant_type']}")(asked.form)
            return taken

    def _take_authorization_code(self, form: dict[str, str]) -> Reply:
        asked = self._codes.pop(form["code"], None)
        if asked is None or form["redirect_uri"] != asked["redirect_uri"]:
            return Reply(400, {"error": "invalid_grant"})
        if asked.get("code_challenge") and asked["code_challenge"] != challenge(form.get("code_verifier", "")):
            return Reply(400, {"error": "invalid_grant", "error_description": "the verifier is wrong"})
        scope = asked.get("scope") if self.granted_scopes is None else self.granted_scopes
        return Reply(200, self.grant() | ({"scope": scope} if scope is not None else {}))

    def _take_refresh_token(self, form: dict[str, str]) -> Reply:
        token = form["refresh_token"]
        if token in self.used_refresh_tokens:
            self.refresh_tokens.clear()
            self.access_tokens.clear()
        if token not in self.refresh_tokens:
            return Reply(400, {"error": "invalid_grant", "error_description": f"{token} is no good"})
        if not self.rotates:
            return Reply(200, {key: value for key, value in self.grant("again").items() if key != "refresh_token"})
        self.refresh_tokens.discard(token)
        self.used_refresh_tokens.add(token)
        return Reply(200, self.grant("rotated"))

    def _take_client_credentials(self, form: dict[str, str]) -> Reply:
        return Reply(200, {key: value for key, value in self.grant("own").items() if key != "refresh_token"})

    def _knows_client(self, asked: Asked) -> bool:
        client_id, secret = asked.form.get("client_id"), asked.form.get("client_secret")
        if client_id is None:
            client_id, _, secret = base64.b64decode(asked.bearer).decode().partition(":")
        return self.clients.get(client_id or "") == secret

    # --- the API ----------------------------------------------------------------------------------------------------

    def serve(self, asked: Asked) -> Reply:
        self.api_requests.append(asked)
        if asked.bearer not in self.access_tokens:
            return Reply(401, {"message": f"{asked.bearer} is no good", "category": "EXPIRED_AUTHENTICATION"})
        return self.api(asked)

    def _new(self, kind: str) -> str:
        return f"{CANARY}{kind}-{secrets.token_urlsafe(12)}"


def challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


@contextmanager
def serving() -> Iterator[Vendor]:
    """A vendor on a free port of 127.0.0.1, ended with the block."""
    vendor = Vendor()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            path = urlsplit(self.path).path
            asked = Asked(path, {} if body.startswith(("{", "[")) else dict(parse_qsl(body)), headers)
            reply = self.choose(path)(asked)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def choose(self, path: str) -> Callable[[Asked], Reply]:
            if path.endswith("/revoke"):
                return revoke
            return vendor.take if path.endswith("/token") else vendor.serve

        do_GET = do_POST = do_PUT = do_PATCH = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    def revoke(asked: Asked) -> Reply:
        vendor.revoked.append(asked)
        if vendor.revoke_gate is not None:
            vendor.revoke_gate.hold()
        vendor.refresh_tokens.discard(asked.form.get("token", ""))
        return Reply(200, {})

    server = _Server(("127.0.0.1", 0), Handler)
    vendor.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield vendor
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
