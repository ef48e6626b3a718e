import base64
import json

import pytest

from connections.masking import Redactor
from connections.messages import Request
from connections.secret import MASK, Secret

CANARY = 'canary "1/2"'
CREDENTIALS = {"token": Secret(CANARY), "previous": [{"secret": Secret("whsec_YWJjZGVmZ2hpamts")}], "count": 3}
BASIC = "Basic " + base64.b64encode(b"ada:a long password").decode()


@pytest.mark.parametrize(
    "form", [CANARY, json.dumps(CANARY), "canary%20%221%2F2%22", base64.b64encode(CANARY.encode()).decode()]
)
def test_a_secret_is_found_in_the_forms_in_which_it_travels(form):
    redactor = Redactor(CREDENTIALS)
    assert CANARY not in redactor.text(f"you sent {form}!")
    assert redactor.text(f"you sent {form}!").startswith("you sent ")
    assert MASK.encode() in redactor.body(f"\xff {form}".encode("latin-1"))


def test_nested_secrets_are_found_with_and_without_their_prefix():
    redactor = Redactor(CREDENTIALS)
    assert redactor.text("whsec_YWJjZGVmZ2hpamts YWJjZGVmZ2hpamts") == f"{MASK} {MASK}"


def test_what_was_made_of_a_secret_is_found_in_the_answer():
    request = Request("POST", "https://example.com", (("authorization", BASIC),))
    redactor = Redactor({}, request)
    assert redactor.body(BASIC.encode()) == f"Basic {MASK}".encode()


def test_headers_are_masked_by_name_or_by_content():
    sent = [("Authorization", BASIC), ("X-Api-Key", "k"), ("X-Echo", f"a {CANARY}"), ("X-Team", "crm")]
    assert Redactor(CREDENTIALS).headers([*sent, ("Set-Cookie", "sid=1; Path=/")]) == [
        ["Authorization", f"Basic {MASK}"],
        ["X-Api-Key", MASK],
        ["X-Echo", f"a {MASK}"],
        ["X-Team", "crm"],
        ["Set-Cookie", MASK],
    ]


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://example.com/hook", "https://example.com/hook"),
        ("https://example.com/hook?key=abc&b=&c", f"https://example.com/hook?key={MASK}&b={MASK}&c={MASK}"),
        ("https://example.com/canary%20%221%2F2%22", f"https://example.com/{MASK}"),
    ],
)
def test_urls_keep_the_names_of_their_query_only(url, masked):
    assert Redactor(CREDENTIALS).url(url) == masked


def test_short_secrets_do_not_take_words_with_them():
    assert Redactor({"token": Secret("the")}).text("the answer") == "the answer"


def test_nothing_is_masked_without_secrets():
    assert Redactor({}).body(b"\xff\x00 plain") == b"\xff\x00 plain"
