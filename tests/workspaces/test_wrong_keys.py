"""Wrong keys are limited by the address that they come from; right ones never are."""

import pytest
from django.test import Client

from meshes.kit import ids
from tests.workspaces.callers import issue
from workspaces import keys, limits

PATH = "/api/v1/workspaces"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh_limits(redis_client, settings):
    settings.MESHES_WRONG_KEYS = 5
    limits._shared.cache_clear()


def ask(credential, address="203.0.113.7", **meta):
    return Client(headers={"authorization": f"Bearer {credential}"}).get(PATH, REMOTE_ADDR=address, **meta)


def wrong():
    return keys._generate(ids.uuid7())


@pytest.mark.parametrize(
    "credential",
    [wrong(), "mesh_live_x", "no key", "e30.e30.e30"],
    ids=["unknown", "malformed", "none", "token"],
)
def test_after_some_wrong_keys_a_minute_another_is_answered_429(credential):
    assert [ask(credential).status_code for _ in range(6)] == [401] * 5 + [429]
    answer = ask(credential)
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:meshes:problem:rate-limited"
    assert 1 <= int(answer["Retry-After"]) <= 12


def test_a_right_key_is_let_in_also_from_an_address_of_many_wrong_ones():
    for _ in range(10):
        ask(wrong())
    assert ask(wrong()).status_code == 429
    assert ask(issue().key).status_code == 200


def test_right_keys_are_not_counted_and_none_at_all_neither():
    key = issue().key
    for _ in range(10):
        assert ask(key).status_code == 200
        assert Client().get(PATH, REMOTE_ADDR="203.0.113.7").status_code == 401
    assert ask(wrong()).status_code == 401


def test_a_key_that_has_ended_is_no_wrong_one():
    issued = issue()
    keys.revoke_key(issued.row.pk, issued.row.created_at)
    keys.forget(issued.row.pk)
    assert [ask(issued.key).status_code for _ in range(8)] == [401] * 8


def test_another_address_is_counted_apart():
    for _ in range(6):
        ask(wrong())
    assert ask(wrong(), address="203.0.113.8").status_code == 401


def test_a_wrong_key_of_a_web_page_counts_once():
    headers = {"authorization": f"Bearer {wrong()}", "origin": "https://a.example"}
    client = Client(headers=headers, enforce_csrf_checks=True)
    asked = [client.post("/api/v1/events", {}, "application/json", REMOTE_ADDR="203.0.113.9") for _ in range(6)]
    assert [answer.status_code for answer in asked] == [401] * 5 + [429]


def test_whoever_says_another_address_is_counted_by_his_own():
    for number in range(6):
        ask(wrong(), HTTP_X_FORWARDED_FOR=f"198.51.100.{number}")
    assert ask(wrong(), HTTP_X_FORWARDED_FOR="198.51.100.99").status_code == 429


def test_behind_a_trusted_proxy_its_clients_are_counted_apart(settings):
    settings.MESHES_TRUSTED_PROXIES = ["203.0.113.0/24"]
    for _ in range(6):
        ask(wrong(), HTTP_X_FORWARDED_FOR="198.51.100.1")
    assert ask(wrong(), HTTP_X_FORWARDED_FOR="198.51.100.1").status_code == 429
    assert ask(wrong(), HTTP_X_FORWARDED_FOR="198.51.100.2").status_code == 401
    assert ask(wrong(), HTTP_X_FORWARDED_FOR="192.0.2.66, 198.51.100.1").status_code == 429


# --- what a 401 says ------------------------------------------------------------------------------------------------


def rule_of(answer):
    assert answer.status_code == 401
    (error,) = answer.json()["errors"]
    assert error["header"] == "Authorization"
    assert error["detail"] == answer.json()["detail"]
    return error["rule"]


def test_a_401_says_what_the_key_is():
    issued = issue()
    assert rule_of(ask(issued.key[:-1])) == "malformed"
    assert rule_of(ask(keys._generate(issued.row.pk))) == "unknown"
    issued.row.expires_at = issued.row.created_at
    issued.row.save(update_fields=["expires_at"])
    keys.forget(issued.row.pk)
    assert rule_of(ask(issued.key)) == "expired"


@pytest.mark.parametrize("headers", [{}, {"HTTP_X_API_KEY": "mesh_live_x"}], ids=["none", "another header"])
def test_without_a_key_the_header_is_named(headers):
    answer = Client().get(PATH, **headers)
    assert rule_of(answer) == "missing"
    assert "`Authorization: Bearer <API key or machine token>`" in answer.json()["detail"]
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("header", ["", "Bearer", "Basic eA==", "Token x"])
def test_a_header_that_holds_no_key_is_malformed(header):
    assert rule_of(Client().get(PATH, HTTP_AUTHORIZATION=header)) == "malformed"
