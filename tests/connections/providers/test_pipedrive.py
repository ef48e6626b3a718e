import json

import pytest

from connections.messages import Request
from connections.providers.base import Account, NotAuthorized, Unsendable
from connections.providers.pipedrive import PROVIDER, Pipedrive
from tests.connections.providers.exchanges import exchanges, judged, reply, shaped, told
from tests.connections.providers.shipments import as_secrets, shipment

ROOT = "https://api.pipedrive.com"
TOKEN = ("x-api-token", "0a1b")
HEADERS = (("content-type", "application/json"), TOKEN)
ADA = {"email": "a@b.co", "name": "A B", "phone": "+1555"}
SEARCH = Request(
    "GET", f"{ROOT}/api/v2/persons/search?term=a%40b.co&fields=email&exact_match=true", (TOKEN,)
)  # fmt: skip
REFUSED = ("rejected", "rejected", None)


def of(fields: dict | None = None, **changes):
    values = {"config": {}, "frozen": {}, "credentials": as_secrets({"api_token": "0a1b"})}
    body = json.dumps(ADA if fields is None else fields)
    return shipment(action="upsert_person", body=body, **{**values, **changes})


def found(*persons: dict):
    items = [{"result_score": 0.5, "item": {"type": "person", **person}} for person in persons]
    return reply(200, {"success": True, "data": {"items": items}, "additional_data": {"next_cursor": None}})


def after_search(answer, fields: dict | None = None):
    return PROVIDER.follow(of(fields), exchanges((SEARCH, answer)))


def patch_of(person: str, body: bytes) -> Request:
    return Request("PATCH", f"{ROOT}/api/v2/persons/{person}", HEADERS, body)


def test_a_person_is_searched_by_the_whole_address():
    assert PROVIDER.build_request(of()) == SEARCH


def test_a_person_who_is_not_found_is_created():
    assert after_search(found(), {**ADA, "owner_id": 7}) == Request(
        "POST",
        f"{ROOT}/api/v2/persons",
        HEADERS,
        b'{"name":"A B","emails":[{"value":"a@b.co","primary":true,"label":"work"}],'
        b'"phones":[{"value":"+1555","primary":true,"label":"work"}],"owner_id":7}',
    )


@pytest.mark.parametrize("name", [None, ""])
def test_a_new_person_without_a_name_is_called_by_the_address(name):
    created = after_search(found(), {"email": "a@b.co", "name": name})
    assert created.body == b'{"name":"a@b.co","emails":[{"value":"a@b.co","primary":true,"label":"work"}]}'


def test_a_person_who_is_found_is_updated_and_keeps_addresses_and_numbers():
    known = {"id": 42, "emails": ["A@B.co", "other@b.co"], "phones": ["+1777"]}
    assert after_search(found(known), {**ADA, "label_ids": [1]}) == patch_of("42", b'{"name":"A B","label_ids":[1]}')
    assert after_search(found(known), {"email": "a@b.co", "name": ""}) == patch_of("42", b"{}")


def test_a_number_is_set_where_there_is_none():
    expected = b'{"phones":[{"value":"+1555","primary":true,"label":"work"}],"name":"A B"}'
    assert after_search(found({"id": 42, "emails": ["a@b.co"], "phones": []})) == patch_of("42", expected)
    assert after_search(found({"id": 42, "primary_email": "a@b.co"})) == patch_of("42", expected)


@pytest.mark.parametrize(
    "person",
    [
        {"id": 42, "emails": ["xa@b.co"], "primary_email": "xa@b.co"},
        {"id": 42, "emails": []},
        {"id": 42, "emails": [{"value": "a@b.co"}]},
        {"id": 42},
        {"emails": ["a@b.co"]},
    ],
)
def test_nobody_else_is_written_to(person):
    assert after_search(found(person)).method == "POST"


def test_of_several_who_are_found_the_first_with_the_address_is_updated():
    answer = found({"id": 1, "emails": ["b@b.co"]}, {"id": 2, "emails": ["a@b.co"]}, {"id": 3, "emails": ["a@b.co"]})
    assert after_search(answer).url == f"{ROOT}/api/v2/persons/2"


@pytest.mark.parametrize(
    "answer",
    [reply(200, b"<html>"), reply(200, {"success": True, "data": None}), reply(200, {"data": {"items": None}})],
)
def test_a_search_that_cannot_be_read_creates_nobody(answer):
    assert told(after_search(answer)) == ("retry", "unreadable_answer", None)


def test_rows_that_are_none_are_passed_over():
    answer = reply(200, {"data": {"items": [7, {"item": None}, {"item": {"id": 2, "emails": ["a@b.co"]}}]}})
    assert after_search(answer).url == f"{ROOT}/api/v2/persons/2"


@pytest.mark.parametrize("answer", [reply(401), reply(429), reply(500), reply(403, b"<html>")])
def test_a_search_that_fails_decides(answer):
    assert after_search(answer) is None


@pytest.mark.parametrize("status", [404, 410])
def test_a_person_who_went_since_the_search_is_looked_up_again(status):
    patch = patch_of("42", b"{}")
    verdict = PROVIDER.follow(of(), exchanges((SEARCH, found()), (patch, reply(status))))
    assert told(verdict) == ("retry", "person_gone", None)


@pytest.mark.parametrize("answer", [reply(200, {"success": True}), reply(400), reply(403)])
def test_the_second_answer_decides(answer):
    assert PROVIDER.follow(of(), exchanges((SEARCH, found()), (patch_of("42", b"{}"), answer))) is None


def test_ids_and_addresses_stay_inside_their_part_of_the_url():
    assert PROVIDER.build_request(of({"email": "a&b=../ü?#@b.co"})).url == (
        f"{ROOT}/api/v2/persons/search?term=a%26b%3D..%2F%C3%BC%3F%23%40b.co&fields=email&exact_match=true"
    )
    answer = found({"id": "1/../2?x", "emails": ["a@b.co"]})
    assert after_search(answer).url == f"{ROOT}/api/v2/persons/1%2F..%2F2%3Fx"


@pytest.mark.parametrize("email", [None, "", " ", ["a@b.co"], True])
def test_an_address_is_needed(email):
    with pytest.raises(Unsendable, match="email"):
        PROVIDER.build_request(of({"email": email}))


def test_a_token_of_oauth_comes_first_and_goes_to_the_company_s_domain():
    both = as_secrets({"access_token": "t0k", "api_token": "0a1b"})
    request = PROVIDER.build_test(of(config={"api_domain": "https://acme.pipedrive.com/"}, credentials=both))
    assert request == Request("GET", "https://acme.pipedrive.com/v1/users/me", (("authorization", "Bearer t0k"),))


def test_without_a_token_the_connection_must_be_authorized():
    with pytest.raises(NotAuthorized):
        PROVIDER.build_request(of(credentials={}))


@pytest.mark.parametrize("url", [None, "https://acme.pipedrive.com", "https://acme.pipedrive.com/"])
def test_a_company_s_own_domain_is_taken(url):
    assert PROVIDER.check({} if url is None else {"api_domain": url}, {}) == ()


@pytest.mark.parametrize(
    "url",
    [
        "http://acme.pipedrive.com", "https://pipedrive.com.evil.example", "https://evilpipedrive.com",
        "https://evil.example/.pipedrive.com", "https://evil.example\\.pipedrive.com", "https://x@acme.pipedrive.com",
        "https://acme.pipedrive.com/api", "https://acme.pipedrive.com:8443", 7,
    ],
)  # fmt: skip
def test_a_domain_of_somebody_else_is_refused(url):
    (problem,) = PROVIDER.check({"api_domain": url}, {})
    assert (problem.pointer, problem.rule) == ("/config/api_domain", "host")


def test_a_server_in_the_vendor_s_place_stands_for_every_company():
    provider = Pipedrive()
    provider.override = "http://127.0.0.1:9/pipedrive"
    assert provider.check({"api_domain": "http://127.0.0.1:9"}, {}) == ()
    request = provider.build_test(of(config={"api_domain": "https://acme.pipedrive.com"}))
    assert request.url == "http://127.0.0.1:9/pipedrive/v1/users/me"


@pytest.mark.parametrize(
    ("answer", "expected", "fix"),
    [
        (reply(400, {"success": False, "error": "name is too long"}), REFUSED, "Mend the rule's mapping"),
        (reply(401, {"success": False, "error": "unauthorized access"}),
         ("broken", "unauthorized", "needs_reauth"), "replace the API token"),
        (reply(402), ("broken", "unpaid", "disabled"), "not paid for"),
        (reply(403, {"success": False, "error": "Scope and URL mismatch"}),
         ("broken", "forbidden", "needs_reauth"), "Grant that scope"),
        (reply(403, b"<html>Access denied</html>"), ("retry", "blocked", None), "blocks"),
        (reply(404, {"success": False}), REFUSED, "404"),
        (reply(429, {"success": False, "error": "request over limit"}), ("retry", "rate_limited", None), "fewer"),
        (reply(500), ("uncertain", "server_error", None), "may have been done, or not"),
        (reply(200, {"success": False, "error": "e"}), ("rejected", "vendor_error", None), "did not accept"),
    ],
)  # fmt: skip
def test_every_answer_says_what_it_means_and_what_to_do(answer, expected, fix):
    assert judged(PROVIDER, answer) == expected
    assert fix in PROVIDER.classify(answer, "upsert_person").words


def test_the_vendor_s_own_words_stand_beside_ours():
    words = PROVIDER.classify(reply(400, {"success": False, "error": "name is too long"}), "upsert_person").words
    assert words.endswith("Pipedrive: “name is too long”")


@pytest.mark.parametrize("answer", [reply(201, {"success": True, "data": {"id": 1}}), reply(200, {"success": True})])
def test_a_person_who_is_written_is_delivered(answer):
    assert judged(PROVIDER, answer) == ("delivered", "", None)


@pytest.mark.parametrize(
    ("headers", "rest"),
    [
        ({"x_ratelimit_remaining": "39", "x_ratelimit_reset": "2"}, None),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "1"}, 1.0),
        ({"x_ratelimit_remaining": "0"}, 2.0),
        ({}, None),
    ],
)
def test_a_used_up_burst_rests_the_lane(headers, rest):
    assert PROVIDER.classify(reply(200, {"success": True}, **headers), "upsert_person").rest_seconds == rest


def test_a_block_rests_the_lane_for_an_hour():
    verdict = PROVIDER.classify(reply(403, b"<html>"), "upsert_person")
    assert (verdict.throttled, verdict.retry_after_seconds) == (True, 3600)


def test_the_account_is_the_company():
    answer = reply(200, {"success": True, "data": {"id": 1, "name": "Ada", "company_id": 99, "company_name": "Acme"}})
    assert PROVIDER.read_account(answer) == Account("99", "Acme")
    assert PROVIDER.read_account(reply(200, {"data": None})) is None


def test_the_default_mapping_takes_the_usual_names():
    payload = {"email": "a@b.co", "first_name": "A", "last_name": "B", "phone": "+1555"}
    assert shaped(PROVIDER, "upsert_person", payload) == ADA


def test_persons_have_no_key_and_are_not_sent_twice():
    assert [action.idempotent for action in PROVIDER.actions] == [False]


def test_a_creation_of_which_nobody_knows_is_uncertain_and_a_search_is_made_again():
    for status in (502, 504):
        assert judged(PROVIDER, reply(status))[0] == "uncertain"
    assert judged(PROVIDER, reply(503))[0] == "retry"
    assert PROVIDER.may_repeat("upsert_person", SEARCH)
    assert not PROVIDER.may_repeat("upsert_person", Request("POST", f"{ROOT}/api/v2/persons"))


@pytest.mark.parametrize("document", [{}, {"data": {"id": 1}}, b"<html>"])
def test_a_2xx_that_does_not_say_success_leaves_the_end_open(document):
    assert judged(PROVIDER, reply(200, document)) == ("uncertain", "unproven", None)


def test_numbers_become_text_and_spaces_go():
    fields = {"email": " a@b.co ", "name": 7, "phone": 15551234567}
    made = of(fields)
    assert PROVIDER.build_request(made).url == SEARCH.url
    created = json.loads(PROVIDER.follow(made, exchanges((SEARCH, found()))).body)
    assert (created["name"], created["emails"][0]["value"]) == ("7", "a@b.co")
    assert created["phones"][0]["value"] == "15551234567"
