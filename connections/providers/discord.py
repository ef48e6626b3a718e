"""Discord (discord.com/developers): messages by a channel's webhook.

Discord counts every 401, 403 and 429 against the address that they go to: 10,000 in ten minutes, and it blocks that
address, for all tenants. So 401, 403 and 404 take the connection out of service at the first one, a lane rests as soon
as its limit is used up, and all lanes together stay below the 50 requests a second that Discord takes from one address.
Nothing in a text can ping people. Discord drops no doubles.
"""

from connections.messages import Request, Response
from connections.providers.base import (
    Account,
    Action,
    Field,
    Limits,
    MappingField,
    Shipment,
    Unsendable,
    disabled,
    reauthorize,
    rejected,
    throttled,
)
from connections.providers.vendor import (
    SUMMARY,
    Vendor,
    VendorError,
    array_in,
    fields_of,
    given,
    json_request,
    needed,
    number_header,
    read_object,
    revealed,
    text_at,
    without_nulls,
)

MAX_CONTENT = 2000
MAX_EMBEDS = 10
REPLACE = "Make a new webhook in the channel's settings and replace the URL."


class Discord(Vendor):
    slug = "discord"
    name = "Discord"
    description = "Posts messages to a Discord channel by its webhook."
    docs_url = "https://discord.com/developers/docs/resources/webhook"
    auth = "url"
    credential_fields = (
        Field(
            "webhook_url", "Webhook's URL", type="url", required=True, sensitive=True,
            pattern=r"https://(ptb\.|canary\.)?discord(app)?\.com/api/(v[0-9]+/)?webhooks/[0-9]+/[A-Za-z0-9_-]+"
            r"(\?thread_id=[0-9]+)?",
            example="https://discord.com/api/webhooks/1234567890123/################################",
            help="From the channel's settings; ?thread_id=… at its end posts to a thread.",
        ),
    )  # fmt: skip
    actions = (
        Action(
            "send_message", "Send a message", False, help="Mentions in it ping nobody.",
            fields=(
                MappingField(
                    "content", "Text", required=True, source=SUMMARY,
                    help="At most 2,000 characters. A longer one is not cut but refused: shorten it by substring.",
                ),
                MappingField("embeds", "Embeds", type="array", help="At most ten, by Discord's own names."),
                MappingField("username", "Sender's name", help="Instead of the webhook's own."),
            ),
        ),
    )  # fmt: skip
    limits = Limits(in_flight=2, rate=2)
    system_limits = Limits(rate=45)
    test = "Asks Discord for the webhook's details; posts nothing."
    answers = {
        "global": throttled("Discord asks this whole system for fewer requests (429).", "rate_limited_globally"),
        400: rejected("Discord refuses the message. Mend the rule's mapping."),
        401: reauthorize(f"Discord does not accept the webhook's token. {REPLACE}"),
        403: reauthorize(f"Discord does not let this webhook post. {REPLACE}", "forbidden"),
        **dict.fromkeys((404, 410), disabled(f"The Discord webhook has been deleted. {REPLACE}")),
    }

    def build_request(self, shipment: Shipment) -> Request:
        fields = fields_of(shipment)
        content, embeds = needed(fields, "content"), array_in(fields, "embeds")
        if len(content) > MAX_CONTENT:
            raise Unsendable(
                f"The text has {len(content):,} characters; Discord takes at most {MAX_CONTENT:,}. "
                "Shorten it in the rule's mapping by the transform substring."
            )
        if len(embeds) > MAX_EMBEDS:
            raise Unsendable(f"The message has {len(embeds)} embeds; Discord takes at most {MAX_EMBEDS}.")
        message: dict[str, object] = {
            "content": content,
            "embeds": embeds or None,
            "username": given(fields, "username"),
            "allowed_mentions": {"parse": []},
        }
        url = self._url(shipment)
        return json_request("POST", f"{url}{'&' if '?' in url else '?'}wait=true", without_nulls(message))

    def error_of(self, response: Response) -> VendorError:
        if response.status < 400:
            return VendorError()
        document = read_object(response)
        code = "global" if document.get("global") is True else text_at(document, "code")
        return VendorError(code, text_at(document, "message"))

    def rest_of(self, response: Response) -> float | None:
        wait = read_object(response).get("retry_after") if response.status == 429 else None
        if isinstance(wait, int | float) and not isinstance(wait, bool) and wait > 0:
            return float(wait)
        if number_header(response, "x-ratelimit-remaining") != 0:
            return None
        return number_header(response, "x-ratelimit-reset-after")

    def build_test(self, shipment: Shipment) -> Request:
        return json_request("GET", self._url(shipment), None)

    def read_account(self, response: Response) -> Account | None:
        document = read_object(response)
        webhook = text_at(document, "id")  # limits are the webhook's, not the server's
        return Account(webhook, text_at(document, "name")) if webhook else None

    def _url(self, shipment: Shipment) -> str:
        return self.moved(revealed(shipment, "webhook_url"))


PROVIDER = Discord()
