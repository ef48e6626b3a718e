"""Slack (docs.slack.dev): messages by an incoming webhook, or with a bot's token by chat.postMessage.

`text` is escaped as Slack asks for, and goes with `mrkdwn: false`: nothing that a payload holds can mention a channel,
dress up a link or become bold (docs.slack.dev, "Formatting message text"). Who wants Slack's own markup maps `blocks`.
There a text object of type mrkdwn has no escape for `*`, `_`, `~` and backticks, so that a payload's value in it can be
emphasized, and no more; in one of type plain_text nothing is markup. The Web API answers 200 also where it refuses:
`ok` decides. Slack drops no doubles, so an attempt with an unknown end is not made again.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from connections.messages import OutboundError, Request, Response
from connections.providers.answers import text_at
from connections.providers.base import Action, Choice, Limits, MappingField, OAuth, Shipment
from connections.providers.chat import SUMMARY, escaped, few, webhook_url
from connections.providers.fields import FieldProblem, access_token
from connections.providers.markup import escape_slack
from connections.providers.vendor import Vendor, json_request, listed, revealed, url_part, without_nulls
from connections.providers.verdicts import Verdict, disabled, reauthorize, rejected, retry, throttled, uncertain

MAX_TEXT = 40_000
"""Characters of a text; Slack cuts what is longer."""
MAX_BLOCKS = 50
MESSAGE = (
    MappingField(
        "text", "Text", required=True, source=SUMMARY,
        help="Shown as it is: no links with a name, no mentions, no markup. With blocks it is what notifications show.",
    ),
    MappingField(
        "blocks", "Blocks", type="array", markup="slack",
        help="Block Kit, at most 50. Markup in it works; what it takes from a payload is escaped, but for emphasis by"
        " asterisks, underscores, tildes and backticks, which Slack has no escape for: plain_text objects show all.",
    ),
)  # fmt: skip
BROKE_DOWN = "Slack broke down on it: the message may be there. Look before a replay."
_WORD = re.compile(rb"[a-z_]{1,64}")


class Slack(Vendor):
    slug = "slack"
    name = "Slack"
    description = "Posts messages to Slack channels, by an incoming webhook or as an app."
    docs_url = "https://docs.slack.dev"
    auth = "oauth2"
    oauth = OAuth(
        authorize_url="https://slack.com/oauth/v2/authorize",
        token_url="https://slack.com/api/oauth.v2.access",  # noqa: S106  (no secret)
        revoke_url="https://slack.com/api/auth.revoke",
        scopes=("chat:write", "channels:read"),
        scope_separator=",",
        pkce=False,  # Slack has it for apps without a secret
        ends_with=frozenset({"invalid_grant", "invalid_refresh_token", "token_revoked", "account_inactive"}),
        revoke_with="bearer",
        shares_tokens=True,
    )
    base_urls = {"": "https://slack.com/api"}
    credential_fields = (
        access_token("xoxb-…, with chat:write. For “Post a message”.", "Bot token"),
        webhook_url(
            "Incoming webhook's URL", r"https://hooks\.slack\.com/services/[A-Za-z0-9/]+",
            "https://hooks.slack.com/services/T########/B########/################",
            "Of one channel. For “Send to an incoming webhook”.", required=False,
        ),
    )  # fmt: skip
    actions = (
        Action(
            "send_webhook", "Send to an incoming webhook", False, fields=MESSAGE, is_open=True,
            help="To the one channel that the webhook's URL stands for.",
        ),
        Action(
            "post_message", "Post a message", False, is_open=True,
            fields=(
                MappingField("channel", "Channel", required=True, help="A channel's id; the app must be in it."),
                *MESSAGE,
            ),
        ),
    )  # fmt: skip
    limits = Limits(in_flight=2, rate=1)
    content_type = "application/json; charset=utf-8"
    account_at = (("team_id",), ("team",))
    granted_account_at = (("reply", "team", "id"), ("reply", "team", "name"))
    live_options = {"channel": "Public channels"}
    test = (
        "Asks Slack whose token it is; posts nothing. An incoming webhook's URL cannot be tested: "
        "Slack offers no check for it but a message."
    )
    answers = {
        ("invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired"): reauthorize(
            "Slack does not accept the token any more. Connect Slack again, or replace the token."),
        ("team_added_to_org", "org_login_required"): throttled(
            "The Slack workspace is moving to an Enterprise organisation.", "moving", 300.0),
        "external_channel_migrating": retry("The Slack channel is moving to another workspace.", "moving"),
        "message_limit_exceeded": throttled(
            "The Slack workspace has used up its messages. Upgrade its plan, or wait.", "quota_limited", 3600.0),
        "missing_scope": reauthorize(
            "The Slack app lacks a permission, such as chat:write. Add it and connect Slack again.", "forbidden"),
        "not_allowed_token_type": reauthorize(
            "Slack does not take this kind of token here. Give a bot token (xoxb-…).", "forbidden"),
        (
            "ekm_access_denied", "accesslimited", "access_denied", "restricted_action", "team_access_not_granted",
            "two_factor_setup_required", "enterprise_is_restricted", "app_access_restricted",
        ): reauthorize("The Slack workspace's rules forbid the app to post. Ask its administrators.", "forbidden"),
        (
            "restricted_action_read_only_channel", "restricted_action_thread_only_channel",
            "restricted_action_non_threadable_channel", "restricted_action_thread_locked", "is_inactive",
            "channel_type_not_supported", "messages_tab_disabled", "cannot_reply_to_message",
        ): rejected("This Slack channel does not let the app post. Map another channel."),
        ("deprecated_endpoint", "method_deprecated"): disabled(
            "Slack no longer offers this call: Meshes must be updated.", "retired"),
        "channel_not_found": rejected("Slack does not know this channel, or the app may not see it. Map its id."),
        ("not_in_channel", "no_permission"): rejected(
            "The app is not in this Slack channel. Invite it there, then replay."),
        "team_not_found": rejected("Slack needs the channel's id, not its name. Map it."),
        "is_archived": rejected("This Slack channel is archived. Map another channel."),
        ("msg_too_long", "msg_blocks_too_long", "metadata_too_large", "attachment_payload_limit_exceeded"): rejected(
            "The message is too long for Slack. Shorten it in the rule's mapping."),
        "no_text": rejected("The message has no text. Map text."),
        ("invalid_blocks", "invalid_blocks_format"): rejected(
            "Slack does not accept the blocks. Mend them in the rule's mapping."),
        "too_many_attachments": rejected("The message has too many attachments. Map fewer."),
        ("ratelimited", "rate_limited"): throttled("Slack takes about one message a second."),
        ("service_unavailable", "request_timeout"): retry("Slack cannot take it just now."),
        "fatal_error": uncertain(BROKE_DOWN, "fatal_error"),
        "internal_error": uncertain(BROKE_DOWN, "internal_error"),
        ("invalid_payload", "user_not_found", "missing_text_or_fallback_or_attachments"): rejected(
            "Slack cannot read the message. Mend the rule's mapping."),
        "invalid_token": reauthorize("Slack does not accept the webhook's URL any more. Replace it by a new one."),
        "posting_to_general_channel_denied": reauthorize(
            "Slack's administrators keep this channel for some people. Ask them, or use another webhook.", "forbidden"),
        ("team_disabled", "no_active_hooks", "no_service", "no_service_id", "no_team"): disabled(
            "The webhook, or its Slack workspace, is gone. Make a new one and replace the URL."),
        "action_prohibited": reauthorize("Slack's administrators forbid this webhook to post. Ask them.", "forbidden"),
        404: disabled("The webhook, or its Slack workspace or channel, is gone. Make a new one and replace the URL."),
        410: disabled("The webhook's Slack channel is archived. Make a webhook for another and replace the URL."),
    }  # fmt: skip

    def check(self, config: Mapping[str, Any], credentials: Mapping[str, Any]) -> Sequence[FieldProblem]:
        if credentials and not any(credentials.get(key) for key in ("access_token", "webhook_url")):
            return [FieldProblem("/credentials/access_token", "Give a bot token or a webhook's URL.", "required")]
        return ()

    def build_request(self, shipment: Shipment) -> Request:
        fields = self.fields(shipment)
        text, blocks = fields.needed("text"), fields.array("blocks")
        text = escaped(text, escape_slack, MAX_TEXT, self.name)
        few("blocks", blocks, MAX_BLOCKS, self.name)
        message = without_nulls({"mrkdwn": False, **fields, "text": text, "blocks": blocks or None})
        if shipment.action == "send_webhook":
            url = self.moved(revealed(shipment, "webhook_url"))
            return json_request("POST", url, message, content_type=self.content_type)
        message["channel"] = fields.needed("channel")
        return self.call("POST", "/chat.postMessage", shipment, message)

    def is_done(self, response: Response, action: str) -> bool:
        """A webhook answers `ok` and no more; the Web API repeats the message, so a long answer of it may be cut."""
        if action == "send_webhook":
            return response.body.strip() == b"ok"
        return response.json_object().get("ok") is True or response.body.startswith(b'{"ok":true,')

    def error_of(self, response: Response) -> tuple[str, str]:
        document = response.json_object()
        if document.get("ok") is True:
            return "", ""
        if "ok" in document:
            scope, has = text_at(document, "needed"), text_at(document, "provided") or "nothing"
            message = f"needs {scope}, has {has}" if scope else text_at(document, "response_metadata", "messages", 0)
            return text_at(document, "error") or "error", message
        word = _WORD.fullmatch(response.body.strip())
        if word is None or response.status < 300:
            return "", ""
        code = word[0].decode()
        return ("", code) if response.status in (404, 410) else (code, "")  # a webhook's channel_not_found is its own

    def build_test(self, shipment: Shipment) -> Request | None:
        return self.call("POST", "/auth.test", shipment) if "access_token" in shipment.credentials else None

    def classify_test(self, answer: Response | OutboundError) -> Verdict:
        if isinstance(answer, Response) and answer.status >= 300:
            return super().classify_test(answer)
        return self.classify(answer, "post_message")

    def is_unauthorized(self, response: Response) -> bool:
        return self.error_of(response)[0] in ("token_expired", "invalid_auth", "token_revoked")

    def build_options(self, field: str, shipment: Shipment, cursor: str = "") -> Request:
        path = {"channel": "/conversations.list?exclude_archived=true&limit=1000"}[field]
        return self.call("GET", f"{path}&cursor={url_part(cursor)}" if cursor else path, shipment)

    def options_cursor(self, field: str, response: Response) -> str:
        return text_at(response, "response_metadata", "next_cursor")

    def read_options(self, field: str, response: Response) -> list[Choice]:
        return [Choice(text_at(row, "id"), "#" + text_at(row, "name")) for row in listed(response, "channels")]


PROVIDER = Slack()
