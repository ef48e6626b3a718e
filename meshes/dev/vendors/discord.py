"""Discord webhooks (discord.com/developers): messages of a channel's webhook, whose URL is the secret."""

from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason, RefusedError
from meshes.dev.vendors.server import VendorServer, limit_names, route, whole

MAX_CONTENT, MAX_EMBEDS, MAX_USERNAME = 2000, 10, 80
WEBHOOK = r"/api(?:/v[0-9]+)?/webhooks/{key}/{secret}"


@dataclass
class Channel:
    messages: list[dict[str, Any]] = field(default_factory=list)


class Discord(VendorServer[Channel]):
    """An account is a webhook's id, and its token the second part of the URL."""

    slug, account, developer_token, new_account = "discord", "1234567890123456789", "discordWebhookToken", Channel
    error_codes, default_error = {Reason.MALFORMED: 50109}, 0
    rate_headers = {
        **limit_names("x-ratelimit", "{ends_at:.3f}"),
        "x-ratelimit-reset-after": "{seconds_left:.3f}",
        "x-ratelimit-bucket": "webhook",
    }

    @property
    def webhook_url(self) -> str:
        return f"https://discord.com/api/webhooks/{self.account}/{self.token}"

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of({"message": message, "code": code, **more}, status)

    def refusal(self, reason: Reason, status: int, message: str, seconds: float = 0.0) -> Answer:
        if reason is not Reason.THROTTLED:
            return super().refusal(reason, status, message)
        said = {"message": "You are being rate limited.", "retry_after": round(seconds, 3), "global": False}
        return Answer.of(said, 429, retry_after=whole(seconds))

    @route("POST", WEBHOOK, "url")
    def execute(self, call: Call, key: str, secret: str) -> Answer:
        channel, message = self._channel(key, secret), self.read_object(call)
        self._check(message)
        channel.messages.append(message)
        message_id = str(9_000_000 + len(channel.messages))
        if call.query.get("wait") != "true":
            return Answer(204)
        posted = {"id": message_id, "type": 0, "webhook_id": key}
        return Answer.of({**posted, "content": message.get("content", ""), "embeds": message.get("embeds", [])})

    @route("GET", WEBHOOK, "url")
    def describe(self, call: Call, key: str, secret: str) -> Answer:
        self._channel(key, secret)
        return Answer.of({"id": key, "type": 1, "name": "Leads", "channel_id": "1", "guild_id": "2", "token": secret})

    def _channel(self, key: str, secret: str) -> Channel:
        self.refuse_if(key not in self.tokens.values(), 404, 10015, "Unknown Webhook")
        self.refuse_if(self.tokens.get(secret) != key, 401, 50027, "Invalid Webhook Token")
        return self.account_state(key)

    def _check(self, message: dict[str, Any]) -> None:
        content, embeds = message.get("content", ""), message.get("embeds", [])
        if not isinstance(content, str) or len(content) > MAX_CONTENT:
            raise self._invalid("content", "BASE_TYPE_MAX_LENGTH", f"Must be {MAX_CONTENT} or fewer in length.")
        if not isinstance(embeds, list) or len(embeds) > MAX_EMBEDS:
            raise self._invalid("embeds", "BASE_TYPE_MAX_LENGTH", f"Must be {MAX_EMBEDS} or fewer in length.")
        if len(str(message.get("username", ""))) > MAX_USERNAME:
            raise self._invalid("username", "BASE_TYPE_BAD_LENGTH", f"Must be between 1 and {MAX_USERNAME} in length.")
        self.refuse_if(not content and not embeds, 400, 50006, "Cannot send an empty message")

    def _invalid(self, name: str, code: str, message: str) -> RefusedError:
        errors = {name: {"_errors": [{"code": code, "message": message}]}}
        return self.refused(400, 50035, "Invalid Form Body", errors=errors)
