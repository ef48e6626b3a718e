import pytest

from connections.conversation import Redactor
from connections.messages import NetworkError
from connections.providers.base import Account, InvalidFields, NotAuthorized, Outcome, Unsendable
from connections.providers.discord import MAX_CONTENT, PROVIDER
from tests.connections.providers.exchanges import PAYLOAD, document_of, headers_of, order, reply, shaped
from tests.connections.providers.shipments import as_secrets

TOKEN = "canary-9f3c_0123456789abcdefghijklmnopqrstuvwxyz"
URL = f"https://discord.com/api/webhooks/112233/{TOKEN}"
SENT_TO = URL.replace("/api/", "/api/v10/")
AGENT = "DiscordBot (Meshes, 0.1)"


def message(url=URL, **fields):
    return order(PROVIDER, "send_message", {"content": "New lead", **fields}, {"webhook_url": url})


def judged(status, body=b"", **headers):
    return PROVIDER.classify(reply(status, body, **headers), "send_message")


def test_a_message_waits_for_its_answer_and_pings_nobody():
    request = PROVIDER.build_request(message())
    assert (request.method, request.url) == ("POST", f"{SENT_TO}?wait=true")
    assert headers_of(request) == {"content-type": "application/json", "user-agent": AGENT}
    assert document_of(request) == {"content": "New lead", "allowed_mentions": {"parse": []}}


def test_embeds_and_a_name_can_be_mapped():
    request = PROVIDER.build_request(message(embeds=[{"title": "Ada"}], username="CRM"))
    assert document_of(request) == {
        "content": "New lead",
        "embeds": [{"title": "Ada"}],
        "username": "CRM",
        "allowed_mentions": {"parse": []},
    }


def test_a_thread_s_url_keeps_its_query():
    assert PROVIDER.build_request(message(f"{URL}?thread_id=5")).url == f"{SENT_TO}?thread_id=5&wait=true"


@pytest.mark.parametrize("old", ["discordapp.com/api", "discord.com/api/v6", "discordapp.com/api/v9"])
def test_a_url_of_another_version_or_of_the_old_name_is_called_as_it_is_today(old):
    assert PROVIDER.build_request(message(URL.replace("discord.com/api", old))).url == f"{SENT_TO}?wait=true"
    assert "https://ptb.discord.com/api/v10/" in PROVIDER.build_request(message(URL.replace("//", "//ptb."))).url


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("[Verify](https://evil.example)", r"\[Verify\](https://evil.example)"),
        ("**Ada** _L_ `x` ~~y~~ ||z||", r"\*\*Ada\*\* \_L\_ \`x\` \~\~y\~\~ \|\|z\|\|"),
        ("<@112233> <https://evil.example>", r"\<@112233\> \<https://evil.example\>"),
        ("# Big\n- one\n1. two\n> three", "\\# Big\n\\- one\n1\\. two\n\\> three"),
        ("https://example.com/a_b*?q=1 a_b", r"https://example.com/a_b\*?q=1 a\_b"),
        (r"\[x](https://evil.example)", r"\\\[x\](https://evil.example)"),
    ],
)
def test_what_a_name_holds_is_shown_and_not_obeyed(name, content):
    assert document_of(PROVIDER.build_request(message(content=name)))["content"] == content
    fields = shaped(PROVIDER, "send_message", {"name": name})
    assert document_of(PROVIDER.build_request(message(**fields)))["content"] == f"lead.created: {content}".replace(
        r": \#", ": #"
    )


def test_markup_of_the_rule_s_own_works_in_embeds_and_what_it_takes_from_the_payload_is_escaped():
    source = "[{title: payload.name, description: join('', ['**New** ', payload.name]), url: payload.url}]"
    payload = {"name": "[Verify](https://evil.example)", "url": "https://example.com/a_b"}
    fields = shaped(PROVIDER, "send_message", payload, [{"to": "embeds", "from": source}])
    assert document_of(PROVIDER.build_request(message(**fields)))["embeds"] == [
        {
            "title": r"\[Verify\](https://evil.example)",
            "description": r"**New** \[Verify\](https://evil.example)",
            "url": "https://example.com/a_b",
        }
    ]


def test_another_host_can_stand_for_discord(monkeypatch):
    monkeypatch.setattr(PROVIDER, "override", "http://127.0.0.1:9")
    made = message(f"{URL}?thread_id=5")
    request = PROVIDER.build_request(made)
    assert request.url == f"http://127.0.0.1:9/api/v10/webhooks/112233/{TOKEN}?thread_id=5&wait=true"
    assert TOKEN not in Redactor(made.credentials, request).url(request.url)


def test_without_a_mapping_the_text_tells_of_the_event():
    text = "lead.created: Ada Lovelace, ada@example.com, Engines Ltd"
    assert shaped(PROVIDER, "send_message", PAYLOAD) == {"content": text}


def test_the_longest_text_is_sent_whole():
    assert len(document_of(PROVIDER.build_request(message(content="x" * MAX_CONTENT)))["content"]) == 2000


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"content": ""}, "field content is required"),
        ({"content": None}, "field content is required"),
        (
            {"content": "x" * (MAX_CONTENT + 1)},
            "has 2,001 characters; Discord takes at most 2,000. Shorten it .* substring",
        ),
        ({"embeds": {"title": "Ada"}}, "embeds must be an array"),
        ({"embeds": [{}] * 11}, "has 11 embeds; Discord takes at most 10"),
        ({"username": ["CRM"]}, "username must be text"),
        ({"username": "My Discord"}, "without “discord” or “clyde”"),
        ({"username": "x" * 81}, "username of at most 80 characters"),
        ({"embeds": ["x"]}, "array of objects"),
        ({"embeds": [{}, {"title": "x" * 257}]}, "embeds.1: title is longer than Discord takes"),
        ({"embeds": [{"footer": {"text": "x" * 2049}}]}, "embeds.0: footer.text is longer"),
        ({"embeds": [{"fields": [{"name": "x", "value": "x" * 1025}]}]}, "embeds.0: value is longer"),
        ({"embeds": [{"fields": [{}] * 26}]}, "embeds.0 has 26 fields; Discord takes at most 25"),
        ({"embeds": [{"description": "x" * 4000}] * 2}, "embeds have 8,000 characters; Discord takes at most 6,000"),
    ],
)
def test_what_discord_would_refuse_is_not_sent(fields, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.build_request(message(**fields))


def test_without_its_url_nothing_is_built():
    with pytest.raises(NotAuthorized, match="webhook_url"):
        PROVIDER.build_request(order(PROVIDER, "send_message", {"content": "x"}, {}))


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        (URL, True),
        (f"{URL}?thread_id=5", True),
        (URL.replace("discord.com/api", "discordapp.com/api/v10"), True),
        (URL.replace("discord.com", "ptb.discord.com"), True),
        (URL.replace("discord.com", "discord.com.evil.example"), False),
        (URL.replace("discord.com", "notdiscord.com"), False),
        (URL.replace("https", "http"), False),
        (f"{URL}?wait=false", False),
        (f"{URL}/github", False),
    ],
)
def test_only_discord_s_own_urls_are_taken(url, taken):
    if taken:
        assert PROVIDER.clean_credentials({"webhook_url": url}) == {"webhook_url": url}
    else:
        with pytest.raises(InvalidFields, match="Must match"):
            PROVIDER.clean_credentials({"webhook_url": url})


UNKNOWN_WEBHOOK = {"message": "Unknown Webhook", "code": 10015}
ANSWERS = [
    (200, {"id": "42"}, Outcome.DELIVERED, None, "", ""),
    (204, b"", Outcome.DELIVERED, None, "", ""),
    (
        400,
        {"message": "Invalid Form Body", "code": 50035},
        Outcome.REJECTED,
        None,
        "rejected",
        "Mend the rule's mapping",
    ),
    (
        401,
        {"message": "Invalid Webhook Token", "code": 50027},
        Outcome.BROKEN,
        "needs_reauth",
        "unauthorized",
        "replace",
    ),
    (403, {"message": "Missing Access", "code": 50001}, Outcome.BROKEN, "needs_reauth", "forbidden", "replace the URL"),
    (400, {"code": 50083, "message": "Thread is archived"}, Outcome.BROKEN, "disabled", "gone", "Open it in Discord"),
    (400, {"code": 160005, "message": "Thread is locked"}, Outcome.BROKEN, "disabled", "gone", "Open it in Discord"),
    (400, {"code": 40067, "message": "A tag is required"}, Outcome.BROKEN, "disabled", "gone", "asks for a tag"),
    (500, {"code": 0, "message": "500: Internal Server Error"}, Outcome.UNCERTAIN, None, "server_error", "“500: Inter"),
    (200, {}, Outcome.UNCERTAIN, None, "unproven", "does not say that it was done"),
    (400, {"code": 220001, "message": "m"}, Outcome.BROKEN, "disabled", "gone", "thread_id"),
    (400, {"code": 240000, "message": "harmful"}, Outcome.REJECTED, None, "rejected", "harmful"),
    (503, {"code": 130000, "message": "overloaded"}, Outcome.RETRY, None, "server_error", "overloaded"),
    (503, {"code": 110000, "message": "m"}, Outcome.RETRY, None, "server_error", "overloaded"),
    *((429, {"code": code}, Outcome.RETRY, None, "rate_limited", "this channel") for code in (20028, 20029, 40062)),
    (502, b"", Outcome.UNCERTAIN, None, "server_error", "may have been done, or not"),
    (504, b"", Outcome.UNCERTAIN, None, "server_error", "may have been done, or not"),
    (503, b"", Outcome.RETRY, None, "server_error", "just now"),
    (404, UNKNOWN_WEBHOOK, Outcome.BROKEN, "disabled", "gone", "replace the URL. Discord: “Unknown Webhook”"),
    (404, b"", Outcome.BROKEN, "disabled", "gone", "replace the URL"),
    (410, b"", Outcome.BROKEN, "disabled", "gone", "replace the URL"),
    (413, b"", Outcome.REJECTED, None, "rejected", "refuses"),
    (
        429,
        {"message": "m", "retry_after": 64.57, "global": False},
        Outcome.RETRY,
        None,
        "rate_limited",
        "fewer requests",
    ),
    (429, {"retry_after": 1, "global": True}, Outcome.RETRY, None, "rate_limited_globally", "this whole system"),
    (500, b"", Outcome.UNCERTAIN, None, "server_error", "may have been done, or not"),
]


@pytest.mark.parametrize(("status", "body", "outcome", "hold", "error_class", "fix"), ANSWERS)
def test_answers_say_what_is_to_be_done(status, body, outcome, hold, error_class, fix):
    verdict = judged(status, body)
    assert (verdict.outcome, verdict.hold, verdict.error_class) == (outcome, hold, error_class)
    assert fix in verdict.words
    assert verdict.throttled is (status == 429)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_counts_towards_the_block_of_our_address_stops_the_connection_at_once(status):
    assert judged(status, {"message": "m", "code": 0}).outcome == Outcome.BROKEN


@pytest.mark.parametrize("body", [{"message": "internal network error", "code": 40333}, b"error code: 1010", b""])
def test_a_403_of_cloudflare_is_not_a_dead_webhook(body):
    verdict = judged(403, body)
    assert (verdict.outcome, verdict.error_class, verdict.throttled) == (Outcome.RETRY, "blocked", True)
    assert verdict.retry_after_seconds == 300.0


def test_discord_is_told_where_the_installation_is_reached(monkeypatch):
    monkeypatch.setattr(PROVIDER, "public_url", "https://hooks.acme.example")
    assert headers_of(PROVIDER.build_request(message()))["user-agent"] == "DiscordBot (https://hooks.acme.example, 0.1)"


def test_a_form_s_error_is_named_by_its_field():
    nested = {"embeds": {"0": {"title": {"_errors": [{"code": "BASE_TYPE_MAX_LENGTH", "message": "too long"}]}}}}
    words = judged(400, {"code": 50035, "message": "Invalid Form Body", "errors": nested}).words
    assert words.endswith("Discord: “embeds.0.title: too long”")
    deep = {"_errors": [{"message": "x"}]}
    for _ in range(200):
        deep = {"a": deep}
    assert judged(400, {"code": 50035, "message": "m", "errors": deep}).words.endswith("Discord: “m”")


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        ({"retry_after": 64.57}, {}, 64.57),
        ({"retry_after": 1.5}, {"retry_after": "2"}, 2.0),
        ({"retry_after": 3.5}, {"retry_after": "2"}, 3.5),
        ({"retry_after": 1e12}, {}, 86_400.0),
        ({"retry_after": True}, {}, None),
        ({"retry_after": -1}, {}, None),
        ({"retry_after": "soon"}, {}, None),
        ('{"retry_after": NaN}', {}, None),
        ("<html>", {"retry_after": "7"}, 7.0),
        ("", {"x_ratelimit_remaining": "0", "x_ratelimit_reset_after": "1.25"}, 1.25),
    ],
)
def test_a_429_says_for_how_long(body, headers, seconds):
    verdict = judged(429, body, **headers)
    assert (verdict.throttled, verdict.retry_after_seconds) == (True, seconds)


@pytest.mark.parametrize(
    ("headers", "rest"),
    [
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset_after": "1.25"}, 1.25),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset_after": "9999999999"}, 86_400.0),
        ({"x_ratelimit_remaining": "1", "x_ratelimit_reset_after": "1.25"}, None),
        ({"x_ratelimit_remaining": "0"}, None),
        ({}, None),
    ],
)
def test_a_used_up_limit_rests_the_lane_before_a_429(headers, rest):
    verdict = judged(200, {"id": "42"}, **headers)
    assert (verdict.outcome, verdict.rest_seconds) == (Outcome.DELIVERED, rest)


def test_doubles_are_not_dropped_so_a_lost_answer_stays_uncertain():
    assert not PROVIDER.action("send_message").idempotent
    assert (
        PROVIDER.classify(NetworkError("connection_lost", "w", sent=True), "send_message").outcome == Outcome.UNCERTAIN
    )


def test_the_test_asks_for_the_webhook_s_details():
    request = PROVIDER.build_test(message())
    assert (request.method, request.url, request.body, request.headers) == (
        "GET",
        SENT_TO,
        b"",
        (("user-agent", AGENT),),
    )
    answer = reply(200, {"id": "112233", "name": "Leads", "guild_id": "5", "token": TOKEN})
    assert PROVIDER.classify_test(answer).outcome == Outcome.DELIVERED
    assert PROVIDER.read_account(answer) == Account("112233", "Leads")
    assert PROVIDER.read_account(reply(200, "")) is None


def test_the_token_that_the_test_s_answer_holds_is_masked():
    redactor = Redactor(as_secrets({"webhook_url": URL}), PROVIDER.build_test(message()))
    assert TOKEN.encode() not in redactor.body(reply(200, {"id": "112233", "token": TOKEN}).body)


def test_limits_are_known():
    assert (PROVIDER.limits.in_flight, PROVIDER.limits.rate) == (2, 2)


def test_every_declared_error_is_tested():
    codes = {str(row[1].get("code")) for row in ANSWERS if isinstance(row[1], dict)}
    assert set(PROVIDER.answers) - {"global", "40333"} <= {row[0] for row in ANSWERS} | codes
