import pytest

from connections.messages import NetworkError
from connections.providers.base import Exchange, NotAuthorized, Outcome, Unsendable
from connections.providers.resend import PROVIDER
from tests.connections.providers.exchanges import PAYLOAD, document_of, exchanges, headers_of, order, reply, shaped

KEY = "re_canary9f3c"
CONFIG = {"sender": "Ada <ada@example.com>"}
EMAIL = {"to": "bob@example.com", "subject": "Welcome", "html": "<p>Hello</p>"}
CONTACT = {"email": "ada+1@example.com", "first_name": "Ada", "last_name": None, "properties": {"plan": "pro"}}
AUTHORIZED = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}


def email(config=CONFIG, **fields):
    return order(PROVIDER, "send_email", {**EMAIL, **fields}, {"api_key": KEY}, config)


def contact(**fields):
    return order(PROVIDER, "upsert_contact", {**CONTACT, **fields}, {"api_key": KEY})


def judged(status, name="", action="send_email", **headers):
    return PROVIDER.classify(reply(status, {"statusCode": status, "name": name, "message": "m"}, **headers), action)


def test_an_email_carries_the_delivery_s_id_against_doubles():
    made = email()
    request = PROVIDER.build_request(made)
    assert (request.method, request.url) == ("POST", "https://api.resend.com/emails")
    assert headers_of(request) == {**AUTHORIZED, "idempotency-key": made.delivery_id}
    assert document_of(request) == {"from": "Ada <ada@example.com>", **EMAIL}


def test_an_email_takes_resend_s_further_fields_and_another_sender():
    fields = {"from": "crm@example.com", "to": ["a@b.co", "c@d.co"], "text": "Hello", "reply_to": "x@y.co", "cc": None}
    document = document_of(PROVIDER.build_request(email(**fields)))
    assert document == {
        "from": "crm@example.com",
        "to": ["a@b.co", "c@d.co"],
        "subject": "Welcome",
        "html": "<p>Hello</p>",
        "text": "Hello",
        "reply_to": "x@y.co",
    }


def test_the_sender_is_that_of_the_event_s_routing():
    made = order(
        PROVIDER,
        "send_email",
        EMAIL,
        {"api_key": KEY},
        {"sender": "new@example.com"},
        frozen={"sender": "old@example.com"},
    )
    assert document_of(PROVIDER.build_request(made))["from"] == "old@example.com"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (email(config={}), "no sender. Set the connection's sender, or map the field from"),
        (email(html=None), "no body. Map html, text or both"),
        (email(html=" "), "no body"),
        (email(subject=None), "field subject is required"),
        (email(to=None), "field to is required"),
        (email(to=[]), "to must be an address, or an array"),
        (email(to=["a@b.co", 7]), "to must be an address, or an array"),
        (email(to={"email": "a@b.co"}), "field to is required"),
        (contact(email=None), "field email is required"),
        (contact(properties=["plan"]), "properties must be an object"),
        (contact(first_name=["Ada"]), "first_name must be text"),
        (contact(email="a" * 1001), "too long"),
        (order(PROVIDER, "send_event", {"email": "a@b.co"}, {"api_key": KEY}), "field event is required"),
        (order(PROVIDER, "send_event", {"event": "x"}, {"api_key": KEY}), "field email is required"),
    ],
)
def test_what_resend_would_refuse_is_not_sent(made, words):
    with pytest.raises(Unsendable, match=words):
        PROVIDER.build_request(made)


@pytest.mark.parametrize("action", ["send_email", "upsert_contact", "send_event"])
def test_without_a_key_nothing_is_built(action):
    with pytest.raises(NotAuthorized, match="api_key"):
        PROVIDER.build_request(order(PROVIDER, action, {**EMAIL, **CONTACT, "event": "x"}, {}, CONFIG))


def test_a_contact_is_updated_where_there_is_one():
    request = PROVIDER.build_request(contact())
    assert (request.method, request.url) == ("PATCH", "https://api.resend.com/contacts/ada%2B1%40example.com")
    assert headers_of(request) == AUTHORIZED
    assert document_of(request) == {"first_name": "Ada", "properties": {"plan": "pro"}}
    assert PROVIDER.follow(contact(), [Exchange(request, reply(200, {"object": "contact"}))]) is None


def test_a_contact_is_created_where_there_is_none():
    first = Exchange(PROVIDER.build_request(contact()), reply(404, {"name": "not_found"}))
    request = PROVIDER.follow(contact(), [first])
    assert (request.method, request.url) == ("POST", "https://api.resend.com/contacts")
    assert headers_of(request) == AUTHORIZED
    assert document_of(request) == {"email": "ada+1@example.com", "first_name": "Ada", "properties": {"plan": "pro"}}
    for last in (reply(201, {"id": "c1"}), reply(404, {"name": "not_found"})):
        assert PROVIDER.follow(contact(), [first, Exchange(request, last)]) is None


def test_a_contact_with_nothing_but_an_address_is_created():
    request = PROVIDER.build_request(contact(first_name=None, properties=None))
    assert (request.method, request.url) == ("POST", "https://api.resend.com/contacts")
    assert document_of(request) == {"email": "ada+1@example.com"}


def test_a_refused_update_creates_nothing():
    for status in (400, 401, 403, 422, 429, 500):
        exchange = Exchange(PROVIDER.build_request(contact()), reply(status))
        assert PROVIDER.follow(contact(), [exchange]) is None


def test_an_event_starts_an_automation():
    fields = {"event": "lead.created", "email": "ada@example.com", "payload": {"plan": "pro"}}
    request = PROVIDER.build_request(order(PROVIDER, "send_event", fields, {"api_key": KEY}))
    assert (request.method, request.url) == ("POST", "https://api.resend.com/events/send")
    assert headers_of(request) == AUTHORIZED
    assert document_of(request) == fields


def test_one_call_is_enough_for_emails_and_events():
    missing = Exchange(PROVIDER.build_request(email()), reply(404))
    assert PROVIDER.follow(email(), [missing]) is None


def test_defaults_come_from_the_payload():
    assert shaped(PROVIDER, "send_email", PAYLOAD, [{"to": "subject", "value": "Hi"}]) == {
        "subject": "Hi",
        "to": "ada@example.com",
    }
    assert shaped(PROVIDER, "upsert_contact", PAYLOAD) == {
        "email": "ada@example.com",
        "first_name": "Ada",
        "last_name": "Lovelace",
    }
    assert shaped(PROVIDER, "send_event", PAYLOAD) == {
        "event": "lead.created",
        "email": "ada@example.com",
        "payload": PAYLOAD,
    }


ANSWERS = [
    (400, "validation_error", Outcome.REJECTED, None, "rejected", "Mend the rule's mapping"),
    (400, "invalid_idempotency_key", Outcome.REJECTED, None, "rejected", "Mend the rule's mapping"),
    (401, "missing_api_key", Outcome.BROKEN, "needs_reauth", "unauthorized", "Set it, then test"),
    (401, "restricted_api_key", Outcome.BROKEN, "needs_reauth", "forbidden", "Replace it by one with full access"),
    (401, "", Outcome.BROKEN, "needs_reauth", "unauthorized", "Replace them, then test"),
    (403, "invalid_api_key", Outcome.BROKEN, "needs_reauth", "unauthorized", "Replace it, then test"),
    (403, "validation_error", Outcome.BROKEN, "disabled", "forbidden", "Verify its domain at resend.com/domains"),
    (404, "not_found", Outcome.REJECTED, None, "rejected", "refuses"),
    (409, "invalid_idempotent_request", Outcome.REJECTED, None, "rejected", "another email for this delivery"),
    (409, "concurrent_idempotent_requests", Outcome.RETRY, None, "concurrent", "still busy"),
    (422, "invalid_from_address", Outcome.BROKEN, "disabled", "forbidden", "Set the connection's sender to another"),
    (451, "security_error", Outcome.BROKEN, "disabled", "forbidden", "Ask its support, then resume"),
    (422, "missing_required_field", Outcome.REJECTED, None, "rejected", "Mend the rule's mapping"),
    (429, "rate_limit_exceeded", Outcome.RETRY, None, "rate_limited", "fewer requests"),
    (429, "daily_quota_exceeded", Outcome.RETRY, None, "daily_limit", "daily quota is used up"),
    (429, "monthly_quota_exceeded", Outcome.RETRY, None, "monthly_limit", "Upgrade its plan"),
    (500, "internal_server_error", Outcome.RETRY, None, "server_error", "just now"),
]


@pytest.mark.parametrize(("status", "name", "outcome", "hold", "error_class", "fix"), ANSWERS)
def test_answers_say_what_is_to_be_done(status, name, outcome, hold, error_class, fix):
    verdict = judged(status, name)
    assert (verdict.outcome, verdict.hold, verdict.error_class) == (outcome, hold, error_class)
    assert fix in verdict.words
    assert verdict.words.endswith("Resend: “m”")
    assert verdict.throttled is (status == 429)


UNVERIFIED = "The acme.example domain is not verified."


@pytest.mark.parametrize(
    "refusal",
    [
        reply(422, {"name": "invalid_from_address", "message": "m"}),
        reply(403, {"name": "validation_error", "message": UNVERIFIED}),
    ],
)
def test_a_sender_that_the_mapping_gave_is_the_rule_s_matter(refusal):
    by_connection, by_rule = email(), email(**{"from": "Ada <ada@acme.example>"})
    asked = exchanges((PROVIDER.build_request(by_rule), refusal))
    assert PROVIDER.follow(by_connection, asked) is None
    verdict = PROVIDER.follow(by_rule, asked)
    assert (verdict.outcome, verdict.hold) == (Outcome.REJECTED, None)
    assert verdict.words.startswith("Resend does not accept the sender that the rule's mapping gives. Mend the field")
    for accepted in (reply(200, {"id": "e1"}), reply(403, {"name": "invalid_api_key", "message": "domain"})):
        assert PROVIDER.follow(by_rule, exchanges((PROVIDER.build_request(by_rule), accepted))) is None


@pytest.mark.parametrize("name", ["application_error", "internal_server_error"])
def test_an_event_that_resend_broke_down_on_is_not_sent_twice(name):
    answer = reply(500, {"name": name, "message": "m"})
    assert PROVIDER.classify(answer, "send_event").outcome == Outcome.UNCERTAIN
    assert PROVIDER.classify(answer, "send_email").outcome == Outcome.RETRY


@pytest.mark.parametrize("status", [200, 201, 202])
def test_what_is_accepted_is_delivered(status):
    assert PROVIDER.classify(reply(status, {"id": "e1"}), "send_email").outcome == Outcome.DELIVERED


@pytest.mark.parametrize(
    ("name", "headers", "seconds"),
    [
        ("rate_limit_exceeded", {}, None),
        ("rate_limit_exceeded", {"retry_after": "2"}, 2.0),
        ("rate_limit_exceeded", {"ratelimit_remaining": "0", "ratelimit_reset": "3"}, 3.0),
        ("concurrent_idempotent_requests", {}, 5.0),
        ("daily_quota_exceeded", {"retry_after": "1"}, 3600.0),
        ("monthly_quota_exceeded", {}, 86_400.0),
    ],
)
def test_waits_are_what_resend_asks_for(name, headers, seconds):
    assert judged(429, name, **headers).retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("headers", "rest"),
    [
        ({"ratelimit_remaining": "0", "ratelimit_reset": "1"}, 1.0),
        ({"ratelimit_remaining": "4", "ratelimit_reset": "1"}, None),
        ({}, None),
    ],
)
def test_a_used_up_limit_rests_the_lane_before_a_429(headers, rest):
    verdict = PROVIDER.classify(reply(200, {"id": "e1"}, **headers), "send_email")
    assert (verdict.outcome, verdict.rest_seconds) == (Outcome.DELIVERED, rest)


def test_an_event_has_no_key_against_doubles():
    assert {action.slug: action.idempotent for action in PROVIDER.actions} == {
        "send_email": True,
        "upsert_contact": True,
        "send_event": False,
    }


def test_the_test_lists_domains():
    request = PROVIDER.build_test(email())
    assert (request.method, request.url, request.body) == ("GET", "https://api.resend.com/domains", b"")
    assert headers_of(request) == {"authorization": f"Bearer {KEY}"}
    assert PROVIDER.read_account(reply(200, {"data": [{"id": "d1", "name": "example.com"}]})) is None


@pytest.mark.parametrize(
    ("status", "name", "outcome", "hold"),
    [
        (200, "", Outcome.DELIVERED, None),
        (401, "restricted_api_key", Outcome.DELIVERED, None),
        (401, "missing_api_key", Outcome.BROKEN, "needs_reauth"),
        (403, "invalid_api_key", Outcome.BROKEN, "needs_reauth"),
        (503, "", Outcome.RETRY, None),
    ],
)
def test_a_key_that_may_only_send_passes_the_test(status, name, outcome, hold):
    verdict = PROVIDER.classify_test(reply(status, {"name": name}))
    assert (verdict.outcome, verdict.hold) == (outcome, hold)


def test_no_answer_fails_the_test():
    assert PROVIDER.classify_test(NetworkError("connection_lost", "w", sent=True)).outcome == Outcome.UNCERTAIN


def test_limits_are_known():
    assert (PROVIDER.limits.in_flight, PROVIDER.limits.rate) == (4, 5)


def test_every_declared_error_is_tested():
    assert set(PROVIDER.answers) <= {each for row in ANSWERS for each in row[:2]}


def test_what_an_expression_takes_from_a_payload_into_html_is_escaped():
    source = "join('', ['<p>Hello ', payload.name, '</p>'])"
    own = [{"to": "html", "from": source}, {"to": "subject", "value": "Hi"}]
    fields = shaped(PROVIDER, "send_email", {"email": "b@c.co", "name": "<a href='https://evil.example'>Ada</a>"}, own)
    assert fields["html"] == "<p>Hello &lt;a href=&#x27;https://evil.example&#x27;&gt;Ada&lt;/a&gt;</p>"
    whole = [{"to": "html", "from": "payload.page"}, {"to": "subject", "value": "Hi"}]
    assert shaped(PROVIDER, "send_email", {"email": "b@c.co", "page": "<p>Hi</p>"}, whole)["html"] == "<p>Hi</p>"


def test_limits_of_resend_are_known_beforehand():
    with pytest.raises(Unsendable, match="has 51 recipients; Resend takes at most 50"):
        PROVIDER.build_request(email(to=["a@b.co"] * 51))
    with pytest.raises(Unsendable, match="begin with resend:"):
        PROVIDER.build_request(
            order(PROVIDER, "send_event", {"event": "resend:x", "email": "a@b.co"}, {"api_key": KEY})
        )


def test_an_automation_of_which_nobody_knows_whether_it_started_is_uncertain():
    assert judged(502, action="send_event").outcome == Outcome.UNCERTAIN
    assert judged(503, action="send_event").outcome == Outcome.RETRY
    assert judged(502).outcome == Outcome.RETRY  # an email has its key


def test_every_recipient_loses_the_spaces_around_it():
    assert document_of(PROVIDER.build_request(email(to=[" a@b.co ", "c@d.co\n"])))["to"] == ["a@b.co", "c@d.co"]
    assert document_of(PROVIDER.build_request(email(to=" a@b.co ")))["to"] == "a@b.co"
