import json

import pytest

from connections.messages import NetworkError, Response
from connections.providers.base import Account, Choice, InvalidFields, NotAuthorized, Outcome, Unsendable
from connections.providers.markup import escape_values
from connections.providers.slack import MAX_TEXT, PROVIDER
from meshes.kit.metering import Meter
from tests.connections.providers.exchanges import PAYLOAD, document_of, headers_of, order, reply, shaped

URL = "https://hooks.slack.com/services/T00000001/B00000001/canary9f3c0000000000000"
TOKEN = "xoxb-canary-9f3c"
BOTH = {"webhook_url": URL, "access_token": TOKEN}
BLOCKS = [{"type": "section", "text": {"type": "mrkdwn", "text": "*New* <https://example.com|lead>"}}]
TOKEN_ENDED = "Slack does not accept the token any more. Connect Slack again, or replace the token."


def webhook(**fields):
    return order(PROVIDER, "send_webhook", {"text": "New lead", **fields}, BOTH)


def message(**fields):
    return order(PROVIDER, "post_message", {"channel": "C123", "text": "New lead", **fields}, BOTH)


def refused(error, action="post_message", **more):
    return PROVIDER.classify(reply(200, {"ok": False, "error": error, **more}), action)


def test_a_webhook_gets_the_text_at_its_own_url():
    request = PROVIDER.build_request(webhook())
    assert (request.method, request.url) == ("POST", URL)
    assert headers_of(request) == {"content-type": "application/json; charset=utf-8"}
    assert document_of(request) == {"text": "New lead", "mrkdwn": False}


def test_a_message_names_its_channel_and_carries_the_token():
    request = PROVIDER.build_request(message(blocks=BLOCKS, thread_ts="1.2", icon_emoji=None))
    assert (request.method, request.url) == ("POST", "https://slack.com/api/chat.postMessage")
    assert headers_of(request) == {
        "content-type": "application/json; charset=utf-8",
        "authorization": f"Bearer {TOKEN}",
    }
    assert document_of(request) == {
        "channel": "C123", "text": "New lead", "mrkdwn": False, "blocks": BLOCKS, "thread_ts": "1.2",
    }  # fmt: skip


@pytest.mark.parametrize("action", ["send_webhook", "post_message"])
def test_a_name_s_marks_are_shown_and_a_rule_may_ask_for_markup(action):
    fields = {"text": "*Approved* by `admin` _ok_ ~x~ <!channel>", "channel": "C123"}
    given = {"access_token": TOKEN, "webhook_url": URL}
    made = document_of(PROVIDER.build_request(order(PROVIDER, action, fields, given)))
    assert (made["text"], made["mrkdwn"]) == ("*Approved* by `admin` _ok_ ~x~ &lt;!channel&gt;", False)
    asked = order(PROVIDER, action, {**fields, "mrkdwn": True}, given)
    assert document_of(PROVIDER.build_request(asked))["mrkdwn"] is True


@pytest.mark.parametrize("mention", ["@here", "@channel", "@Everyone"])
def test_a_payload_s_bare_mention_in_blocks_mentions_nobody(mention):
    escaped = escape_values(f"{mention}, Ada {mention}: ada@here.example", "slack", Meter(1000))
    assert escaped == f"@\u200b{mention[1:]}, Ada @\u200b{mention[1:]}: ada@here.example"


def test_another_host_can_stand_for_slack(monkeypatch):
    monkeypatch.setattr(PROVIDER, "override", "http://127.0.0.1:9")
    assert PROVIDER.build_request(webhook()).url == URL.replace("https://hooks.slack.com", "http://127.0.0.1:9")
    assert PROVIDER.build_request(message()).url == "http://127.0.0.1:9/api/chat.postMessage"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (PAYLOAD, "lead.created: Ada Lovelace, ada@example.com, Engines Ltd"),
        ({"first_name": "Ada", "email": 7, "company": ""}, "lead.created: Ada"),
        ({}, "lead.created"),
        ([1], "lead.created"),
    ],
)
def test_without_a_mapping_the_text_tells_of_the_event(payload, text):
    assert shaped(PROVIDER, "send_webhook", payload) == {"text": text}


def test_a_text_cannot_mention_or_dress_up_a_link():
    request = PROVIDER.build_request(webhook(text="<!channel> & <https://evil.example|your bank>"))
    assert document_of(request)["text"] == "&lt;!channel&gt; &amp; &lt;https://evil.example|your bank&gt;"


def test_blocks_are_the_tenant_s_own_and_go_as_they_are():
    assert document_of(PROVIDER.build_request(webhook(blocks=BLOCKS)))["blocks"] == BLOCKS
    assert "blocks" not in document_of(PROVIDER.build_request(webhook(blocks=[])))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (webhook(text=" "), "field text is required"),
        (webhook(text=None), "field text is required"),
        (message(channel=None), "field channel is required"),
        (webhook(blocks="*bold*"), "blocks must be an array"),
        (webhook(text="x" * (MAX_TEXT + 1)), "has 40,001 characters; Slack takes at most 40,000"),
    ],
)
def test_what_slack_would_refuse_is_not_sent(made, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.build_request(made)


def test_the_longest_text_is_sent():
    assert len(document_of(PROVIDER.build_request(webhook(text="x" * MAX_TEXT)))["text"]) == MAX_TEXT


@pytest.mark.parametrize(
    ("action", "credentials", "missing"),
    [
        ("send_webhook", {"access_token": TOKEN}, "webhook_url"),
        ("post_message", {"webhook_url": URL}, "access_token"),
        ("post_message", {}, "access_token"),
    ],
)
def test_each_action_needs_its_own_credentials(action, credentials, missing):
    with pytest.raises(NotAuthorized, match=missing):
        PROVIDER.build_request(order(PROVIDER, action, {"text": "x", "channel": "C1"}, credentials))


@pytest.mark.parametrize("credentials", [{}, {"access_token": "••••"}, {"webhook_url": "••••"}, BOTH])
def test_one_kind_of_credentials_is_enough_and_none_may_come_later(credentials):
    assert list(PROVIDER.check({}, credentials)) == []


def test_credentials_of_neither_kind_are_refused():
    (problem,) = PROVIDER.check({}, {"access_token": None})
    assert (problem.pointer, problem.rule) == ("/credentials/access_token", "required")


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.slack.com.evil.example/services/T1/B1/x",
        "http://hooks.slack.com/services/T1/B1/x",
        "https://hooks.slack.com/services/T1/B1/x?y=1",
        "https://evil.example/#https://hooks.slack.com/services/T1/B1/x",
    ],
)
def test_only_slack_s_own_urls_are_taken(url):
    with pytest.raises(InvalidFields, match="Must match"):
        PROVIDER.clean_credentials({"webhook_url": url})
    assert PROVIDER.clean_credentials({"webhook_url": URL}) == {"webhook_url": URL}


WEB_API = [
    ("invalid_auth", Outcome.BROKEN, "needs_reauth", "unauthorized", TOKEN_ENDED),
    ("not_authed", Outcome.BROKEN, "needs_reauth", "unauthorized", TOKEN_ENDED),
    ("account_inactive", Outcome.BROKEN, "needs_reauth", "unauthorized", TOKEN_ENDED),
    ("token_revoked", Outcome.BROKEN, "needs_reauth", "unauthorized", TOKEN_ENDED),
    ("token_expired", Outcome.BROKEN, "needs_reauth", "unauthorized", TOKEN_ENDED),
    ("org_login_required", Outcome.RETRY, None, "moving", "moving to an Enterprise organisation"),
    ("team_added_to_org", Outcome.RETRY, None, "moving", "moving to an Enterprise organisation"),
    ("message_limit_exceeded", Outcome.RETRY, None, "quota_limited", "Upgrade its plan"),
    ("external_channel_migrating", Outcome.RETRY, None, "moving", "another workspace"),
    *(
        (code, Outcome.BROKEN, "needs_reauth", "forbidden", "Ask its administrators")
        for code in (
            "access_denied",
            "team_access_not_granted",
            "two_factor_setup_required",
            "enterprise_is_restricted",
            "app_access_restricted",
        )
    ),
    *(
        (code, Outcome.BROKEN, "disabled", "retired", "Meshes must be updated")
        for code in ("deprecated_endpoint", "method_deprecated")
    ),
    *(
        (code, Outcome.REJECTED, None, "rejected", "Map another channel")
        for code in (
            "restricted_action_non_threadable_channel",
            "restricted_action_thread_locked",
            "is_inactive",
            "channel_type_not_supported",
            "messages_tab_disabled",
            "cannot_reply_to_message",
        )
    ),
    *(
        (code, Outcome.REJECTED, None, "rejected", "Shorten it")
        for code in ("msg_blocks_too_long", "metadata_too_large", "attachment_payload_limit_exceeded")
    ),
    ("no_permission", Outcome.REJECTED, None, "rejected", "Invite it there"),
    ("team_not_found", Outcome.REJECTED, None, "rejected", "channel's id"),
    ("invalid_blocks_format", Outcome.REJECTED, None, "rejected", "Mend them"),
    ("missing_scope", Outcome.BROKEN, "needs_reauth", "forbidden", "such as chat:write. Add it"),
    ("not_allowed_token_type", Outcome.BROKEN, "needs_reauth", "forbidden", "Give a bot token"),
    ("ekm_access_denied", Outcome.BROKEN, "needs_reauth", "forbidden", "Ask its administrators"),
    ("accesslimited", Outcome.BROKEN, "needs_reauth", "forbidden", "Ask its administrators"),
    ("restricted_action", Outcome.BROKEN, "needs_reauth", "forbidden", "Ask its administrators"),
    ("restricted_action_read_only_channel", Outcome.REJECTED, None, "rejected", "Map another channel"),
    ("restricted_action_thread_only_channel", Outcome.REJECTED, None, "rejected", "Map another channel"),
    ("channel_not_found", Outcome.REJECTED, None, "rejected", "Map its id"),
    ("not_in_channel", Outcome.REJECTED, None, "rejected", "Invite it there"),
    ("is_archived", Outcome.REJECTED, None, "rejected", "Map another channel"),
    ("msg_too_long", Outcome.REJECTED, None, "rejected", "Shorten it"),
    ("no_text", Outcome.REJECTED, None, "rejected", "Map text"),
    ("invalid_blocks", Outcome.REJECTED, None, "rejected", "Mend them"),
    ("too_many_attachments", Outcome.REJECTED, None, "rejected", "Map fewer"),
    ("internal_error", Outcome.UNCERTAIN, None, "internal_error", "Look before a replay"),
    ("service_unavailable", Outcome.RETRY, None, "server_error", "just now"),
    ("request_timeout", Outcome.RETRY, None, "server_error", "just now"),
    ("ratelimited", Outcome.RETRY, None, "rate_limited", "one message a second"),
    ("rate_limited", Outcome.RETRY, None, "rate_limited", "one message a second"),
    ("fatal_error", Outcome.UNCERTAIN, None, "fatal_error", "Look before a replay"),
    ("restricted_action_of_a_new_kind", Outcome.REJECTED, None, "vendor_error", "restricted_action_of_a_new_kind"),
]


@pytest.mark.parametrize(("error", "outcome", "hold", "error_class", "fix"), WEB_API)
def test_a_200_that_is_not_ok_is_read_by_its_error(error, outcome, hold, error_class, fix):
    verdict = refused(error)
    assert (verdict.outcome, verdict.hold, verdict.error_class) == (outcome, hold, error_class)
    assert fix in verdict.words
    lane_rests = error_class in ("rate_limited", "quota_limited") or "organisation" in verdict.words
    assert verdict.throttled is lane_rests


WEBHOOK = [
    (200, "ok", Outcome.DELIVERED, None, "", ""),
    (400, "invalid_payload", Outcome.REJECTED, None, "rejected", "Mend the rule's mapping"),
    (400, "user_not_found", Outcome.REJECTED, None, "rejected", "Mend the rule's mapping"),
    (400, "missing_text_or_fallback_or_attachments", Outcome.REJECTED, None, "rejected", "Mend the rule's mapping"),
    (400, "no_text", Outcome.REJECTED, None, "rejected", "Map text"),
    (400, "invalid_blocks", Outcome.REJECTED, None, "rejected", "Mend them"),
    (403, "action_prohibited", Outcome.BROKEN, "needs_reauth", "forbidden", "Ask them"),
    (403, "invalid_token", Outcome.BROKEN, "needs_reauth", "unauthorized", "Replace it"),
    (404, "no_service", Outcome.BROKEN, "disabled", "gone", "replace the URL. Slack: “no_service”"),
    (404, "no_team", Outcome.BROKEN, "disabled", "gone", "replace the URL"),
    (404, "channel_not_found", Outcome.BROKEN, "disabled", "gone", "replace the URL"),
    (404, "<html>", Outcome.BROKEN, "disabled", "gone", "replace the URL."),
    (410, "channel_is_archived", Outcome.BROKEN, "disabled", "gone", "Make a webhook for another"),
    (429, "", Outcome.RETRY, None, "rate_limited", "fewer requests"),
    (403, "posting_to_general_channel_denied", Outcome.BROKEN, "needs_reauth", "forbidden", "Ask them"),
    (403, "team_disabled", Outcome.BROKEN, "disabled", "gone", "replace the URL"),
    (403, "no_active_hooks", Outcome.BROKEN, "disabled", "gone", "replace the URL"),
    (400, "no_service_id", Outcome.BROKEN, "disabled", "gone", "replace the URL"),
    (502, "", Outcome.UNCERTAIN, None, "server_error", "may have been done, or not"),
    (504, "", Outcome.UNCERTAIN, None, "server_error", "may have been done, or not"),
    (500, "rollup_error", Outcome.UNCERTAIN, None, "server_error", "may have been done, or not"),
    (200, "", Outcome.UNCERTAIN, None, "unproven", "does not say that it was done"),
    (200, "{}", Outcome.UNCERTAIN, None, "unproven", "does not say that it was done"),
    (200, "<html>", Outcome.UNCERTAIN, None, "unproven", "does not say that it was done"),
    (503, "<html>", Outcome.RETRY, None, "server_error", "just now"),
]


@pytest.mark.parametrize(("status", "body", "outcome", "hold", "error_class", "fix"), WEBHOOK)
def test_a_webhook_s_errors_are_plain_text(status, body, outcome, hold, error_class, fix):
    verdict = PROVIDER.classify(reply(status, body), "send_webhook")
    assert (verdict.outcome, verdict.hold, verdict.error_class) == (outcome, hold, error_class)
    assert fix in verdict.words


def test_slack_s_own_explanations_are_told():
    assert refused("missing_scope", needed="chat:write", provided="channels:read").words.endswith(
        "Slack: “needs chat:write, has channels:read”"
    )
    hints = {"messages": ["[ERROR] missing required field: text"]}
    assert "missing required field" in refused("invalid_blocks", response_metadata=hints).words


@pytest.mark.parametrize("action", ["send_webhook", "post_message"])
def test_retry_after_rests_the_lane(action):
    verdict = PROVIDER.classify(reply(429, {"ok": False, "error": "ratelimited"}, retry_after="30"), action)
    assert (verdict.outcome, verdict.throttled, verdict.retry_after_seconds) == (Outcome.RETRY, True, 30.0)


def test_a_posted_message_is_delivered():
    posted = {"ok": True, "channel": "C123", "ts": "1.2", "message": {"text": "New lead"}}
    assert PROVIDER.classify(reply(200, posted), "post_message").outcome == Outcome.DELIVERED


def test_a_long_answer_that_was_cut_is_read_by_its_beginning():
    whole = json.dumps({"ok": True, "message": "x" * 999}, separators=(",", ":")).encode()
    assert PROVIDER.classify(Response(200, (), whole[:500], True, 1), "post_message").outcome == Outcome.DELIVERED


@pytest.mark.parametrize("body", ["", "<html>", "{}", "ok", '{"ok":'])
def test_a_200_that_does_not_say_so_is_uncertain(body):
    verdict = PROVIDER.classify(reply(200, body), "post_message")
    assert (verdict.outcome, verdict.error_class) == (Outcome.UNCERTAIN, "unproven")
    assert "does not say that it was done" in verdict.words


def test_doubles_are_not_dropped_so_a_lost_answer_stays_uncertain():
    assert [action.idempotent for action in PROVIDER.actions] == [False, False]
    assert (
        PROVIDER.classify(NetworkError("connection_lost", "w", sent=True), "post_message").outcome == Outcome.UNCERTAIN
    )


def test_the_test_asks_whose_token_it_is():
    request = PROVIDER.build_test(message())
    assert (request.method, request.url, request.body) == ("POST", "https://slack.com/api/auth.test", b"")
    assert headers_of(request) == {"authorization": f"Bearer {TOKEN}"}
    answer = reply(200, {"ok": True, "team": "Engines", "team_id": "T1", "user_id": "U1"})
    assert PROVIDER.classify_test(answer).outcome == Outcome.DELIVERED
    assert PROVIDER.read_account(answer) == Account("T1", "Engines")
    assert PROVIDER.read_account(reply(200, "ok")) is None
    assert PROVIDER.classify_test(reply(200, {"ok": False, "error": "invalid_auth"})).hold == "needs_reauth"
    assert PROVIDER.classify_test(reply(200, "")).outcome == Outcome.UNCERTAIN


def test_a_webhook_s_url_alone_has_no_test():
    assert PROVIDER.build_test(order(PROVIDER, "send_webhook", {}, {"webhook_url": URL})) is None
    assert "incoming webhook's URL cannot be tested" in PROVIDER.test


def test_channels_are_offered():
    request = PROVIDER.build_options("channel", message())
    assert (request.method, request.url) == (
        "GET",
        "https://slack.com/api/conversations.list?exclude_archived=true&limit=1000",
    )
    assert headers_of(request) == {"authorization": f"Bearer {TOKEN}"}
    answer = reply(200, {"ok": True, "channels": [{"id": "C1", "name": "sales"}, {"id": "C2", "name": "leads"}]})
    assert PROVIDER.read_options("channel", answer) == [Choice("C1", "#sales"), Choice("C2", "#leads")]
    with pytest.raises(Unsendable, match="could not be read"):
        PROVIDER.read_options("channel", reply(200, "<html>"))
    with pytest.raises(KeyError):
        PROVIDER.build_options("text", message())


def test_slack_takes_about_one_message_a_second():
    assert (PROVIDER.limits.in_flight, PROVIDER.limits.rate) == (2, 1)


def test_every_declared_error_is_tested():
    assert set(PROVIDER.answers) <= {row[0] for row in WEB_API} | {each for row in WEBHOOK for each in row[:2]}
