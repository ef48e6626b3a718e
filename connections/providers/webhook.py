"""A customer's own HTTP endpoint, signed by Standard Webhooks 1.0.0 (github.com/standard-webhooks)."""

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import standardwebhooks

from connections.messages import USER_AGENT, Request
from connections.providers.base import CLIENT_CREDENTIALS, Action, Field, FieldProblem, Provider, Shipment
from connections.providers.fields import NotAuthorized

SECRET_BYTES = 32
"""Random bytes of a signing secret; the specification asks for 24 to 64."""
OVERLAP = timedelta(hours=24)
"""How long a replaced secret goes on signing, so that a receiver can change over."""
MAX_PREVIOUS = 4
"""Replaced secrets that sign at once; with more the oldest stops early, as each lengthens a header."""


class Webhook(Provider):
    slug = "webhook"
    name = "Webhook"
    description = "Sends each event to an HTTP endpoint, signed by the Standard Webhooks specification."
    docs_url = "https://www.standardwebhooks.com"
    auth = "secret"
    oauth = CLIENT_CREDENTIALS
    config_fields = (
        Field("url", "URL", type="url", required=True, help="Where events are sent."),
        Field("method", "Method", type="select", options=("POST", "PUT", "PATCH"), default="POST"),
        Field(
            "body", "Body", type="select", options=("wrapped", "raw"), default="wrapped", frozen=True,
            help="wrapped: {type, timestamp, data, id}; raw: the data alone. Holds for events from now on.",
        ),
        Field("headers", "Extra headers", type="headers", help="Sent with every request. Shown, so not for secrets."),
        Field(
            "oauth_token_url", "Token URL", type="url",
            help="OAuth 2.0: where your authorization server gives tokens for client credentials.",
        ),
        Field("oauth_scope", "Scope", max_length=1024, help="OAuth 2.0: asked for with the token; may be left out."),
    )  # fmt: skip
    credential_fields = (
        Field("signing_secret", "Signing secret", sensitive=True, generated=True, help="whsec_…, shown once."),
        Field("username", "User name", sensitive=True, pattern=r"[^:]+", max_length=255, help="Basic authentication."),
        Field("password", "Password", sensitive=True, max_length=1024, help="Basic authentication."),
        Field("token", "Token", sensitive=True, pattern=r"[\x21-\x7e]+", max_length=4096, help="Bearer token."),
        Field("oauth_client_id", "Client id", sensitive=True, max_length=1024, help="OAuth 2.0 client credentials."),
        Field("oauth_client_secret", "Client secret", sensitive=True, max_length=4096, help="Likewise."),
    )
    actions = (Action("send", "Send the event", idempotent=True, help="Receivers drop repeats by their webhook-id."),)
    test = "Sends one signed event of type meshes.test to the URL; any 2xx answer passes."

    def check(self, config: Mapping[str, Any], credentials: Mapping[str, Any]) -> Sequence[FieldProblem]:
        """Parts of an authentication that are there without the others, and all but the first of several ways."""
        basic = {f"/credentials/{key}": credentials.get(key) for key in ("username", "password")}
        oauth = {f"/credentials/{key}": credentials.get(key) for key in ("oauth_client_id", "oauth_client_secret")}
        oauth["/config/oauth_token_url"] = config.get("oauth_token_url")
        problems = []
        for parts, words in (
            (basic, "Basic authentication needs a user name and a password."),
            (oauth, "OAuth 2.0 needs a client id, a client secret and a token URL."),
        ):
            if any(parts.values()):
                problems += [FieldProblem(pointer, words, "required") for pointer, value in parts.items() if not value]
        ways = [key for key in ("username", "token", "oauth_client_id") if credentials.get(key)]
        words = "Give one of: a token (Bearer), a user name and password (Basic), OAuth 2.0 client credentials."
        return problems + [FieldProblem(f"/credentials/{key}", words, "exclusive") for key in ways[1:]]

    def make_secrets(self) -> dict[str, Any]:
        return {"signing_secret": new_signing_secret(), "previous": []}

    def rotate_secrets(self, credentials: Mapping[str, Any], now: datetime) -> dict[str, Any]:
        replaced = {"secret": credentials["signing_secret"], "expires_at": (now + OVERLAP).isoformat()}
        previous = [replaced, *_live_previous(credentials, now)][:MAX_PREVIOUS]
        return {**credentials, "signing_secret": new_signing_secret(), "previous": previous}

    def build_request(self, shipment: Shipment) -> Request:
        body = shipment.body if shipment.frozen.get("body") == "raw" else wrap(shipment)
        headers = (
            ("content-type", "application/json"),
            ("user-agent", USER_AGENT),
            *shipment.config.get("headers", {}).items(),
            *_authorization(shipment.credentials),
            ("webhook-id", shipment.delivery_id),
            ("webhook-timestamp", str(int(shipment.now.timestamp()))),
            ("webhook-signature", sign(shipment, body)),
            ("meshes-attempt", str(shipment.attempt_number)),
            *([("meshes-replay", shipment.replay)] if shipment.replay else []),
        )
        return Request(shipment.config.get("method", "POST"), shipment.config["url"], headers, body.encode())

    def build_test(self, shipment: Shipment) -> Request:
        return self.build_request(shipment)


def new_signing_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def wrap(shipment: Shipment) -> str:
    """`{type, timestamp, data, id}`, the data character for character as it is."""
    moment = shipment.occurred_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    kind, timestamp, event_id = (json.dumps(text) for text in (shipment.event_type, moment, shipment.event_id))
    return f'{{"type":{kind},"timestamp":{timestamp},"data":{shipment.body},"id":{event_id}}}'


def sign(shipment: Shipment, body: str) -> str:
    """`v1,<base64>` of every live secret, the newest first, separated by spaces."""
    live = [shipment.credentials["signing_secret"]]
    live += [replaced["secret"] for replaced in _live_previous(shipment.credentials, shipment.now)]
    moment = shipment.now.astimezone(UTC)  # the package signs the wall clock's digits as UTC, whatever the zone
    return " ".join(
        standardwebhooks.Webhook(secret.reveal()).sign(shipment.delivery_id, moment, body) for secret in live
    )


def _live_previous(credentials: Mapping[str, Any], now: datetime) -> list[Mapping[str, Any]]:
    return [
        replaced
        for replaced in credentials.get("previous", ())
        if datetime.fromisoformat(replaced["expires_at"].reveal()) > now
    ]


def _authorization(credentials: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Raises NotAuthorized where a token is to come from an authorization server and has not come yet."""
    if "token" in credentials:
        return [("authorization", "Bearer " + credentials["token"].reveal())]
    if "username" in credentials:
        pair = f"{credentials['username'].reveal()}:{credentials['password'].reveal()}"
        return [("authorization", "Basic " + base64.b64encode(pair.encode()).decode())]  # UTF-8: RFC 7617, section 2.1
    if "oauth_client_id" in credentials:
        if "access_token" not in credentials:
            words = "The authorization server has given no token yet. Check the token URL and the client's credentials."
            raise NotAuthorized(words)
        return [("authorization", "Bearer " + credentials["access_token"].reveal())]
    return []


PROVIDER = Webhook()
