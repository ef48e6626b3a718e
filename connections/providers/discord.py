"""Discord (discord.com/developers): messages by a channel's webhook.

Discord counts every 401, 403 and 429 against the address that they go to: 10,000 in ten minutes, and it blocks that
address, for all tenants. So 401, 403 and 404 take the connection out of service at the first one, a lane rests as soon
as its limit is used up, and all lanes together stay below the 50 requests a second that Discord takes from one address.
A 403 of Cloudflare, which stands before Discord, is another matter: it passes. Nothing in a text can ping people or
become markup. Discord drops no doubles.
"""

import re
from typing import Any

from connections.messages import USER_AGENT, Request, Response
from connections.providers.answers import rows_at, text_at
from connections.providers.base import Action, Limits, MappingField, Shipment
from connections.providers.chat import SUMMARY, escaped, few, webhook_url
from connections.providers.fields import Unsendable
from connections.providers.markup import escape_markdown
from connections.providers.vendor import Vendor, json_request, revealed, without_nulls
from connections.providers.verdicts import disabled, reauthorize, rejected, retry, throttled

MAX_CONTENT = 2000
MAX_EMBEDS = 10
MAX_EMBED_TEXTS = 6000
"""Characters of all embeds' titles, descriptions, fields, footers and authors together."""
MAX_EMBED_FIELDS = 25
LONGEST: dict[tuple[str, ...], int] = {
    ("title",): 256, ("description",): 4096, ("footer", "text"): 2048, ("author", "name"): 256,
}  # fmt: skip
LONGEST_FIELD = {"name": 256, "value": 1024}
MAX_DEPTH = 20
MAX_NAME = 80
CLOUDFLARE = "40333"
BLOCKED_SECONDS = 300.0
_ADDRESS = re.compile(r"https://(ptb\.|canary\.)?discord(?:app)?\.com/api/(?:v[0-9]+/)?")
_NAME_PARTS = re.compile(r"discord|clyde", re.IGNORECASE)
REPLACE = "Make a new webhook in the channel's settings and replace the URL."


class Discord(Vendor):
    slug = "discord"
    name = "Discord"
    description = "Posts messages to a Discord channel by its webhook."
    docs_url = "https://discord.com/developers/docs/resources/webhook"
    auth = "url"
    credential_fields = (
        webhook_url(
            "Webhook's URL",
            r"https://(ptb\.|canary\.)?discord(app)?\.com/api/(v[0-9]+/)?webhooks/[0-9]+/[A-Za-z0-9_-]+"
            r"(\?thread_id=[0-9]+)?",
            "https://discord.com/api/webhooks/1234567890123/################################",
            "From the channel's settings; ?thread_id=… at its end posts to a thread.",
        ),
    )
    actions = (
        Action(
            "send_message", "Send a message", False, help="Mentions in it ping nobody.",
            fields=(
                MappingField(
                    "content", "Text", required=True, source=SUMMARY,
                    help="Its markup is escaped. At most 2,000 characters with that: shorten it by substring.",
                ),
                MappingField(
                    "embeds", "Embeds", type="array", markup="markdown",
                    help="At most ten, by Discord's own names. Markup in them works; what they take from a payload is"
                    " escaped.",
                ),
                MappingField("username", "Sender's name", help="Instead of the webhook's own."),
            ),
        ),
    )  # fmt: skip
    limits = Limits(in_flight=2, rate=2)
    system_limits = Limits(rate=45)
    limit_headers = ("x-ratelimit-remaining", "x-ratelimit-reset-after", None)
    account_at = (("id",), ("name",))  # limits are the webhook's, not the server's
    test = "Asks Discord for the webhook's details; posts nothing."
    answers = {
        "global": throttled("Discord asks this whole system for fewer requests (429).", "rate_limited_globally"),
        CLOUDFLARE: throttled("Cloudflare, before Discord, blocks our requests for now.", "blocked", BLOCKED_SECONDS),
        ("130000", "110000"): retry("Discord is overloaded just now."),
        ("20028", "20029", "40062"): throttled("Discord takes no more messages in this channel just now."),
        ("50083", "160005"): disabled(
            "The thread of the webhook's URL is archived or locked. Open it in Discord, then resume."),
        "40067": disabled("The webhook's forum asks for a tag on every post. Replace the URL by one of a thread's."),
        "220001": disabled("The webhook's channel is a forum: replace the URL by one that ends with ?thread_id=…"),
        400: rejected("Discord refuses the message. Mend the rule's mapping."),
        401: reauthorize(f"Discord does not accept the webhook's token. {REPLACE}"),
        403: reauthorize(f"Discord does not let this webhook post. {REPLACE}", "forbidden"),
        (404, 410): disabled(f"The Discord webhook has been deleted. {REPLACE}"),
    }  # fmt: skip

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        advice = " Shorten it in the rule's mapping by the transform substring."
        content = escaped(fields.needed("content"), escape_markdown, MAX_CONTENT, self.name, advice)
        username, embeds = fields.given("username"), few("embeds", fields.array("embeds"), MAX_EMBEDS, self.name)
        _check_embeds(embeds)
        if username and (len(username) > MAX_NAME or _NAME_PARTS.search(username)):
            raise Unsendable(
                f"Discord takes a username of at most {MAX_NAME} characters, without “discord” or “clyde”."
            )
        message = {"content": content, "embeds": embeds or None, "username": username}
        url = self._url(shipment)
        document = without_nulls(message) | {"allowed_mentions": {"parse": []}}
        return self._ask("POST", f"{url}{'&' if '?' in url else '?'}wait=true", document)

    def error_of(self, response: Response) -> tuple[str, str]:
        document = response.json_object() if response.status >= 400 else {}
        if response.status == 403 and not document:  # Discord's own are JSON
            return CLOUDFLARE, ""
        code = "global" if document.get("global") is True else text_at(document, "code")
        return code, first_nested(document.get("errors")) or text_at(document, "message")

    def is_done(self, response: Response, action: str) -> bool:
        """The message is named, as `wait` asks for."""
        return response.status == 204 or text_at(response, "id") != ""

    def rest_of(self, response: Response) -> float | None:
        wait = response.json_object().get("retry_after") if response.status == 429 else None
        if isinstance(wait, int | float) and not isinstance(wait, bool) and wait > 0:
            return float(wait)
        return super().rest_of(response)

    def build_test(self, shipment: Shipment) -> Request:
        return self._ask("GET", self._url(shipment), None)

    def _url(self, shipment: Shipment) -> str:
        """The webhook's URL at the version of the API that this file speaks."""
        url = revealed(shipment, "webhook_url")
        return self.moved(_ADDRESS.sub(lambda found: f"https://{found[1] or ''}discord.com/api/v10/", url, count=1))

    def _ask(self, method: str, url: str, document: object) -> Request:
        """With the agent's name as Discord asks for (discord.com/developers/docs/reference, "User Agent"): where the
        installation is reached, and the version. Cloudflare blocks others."""
        name, _, version = USER_AGENT.partition("/")
        agent = f"DiscordBot ({self.public_url or name}, {version})"
        return json_request(method, url, document, ("user-agent", agent))


def first_nested(errors: object, path: str = "") -> str:
    """The first of a form's errors, which lie below the names of their fields: `embeds.0.title: too long`."""
    if not isinstance(errors, dict):
        return ""
    if message := text_at(errors, "_errors", 0, "message"):
        return f"{path}: {message}" if path else message
    deeper = (first_nested(below, f"{path}.{key}".lstrip(".")) for key, below in list(errors.items())[:100])
    return next(filter(None, deeper), "") if path.count(".") < MAX_DEPTH else ""


def _check_embeds(embeds: list[Any]) -> None:
    """Raises Unsendable for one that is longer than Discord takes."""
    total = 0
    for number, embed in enumerate(embeds):
        if not isinstance(embed, dict):
            raise Unsendable("The field embeds must be an array of objects.")
        fields = rows_at(embed, "fields")
        if len(fields) > MAX_EMBED_FIELDS:
            raise Unsendable(f"embeds.{number} has {len(fields)} fields; Discord takes at most {MAX_EMBED_FIELDS}.")
        texts = [(path, text_at(embed, *path)) for path in LONGEST] + [
            ((key,), text_at(field, key)) for field in fields for key in ("name", "value")
        ]
        for path, text in texts:
            if len(text) > LONGEST.get(path, LONGEST_FIELD.get(path[0], 0)):
                raise Unsendable(f"embeds.{number}: {'.'.join(path)} is longer than Discord takes. Shorten it.")
        total += sum(len(text) for _, text in texts)
    if total > MAX_EMBED_TEXTS:
        raise Unsendable(f"The embeds have {total:,} characters; Discord takes at most {MAX_EMBED_TEXTS:,}.")


PROVIDER = Discord()
