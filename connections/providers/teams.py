"""Microsoft Teams: messages by a flow of Power Automate that begins with “When a Teams webhook request is received”.

The flow takes a message and runs afterwards, so an accepted one can still fail there; its history in Power Automate
tells. The URLs of Office 365 connectors (webhook.office.com) and older ones of flows (logic.azure.com) have been
retired.
"""

import re
from typing import Any

from connections.messages import Request, Response
from connections.providers.answers import is_no_page
from connections.providers.base import Action, Limits, MappingField, Shipment
from connections.providers.chat import SUMMARY, webhook_url
from connections.providers.fields import Unsendable
from connections.providers.markup import escape_markdown
from connections.providers.vendor import Vendor, json_request, limited, revealed
from connections.providers.verdicts import disabled, reauthorize, rejected, throttled

CARD = "AdaptiveCard"
MAX_BODY = 28_000
"""Bytes of a message; no text is escaped that has more characters."""


class Teams(Vendor):
    slug = "teams"
    name = "Microsoft Teams"
    description = "Posts adaptive cards to Microsoft Teams by a flow of Power Automate (Workflows)."
    docs_url = (
        "https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/add-incoming-webhook"
    )
    auth = "url"
    credential_fields = (
        webhook_url(
            "Flow's URL",
            r"https://[A-Za-z0-9.-]+\.environment\.api\.powerplatform\.com(:443)?/[!-~]+",
            "https://default1234.56.environment.api.powerplatform.com/powerautomate/automations/direct/"
            "workflows/################/triggers/manual/paths/invoke?api-version=1&sig=################",
            "Of the flow's trigger, which must let Anyone trigger it. One of webhook.office.com or logic.azure.com"
            " has stopped: copy it anew from the flow, or make a new flow.",
        ),
    )
    actions = (
        Action(
            "send_message", "Send a message", False,
            help="Accepted is not yet posted: the flow runs afterwards.",
            fields=(
                MappingField("text", "Text", required=True, source=SUMMARY, help="Its markup is escaped."),
                MappingField("title", "Title", help="In bold, above the text."),
                MappingField(
                    "card", "Card", type="object", markup="markdown",
                    help="An adaptive card of your own, instead of the two. What it takes from a payload is escaped.",
                ),
            ),
        ),
    )  # fmt: skip
    limits = Limits(in_flight=4, body_bytes=MAX_BODY)
    test = "Microsoft offers no check of a flow's URL but a message. Replay a delivery to see one arrive."
    answers = {
        ("WorkflowTriggerIsNotEnabled", "WorkflowDisabled", "WorkflowSuspended"): disabled(
            "The flow is turned off. Turn it on in Power Automate, then resume."),
        ("WorkflowNotFound", "WorkflowTriggerNotFound", 404, 410): disabled(
            "The flow has been deleted or moved. Make a new one and replace the URL."),
        (
            "WorkflowRunRateLimitExceeded", "WorkflowTriggerRequestRateLimitExceeded",
            "WorkflowActionRateLimitExceeded",
        ): throttled("The flow takes no more messages just now.", seconds=60),
        ("MissingApiVersionParameter", "InvalidApiVersionParameter"): disabled(
            "The flow's URL is not whole. Copy it anew from the flow and replace it."),
        400: rejected("The flow does not accept the message. Mend the rule's mapping, or the flow's trigger."),
        401: reauthorize(
            "The flow does not accept this URL. Let Anyone trigger the flow, or copy its URL anew and replace it."),
        403: reauthorize(
            "The flow refuses this URL. Let Anyone trigger the flow, or copy its URL anew and replace it.",
            "forbidden"),
        413: rejected("The message is too large for Teams. Shorten it in the rule's mapping."),
    }  # fmt: skip
    code_at, message_at = ("error", "code"), ("error", "message")

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        for key in ("title", "text"):
            limited(key, fields.given(key) or "", MAX_BODY, self.name, shortest=0)
        card = fields.object("card")
        if card.get("type", CARD) != CARD:
            raise Unsendable(f"The field card must be an adaptive card: an object whose type is {CARD}.")
        attachment = {
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": None,
            "content": {"type": CARD, **card} if card else _card(fields.given("title"), fields.needed("text")),
        }
        url = self.moved(revealed(shipment, "webhook_url"))
        return json_request("POST", url, {"type": "message", "attachments": [attachment]})

    def is_done(self, response: Response, action: str) -> bool:
        """A flow answers nothing (202), or whatever its owner has it answer."""
        return is_no_page(response)

    def error_of(self, response: Response) -> tuple[str, str]:
        """A redirect's body is another's."""
        return super().error_of(response) if response.status >= 400 else ("", "")


def _plain(text: str) -> str:
    """A text block's text that shows as it is; Teams begins a new line only at an empty one."""
    escaped = escape_markdown(text.replace("\r\n", "\n").replace("\r", "\n"))
    return re.sub(r"\s++", lambda spaces: "\n\n" if "\n" in spaces[0] else spaces[0], escaped)


def _card(title: str | None, text: str) -> dict[str, Any]:
    heading = [{"type": "TextBlock", "text": _plain(title or ""), "weight": "Bolder", "size": "Medium", "wrap": True}]
    return {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": CARD,
        "version": "1.4",
        "body": [*(heading if title else []), {"type": "TextBlock", "text": _plain(text), "wrap": True}],
    }


PROVIDER = Teams()
