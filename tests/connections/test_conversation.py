import base64
import json
import traceback

import pytest

from connections.conversation import QuotedSecretError, Redactor
from connections.messages import Request
from workspaces.vault.secret import MASK, Secret

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
        ("https://\u0430pple.example/hook", "https://xn--pple-43d.example/hook"),
        ("https://example.com/canary%20%221%2F2%22", f"https://example.com/{MASK}"),
    ],
)
def test_urls_keep_the_names_of_their_query_only(url, masked):
    assert Redactor(CREDENTIALS).url(url) == masked


def test_a_secret_that_was_put_on_one_line_is_found():
    redactor = Redactor({"key": Secret("-----BEGIN-----\nabc  def\n-----END-----")})
    assert redactor.text("“-----BEGIN----- abc def -----END-----”") == f"“{MASK}”"


@pytest.mark.parametrize("kept", [6, 7, 12])
def test_the_beginning_of_a_secret_before_a_cut_is_found(kept):
    redactor = Redactor({"token": Secret("canary-1234567")})
    assert redactor.text(f"you sent {'canary-1234567'[:kept]}…”") == f"you sent {MASK}…”"
    assert redactor.body(b"you sent " + b"canary-1234567"[:kept], is_cut=True) == f"you sent {MASK}".encode()


def test_a_text_that_was_not_cut_or_ends_in_a_few_letters_stays():
    redactor = Redactor({"token": Secret("canary-1234567")})
    assert redactor.text("you sent canary… a canary-1") == f"you sent {MASK}… a canary-1"
    assert redactor.text("you sent canar…") == "you sent canar…"
    assert redactor.body(b"you sent canary-1") == b"you sent canary-1"
    assert redactor.body(b"you sent canar", is_cut=True) == b"you sent canar"


def test_an_error_that_quotes_a_secret_leaves_without_it():
    with pytest.raises(QuotedSecretError) as caught, Redactor(CREDENTIALS).guarding():
        raise KeyError(f"no {CANARY}")
    told = "".join(traceback.format_exception(caught.value))
    assert CANARY not in told
    assert f"KeyError: 'no {MASK}'" in told


def test_an_error_whose_cause_quotes_a_secret_leaves_without_it():
    def fail():
        try:
            int(CANARY)
        except ValueError as error:
            raise RuntimeError("it failed") from error

    with pytest.raises(QuotedSecretError) as caught, Redactor(CREDENTIALS).guarding():
        fail()
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_an_error_that_quotes_none_leaves_as_it_is():
    error = KeyError("canary")
    with pytest.raises(KeyError) as caught, Redactor(CREDENTIALS).guarding():
        raise error
    assert caught.value is error


FLOW = "https://x.example.com/workflows/0a1b2c3d4e5f6a7b/paths/invoke?api-version=1&sig=canary-9f3c_0123456789"
WEBHOOK = "https://discord.example.com/api/webhooks/112233/canary-9f3c_0123456789"


@pytest.mark.parametrize(
    ("secret", "text", "masked"),
    [
        (WEBHOOK, f"POST {WEBHOOK}?wait=true", f"POST {MASK}?wait=true"),
        (WEBHOOK, "http://127.0.0.1:9/api/webhooks/112233/canary-9f3c_0123456789", f"http://127.0.0.1:9/{MASK}"),
        (WEBHOOK, '{"id": "112233", "token": "canary-9f3c_0123456789"}', f'{{"id": "112233", "token": "{MASK}"}}'),
        (WEBHOOK + "/", "token canary-9f3c_0123456789", f"token {MASK}"),
        (FLOW, "the sig canary-9f3c_0123456789 is wrong", f"the sig {MASK} is wrong"),
        (FLOW, "invoke api-version 1", "invoke api-version 1"),
        ("https://[", "https://[", f"{MASK}"),
    ],
)
def test_parts_of_a_secret_url_are_found_by_themselves(secret, text, masked):
    assert Redactor({"webhook_url": Secret(secret)}).text(text) == masked


def test_short_secrets_do_not_take_words_with_them():
    assert Redactor({"token": Secret("the")}).text("the answer") == "the answer"


def test_nothing_is_masked_without_secrets():
    assert Redactor({}).body(b"\xff\x00 plain") == b"\xff\x00 plain"
