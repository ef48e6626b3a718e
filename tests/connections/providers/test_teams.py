import pytest

from connections.conversation import Redactor
from connections.messages import NetworkError
from connections.providers.base import InvalidFields, NotAuthorized, Outcome, Unsendable
from connections.providers.teams import PROVIDER
from tests.connections.providers.exchanges import PAYLOAD, document_of, headers_of, order, reply, shaped

SIGNATURE = "canary-9f3c-0123456789"
URL = (
    "https://default1a2b.3c.environment.api.powerplatform.com:443/powerautomate/automations/direct/workflows/"
    f"0a1b2c/triggers/manual/paths/invoke?api-version=1&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig={SIGNATURE}"
)
CARD = {"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlock", "text": "Mine"}]}


def message(**fields):
    return order(PROVIDER, "send_message", {"text": "New lead", **fields}, {"webhook_url": URL})


def card_of(request):
    (attachment,) = document_of(request)["attachments"]
    return attachment["content"]


def test_a_text_goes_as_an_adaptive_card_to_the_flow():
    request = PROVIDER.build_request(message())
    assert (request.method, request.url) == ("POST", URL)
    assert headers_of(request) == {"content-type": "application/json"}
    assert document_of(request) == {
        "type": "message",
        "attachments": [
            {
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": None,
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                    "type": "AdaptiveCard",
                    "version": "1.4",
                    "body": [{"type": "TextBlock", "text": "New lead", "wrap": True}],
                },
            }
        ],
    }


def test_a_title_stands_above_the_text():
    assert card_of(PROVIDER.build_request(message(title="CRM")))["body"] == [
        {"type": "TextBlock", "text": "CRM", "weight": "Bolder", "size": "Medium", "wrap": True},
        {"type": "TextBlock", "text": "New lead", "wrap": True},
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[Verify](https://evil.example)", r"\[Verify\](https://evil.example)"),
        ("one\ntwo\r\nthree\r\n\r\nfour", "one\n\ntwo\n\nthree\n\nfour"),
        ("**x**", r"\*\*x\*\*"),
        ("- x\n1. y", "\\- x\n\n1\\. y"),
    ],
)
def test_a_text_shows_as_it_is_on_lines_of_its_own(text, shown):
    blocks = card_of(PROVIDER.build_request(message(text=text, title=text)))["body"]
    assert [block["text"] for block in blocks] == [shown, shown]


def test_what_a_rule_s_own_card_takes_from_the_payload_is_escaped():
    source = "{type: 'AdaptiveCard', body: [{type: 'TextBlock', text: join('', ['**New** ', payload.name])}]}"
    fields = shaped(PROVIDER, "send_message", {"name": "[x](https://evil.example)"}, [{"to": "card", "from": source}])
    (block,) = card_of(PROVIDER.build_request(message(**fields)))["body"]
    assert block["text"] == r"**New** \[x\](https://evil.example)"


def test_a_card_of_the_tenant_s_own_goes_as_it_is():
    assert card_of(PROVIDER.build_request(message(card=CARD, text=None))) == CARD


def test_another_host_can_stand_for_microsoft(monkeypatch):
    monkeypatch.setattr(PROVIDER, "override", "http://127.0.0.1:9")
    made = message()
    request = PROVIDER.build_request(made)
    assert request.url.startswith("http://127.0.0.1:9/powerautomate/")
    assert request.url.endswith(f"&sig={SIGNATURE}")
    assert SIGNATURE not in Redactor(made.credentials, request).url(request.url)


def test_without_a_mapping_the_text_tells_of_the_event():
    text = "lead.created: Ada Lovelace, ada@example.com, Engines Ltd"
    assert shaped(PROVIDER, "send_message", PAYLOAD) == {"text": text}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text": ""}, "field text is required"),
        ({"card": [CARD]}, "card must be an object"),
        ({"card": {"type": "Hero", "body": []}}, "whose type is AdaptiveCard"),
        ({"title": {"text": "x"}}, "title must be text"),
        ({"text": "x" * 28_000}, "Microsoft Teams takes at most 28,000"),
    ],
)
def test_what_teams_would_refuse_is_not_sent(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.prepare(message(**fields))


def test_without_its_url_nothing_is_built():
    with pytest.raises(NotAuthorized, match="webhook_url"):
        PROVIDER.build_request(order(PROVIDER, "send_message", {"text": "x"}, {}))


@pytest.mark.parametrize(
    "url",
    [
        URL,
        URL.replace(":443", ""),
    ],
)
def test_a_flow_s_url_is_taken(url):
    assert PROVIDER.clean_credentials({"webhook_url": url}) == {"webhook_url": url}


@pytest.mark.parametrize(
    "url",
    [
        "https://contoso.webhook.office.com/webhookb2/x",
        "https://prod-12.westeurope.logic.azure.com:443/workflows/0a/triggers/manual/paths/invoke?sig=x",
        "https://evil.example/?.environment.api.powerplatform.com/x",
        "https://evil.example#.environment.api.powerplatform.com/x",
        "https://a.environment.api.powerplatform.com@evil.example/x",
        "https://a.environment.api.powerplatform.com.evil.example/x",
        "https://a.environment.api.powerplatform.com:8443/x",
        "http://a.environment.api.powerplatform.com/x",
        "https://a.environment.api.powerplatform.com",
    ],
)
def test_only_microsoft_s_own_urls_are_taken(url):
    with pytest.raises(InvalidFields, match="Must match"):
        PROVIDER.clean_credentials({"webhook_url": url})


TURNED_OFF = {"error": {"code": "WorkflowTriggerIsNotEnabled", "message": "Could not execute workflow."}}
ANSWERS = [
    (202, b"", Outcome.DELIVERED, None, "", ""),
    (200, b"", Outcome.DELIVERED, None, "", ""),
    (400, TURNED_OFF, Outcome.BROKEN, "disabled", "gone", "Turn it on in Power Automate"),
    (
        400,
        {"error": {"code": "X", "message": "bad"}},
        Outcome.REJECTED,
        None,
        "rejected",
        "mapping, or the flow's trigger",
    ),
    (401, b"", Outcome.BROKEN, "needs_reauth", "unauthorized", "Let Anyone trigger the flow"),
    (403, b"", Outcome.BROKEN, "needs_reauth", "forbidden", "Let Anyone trigger the flow"),
    (404, b"", Outcome.BROKEN, "disabled", "gone", "Make a new one and replace the URL"),
    (410, b"", Outcome.BROKEN, "disabled", "gone", "Make a new one and replace the URL"),
    (413, b"", Outcome.REJECTED, None, "rejected", "Shorten it"),
    (429, b"", Outcome.RETRY, None, "rate_limited", "fewer requests"),
    (502, {"error": {"code": "NoResponse"}}, Outcome.UNCERTAIN, None, "server_error", "may have been done, or not"),
    (504, b"", Outcome.UNCERTAIN, None, "server_error", "may have been done, or not"),
    (500, b"", Outcome.UNCERTAIN, None, "server_error", "may have been done, or not"),
    (503, b"", Outcome.RETRY, None, "server_error", "just now"),
    (500, {"error": {"code": "InternalServerError"}}, Outcome.UNCERTAIN, None, "server_error", "may have been done"),
    *(
        (400, {"error": {"code": f"{kind}ApiVersionParameter"}}, Outcome.BROKEN, "disabled", "gone", "Copy it anew")
        for kind in ("Missing", "Invalid")
    ),
    *(
        (400, {"error": {"code": code}}, Outcome.BROKEN, "disabled", "gone", "Turn it on")
        for code in ("WorkflowDisabled", "WorkflowSuspended")
    ),
    *(
        (404, {"error": {"code": code}}, Outcome.BROKEN, "disabled", "gone", "Make a new one")
        for code in ("WorkflowNotFound", "WorkflowTriggerNotFound")
    ),
    *(
        (400, {"error": {"code": f"Workflow{kind}RateLimitExceeded"}}, Outcome.RETRY, None, "rate_limited", "just now")
        for kind in ("Run", "TriggerRequest", "Action")
    ),
]


@pytest.mark.parametrize(("status", "body", "outcome", "hold", "error_class", "fix"), ANSWERS)
def test_answers_say_what_is_to_be_done(status, body, outcome, hold, error_class, fix):
    verdict = PROVIDER.classify(reply(status, body), "send_message")
    assert (verdict.outcome, verdict.hold, verdict.error_class) == (outcome, hold, error_class)
    assert fix in verdict.words


def test_retry_after_rests_the_lane():
    verdict = PROVIDER.classify(reply(429, b"", retry_after="12"), "send_message")
    assert (verdict.throttled, verdict.retry_after_seconds) == (True, 12.0)


def test_doubles_are_not_dropped_so_a_lost_answer_stays_uncertain():
    assert not PROVIDER.action("send_message").idempotent
    assert (
        PROVIDER.classify(NetworkError("connection_lost", "w", sent=True), "send_message").outcome == Outcome.UNCERTAIN
    )


def test_there_is_no_test():
    assert PROVIDER.build_test(message()) is None
    assert "no check" in PROVIDER.test


def test_limits_are_known():
    assert (PROVIDER.limits.in_flight, PROVIDER.limits.body_bytes) == (4, 28_000)


def test_every_declared_error_is_tested():
    assert set(PROVIDER.answers) <= {row[0] for row in ANSWERS} | {row[1]["error"]["code"] for row in ANSWERS if row[1]}
