"""Slack (docs.slack.dev): the Web API, incoming webhooks, and OAuth v2 with token rotation."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason, RefusedError
from meshes.dev.vendors.oauth import Installation, OAuthServer
from meshes.dev.vendors.server import route

MAX_TEXT, MAX_BLOCKS = 40_000, 50


def _channels() -> dict[str, dict[str, Any]]:
    return {
        "C0GENERAL": {"name": "general", "is_archived": False, "is_member": True},
        "C0LEADS": {"name": "leads", "is_archived": False, "is_member": True},
        "C0FOREIGN": {"name": "elsewhere", "is_archived": False, "is_member": False},
        "C0OLD": {"name": "old", "is_archived": True, "is_member": True},
    }


@dataclass
class Team:
    """`messages` hold their channel and `ts`; `webhooks` are channels by the part of the URL after the team."""

    channels: dict[str, dict[str, Any]] = field(default_factory=_channels)
    webhooks: dict[str, str] = field(default_factory=lambda: {"B0WEBHOOK/s3cr3tOfTheLeadsWebhook": "C0LEADS"})
    messages: list[dict[str, Any]] = field(default_factory=list)

    def post(self, channel: str, message: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: message[name] for name in ("text", "blocks", "attachments", "thread_ts") if name in message}
        posted = {"channel": channel, "ts": f"1790000000.{len(self.messages) + 1:06d}", **kept}
        self.messages.append(posted)
        return posted


def _failed(error: str, **more: Any) -> Answer:
    """200: the Web API's status says nothing."""
    return Answer.of({"ok": False, "error": error, **more})


class Slack(OAuthServer[Team]):
    """An account is a team's id. Tokens rotate."""

    slug, account, developer_token, new_account = "slack", "T0ACME", "xoxb-developer", Team
    page_path, token_path = "/oauth/v2/authorize", r"/api/oauth\.v2\.access"
    error_codes = {
        Reason.MISSING_TOKEN: "not_authed",
        Reason.UNKNOWN_TOKEN: "invalid_auth",
        Reason.EXPIRED_TOKEN: "token_expired",
        Reason.REVOKED_TOKEN: "token_revoked",
        Reason.MALFORMED: "invalid_json",
        Reason.THROTTLED: "ratelimited",
        Reason.DOWN: "internal_error",
    }
    default_error, tells_wait = "unknown_method", True
    client_auth = frozenset({"body", "basic"})
    required = ("scope",)
    default_grant = "authorization_code"
    detects_reuse = True
    rotates = True
    token_seconds: float | None = 43_200
    oauth_errors = {
        "invalid_code": "invalid_code",
        "used_code": "code_already_used",
        "expired_code": "code_expired",
        "wrong_redirect_uri": "bad_redirect_uri",
        "wrong_verifier": "invalid_code_verifier",
        "invalid_refresh_token": "invalid_refresh_token",
        "unknown_client": "invalid_client_id",
        "wrong_secret": "bad_client_secret",
        "unsupported_grant_type": "invalid_grant_type",
    }
    faults = {"account_inactive": _failed("account_inactive"), "token_revoked": _failed("token_revoked")}

    @property
    def webhook_url(self) -> str:
        """The developer team's incoming webhook, as Slack shows it."""
        return f"https://hooks.slack.com/services/{self.account}/{next(iter(self.state.webhooks))}"

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of({"ok": False, "error": code}, status)

    def refusal(self, reason: Reason, status: int, message: str, seconds: float = 0.0) -> Answer:
        tells = reason in (Reason.THROTTLED, Reason.DOWN)  # the Web API's status says nothing of the others
        return super().refusal(reason, status if tells else 200, message, seconds)

    # The Web API.

    @route("POST", r"/api/chat\.postMessage")
    def post_message(self, call: Call) -> Answer:
        self._check_scope(call, "chat:write")
        message = _arguments(call)
        team, channel = self.state_of(call), self._channel(call, message)
        if error := _wrong_with(message):
            raise RefusedError(_failed(error))
        posted = team.post(channel, message)
        document = {"ok": True, "channel": channel, "ts": posted["ts"], "message": {"type": "message", **posted}}
        if call.media_type == "application/json" and "charset" not in call.headers["content-type"]:
            document |= {"warning": "missing_charset", "response_metadata": {"warnings": ["missing_charset"]}}
        return Answer.of(document)

    @route("POST", r"/api/auth\.test")
    def test(self, call: Call) -> Answer:
        team = {"url": "https://acme.slack.com/", "team": "Acme", "team_id": call.account}
        return Answer.of({"ok": True, **team, "user": "meshes", "user_id": "U0BOT", "bot_id": "B0BOT"})

    @route("GET", r"/api/conversations\.list")
    def list_channels(self, call: Call) -> Answer:
        self._check_scope(call, "channels:read")
        asked = call.query
        rows = [
            {"id": key, **channel}
            for key, channel in self.state_of(call).channels.items()
            if not (channel["is_archived"] and str(asked.get("exclude_archived")).lower() in ("true", "1"))
        ]
        page = {"channels": rows[: int(asked.get("limit") or 100)], "response_metadata": {"next_cursor": ""}}
        return Answer.of({"ok": True, **page})

    @route("GET", r"/api/auth\.revoke")
    @route("POST", r"/api/auth\.revoke")
    def revoke_own(self, call: Call) -> Answer:
        """The bot's token takes the installation with it."""
        token = self.token_of(call)
        installation = self.installation_of(token)
        if installation is not None:
            self.end(installation)
        self.revoke(token)
        return Answer.of({"ok": True, "revoked": True})

    def _check_scope(self, call: Call, scope: str) -> None:
        if installation := self.lacks(call, scope):
            raise RefusedError(_failed("missing_scope", needed=scope, provided=installation.scope))

    def _channel(self, call: Call, message: Mapping[str, Any]) -> str:
        """The id of the message's channel, which may be named too."""
        named = str(message.get("channel", ""))
        channels = self.state_of(call).channels
        key = next((key for key, has in channels.items() if named in (key, has["name"], f"#{has['name']}")), "")
        self.refuse_if(not key, 200, "channel_not_found", "")
        self.refuse_if(channels[key]["is_archived"], 200, "is_archived", "")
        self.refuse_if(not channels[key]["is_member"], 200, "not_in_channel", "")
        return key

    # Incoming webhooks, whose answers are plain text.

    @route("POST", r"/services/{team}/{bot}/{secret}", "url")
    def incoming(self, call: Call, team: str, bot: str, secret: str) -> Answer:
        if team != self.account and team not in self.accounts:
            return Answer.text("no_team", 404)
        state = self.account_state(team)
        channel = state.webhooks.get(f"{bot}/{secret}")
        if channel is None:
            return Answer.text("invalid_token", 403)
        if state.channels[channel]["is_archived"]:
            return Answer.text("channel_is_archived", 410)
        try:
            message = self.read_object(call)
        except RefusedError:
            return Answer.text("invalid_payload", 400)
        if error := _wrong_with(message):
            return Answer.text(error, 400)
        state.post(channel, message)
        return Answer.text("ok")

    # OAuth.

    def token_reply(self, installation: Installation, access_token: str, is_first: bool) -> dict[str, Any]:
        reply = {
            "ok": True,
            "app_id": "A0MESHES",
            "authed_user": {"id": "U0OWNER"},
            "team": {"id": installation.account, "name": "Acme"},
            "scope": installation.scope,
            "token_type": "bot",
            "bot_user_id": "U0BOT",
            "access_token": access_token,
        }
        return reply | {"refresh_token": installation.refresh_token, "expires_in": int(self.token_seconds or 0)}

    def oauth_answer(self, error: str, message: str) -> Answer:
        return _failed(self.oauth_errors[error])

    def new_token(self, kind: str) -> str:
        return f"{'xoxe-1' if kind == 'refresh' else 'xoxe.xoxb-1'}-{secrets.token_urlsafe(24)}"


def _arguments(call: Call) -> dict[str, Any]:
    """Of a JSON body or a form."""
    if call.body and call.media_type not in ("application/json", "application/x-www-form-urlencoded"):
        raise RefusedError(_failed("invalid_post_type"))
    return call.fields() if call.body else {}


def _wrong_with(message: Mapping[str, Any]) -> str:
    """Slack's name of what is wrong with a message; empty for none."""
    blocks = message.get("blocks", [])
    is_list = isinstance(blocks, list) and len(blocks) <= MAX_BLOCKS
    if not is_list or not all(isinstance(block, dict) and block.get("type") for block in blocks):
        return "invalid_blocks"
    if not message.get("text") and not blocks and not message.get("attachments"):
        return "no_text"
    return "msg_too_long" if len(str(message.get("text", ""))) > MAX_TEXT else ""
