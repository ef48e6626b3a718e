"""Discord webhooks (discord.com/developers): messages of a channel's webhook, whose URL is the secret."""

from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.faults import Window
from meshes.dev.vendors.messages import Answer, Call, Problem, Refused, Why
from meshes.dev.vendors.server import VendorServer, route

MAX_CONTENT, MAX_EMBEDS, MAX_USERNAME = 2000, 10, 80
WEBHOOK = r"/api(?:/v[0-9]+)?/webhooks/{key}/{secret}"


@dataclass
class Channel:
    """`pings` are messages that notified everybody or a person, because nothing in them forbade it."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    pings: list[str] = field(default_factory=list)


class Discord(VendorServer[Channel]):
    """An account is a webhook's id, and its token the second part of the URL."""

    slug, account, developer_token = "discord", "1234567890123456789", "discordWebhookToken"
    faults = {
        "GLOBAL": Answer.of(
            {"message": "You are being rate limited.", "retry_after": 30.5, "global": True}, 429, retry_after="31"
        ),
    }

    @property
    def webhook_url(self) -> str:
        return f"https://discord.com/api/webhooks/{self.account}/{self.token}"

    def new_account(self, account: str) -> Channel:
        return Channel()

    def problem(self, problem: Problem) -> Answer:
        if problem.why is not Why.THROTTLED:
            return _error(problem.status, 50109 if problem.why is Why.MALFORMED else 0, problem.words)
        wait = round(problem.seconds, 3)
        said = {"message": "You are being rate limited.", "retry_after": wait, "global": False}
        return Answer.of(said, 429, retry_after=problem.retry_after)

    def rate_headers(self, call: Call, window: Window | None) -> dict[str, str]:
        if window is None:
            return {}
        rest = max(window.rest, 0.0)
        return {
            "x-ratelimit-limit": str(window.requests),
            "x-ratelimit-remaining": str(window.remaining),
            "x-ratelimit-reset": f"{self.clock() + rest:.3f}",
            "x-ratelimit-reset-after": f"{rest:.3f}",
            "x-ratelimit-bucket": "webhook",
        }

    @route("POST", WEBHOOK, "url")
    def execute(self, call: Call, key: str, secret: str) -> Answer:
        channel, message = self._channel(key, secret), self.read_object(call)
        _check(message)
        channel.messages.append(message)
        message_id = str(9_000_000 + len(channel.messages))
        if _pings(message):
            channel.pings.append(message_id)
        if call.query.get("wait") != "true":
            return Answer(204)
        posted = {"id": message_id, "type": 0, "webhook_id": key}
        return Answer.of({**posted, "content": message.get("content", ""), "embeds": message.get("embeds", [])})

    @route("GET", WEBHOOK, "url")
    def describe(self, call: Call, key: str, secret: str) -> Answer:
        self._channel(key, secret)
        return Answer.of({"id": key, "type": 1, "name": "Leads", "channel_id": "1", "guild_id": "2", "token": secret})

    def _channel(self, key: str, secret: str) -> Channel:
        """Raises Refused."""
        if key not in self.tokens.values():
            raise Refused(_error(404, 10015, "Unknown Webhook"))
        if self.tokens.get(secret) != key:
            raise Refused(_error(401, 50027, "Invalid Webhook Token"))
        return self.account_state(key)


def _check(message: dict[str, Any]) -> None:
    """Raises Refused."""
    content, embeds = message.get("content", ""), message.get("embeds", [])
    if not isinstance(content, str) or len(content) > MAX_CONTENT:
        raise _invalid("content", "BASE_TYPE_MAX_LENGTH", f"Must be {MAX_CONTENT} or fewer in length.")
    if not isinstance(embeds, list) or len(embeds) > MAX_EMBEDS:
        raise _invalid("embeds", "BASE_TYPE_MAX_LENGTH", f"Must be {MAX_EMBEDS} or fewer in length.")
    if len(str(message.get("username", ""))) > MAX_USERNAME:
        raise _invalid("username", "BASE_TYPE_BAD_LENGTH", f"Must be between 1 and {MAX_USERNAME} in length.")
    if not content and not embeds:
        raise Refused(_error(400, 50006, "Cannot send an empty message"))


def _pings(message: dict[str, Any]) -> bool:
    content, mentions = message.get("content", ""), message.get("allowed_mentions", {})
    allowed = mentions.get("parse", []) if "allowed_mentions" in message else ["everyone", "users", "roles"]
    return ("everyone" in allowed and ("@everyone" in content or "@here" in content)) or (
        "users" in allowed and "<@" in content
    )


def _error(status: int, code: int, message: str, **more: Any) -> Answer:
    return Answer.of({"message": message, "code": code, **more}, status)


def _invalid(name: str, code: str, message: str) -> Refused:
    errors = {name: {"_errors": [{"code": code, "message": message}]}}
    return Refused(_error(400, 50035, "Invalid Form Body", errors=errors))
