"""What replies of token endpoints mean, when a token is due, and how tokens stand in a document."""

from datetime import UTC, datetime, timedelta

import pytest

from connections.oauth import tokens
from connections.oauth.tokens import Client, read_clients
from connections.providers.base import CLIENT_CREDENTIALS, OAuth
from tests.connections.providers.shipments import as_secrets
from workspaces.vault.secret import Secret

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
YEAR = 365 * 86_400.0
MAILCHIMP = OAuth(refreshes=False)
HUBSPOT = OAuth(lifetime_seconds=1800)


def document(life: float, issued_at: datetime = NOW, **more: str):
    """A document whose token lives so many seconds."""
    ends = (issued_at + timedelta(seconds=life)).isoformat()
    return as_secrets({"access_token": "a", "issued_at": issued_at.isoformat(), "expires_at": ends, **more})


# --- lifetimes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "assumed", "meant"),
    [
        (1800, None, 1800.0),
        ("3599", None, 3599.0),
        (" 60 ", None, 60.0),
        (0, None, None),  # Mailchimp: never
        (0, 1800.0, 1800.0),
        (-1, 1800.0, 1800.0),
        ("-1", None, None),
        (None, None, None),  # Salesforce: learn by a refusal
        (None, 1800.0, 1800.0),
        ("soon", 1800.0, 1800.0),
        (True, 1800.0, 1800.0),
        ([1800], 1800.0, 1800.0),
        (float("nan"), 1800.0, 1800.0),
        ("nan", 60.0, 60.0),
        ("inf", 60.0, YEAR),
        (10**400, 60.0, 60.0),
        (10**12, 60.0, YEAR),
        (YEAR + 1, None, YEAR),
        (0.5, None, 0.5),
    ],
)
def test_a_lifetime_is_what_the_vendor_says_within_reason(said, assumed, meant):
    assert tokens.read_lifetime(said, assumed) == meant


@pytest.mark.parametrize(
    ("life", "due_seconds_before"),
    [(1800, 300), (43_200, 4320), (86_400, 8640), (3600, 360), (600, 300), (60, 30), (8, 5)],
)
def test_a_token_is_due_before_its_end(life, due_seconds_before):
    """The larger of five minutes and a tenth, but no more than half of a short life."""
    due_at = NOW + timedelta(seconds=life - due_seconds_before)
    assert not tokens.is_due(document(life), due_at - timedelta(seconds=1))
    assert tokens.is_due(document(life), due_at)
    assert not tokens.is_expired(document(life), due_at - timedelta(seconds=1))


def test_a_token_is_over_when_a_request_would_come_too_late():
    assert not tokens.is_expired(document(1800), NOW + timedelta(seconds=1794))
    assert tokens.is_expired(document(1800), NOW + timedelta(seconds=1795))


def test_a_token_without_an_end_is_never_due():
    kept = as_secrets({"access_token": "a", "issued_at": NOW.isoformat()})
    assert not tokens.is_due(kept, NOW + timedelta(days=4000))
    assert not tokens.is_expired(kept, NOW + timedelta(days=4000))


def test_without_a_token_one_is_due():
    assert tokens.is_due({}, NOW)
    assert tokens.is_expired({}, NOW)


@pytest.mark.parametrize("unreadable", ["soon", "", "2026-99-01"])
def test_an_end_that_cannot_be_read_is_none(unreadable):
    kept = document(1800) | {"expires_at": Secret(unreadable)}
    assert not tokens.is_due(kept, NOW + timedelta(days=1))


# --- replies --------------------------------------------------------------------------------------------------------


def test_a_reply_is_read():
    reply = {
        "access_token": "acc", "refresh_token": "ref", "expires_in": 1800, "token_type": "bearer", "scope": "a b",
    }  # fmt: skip
    assert tokens.read_tokens(reply, HUBSPOT, NOW) == tokens.Tokens(
        Secret("acc"), Secret("ref"), "bearer", frozenset({"a", "b"}), NOW, NOW + timedelta(minutes=30)
    )


def test_what_a_reply_leaves_out_is_left_out():
    read = tokens.read_tokens({"access_token": "acc", "expires_in": 0, "scope": None}, MAILCHIMP, NOW)
    assert read == tokens.Tokens(Secret("acc"), None, "Bearer", None, NOW, None)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"scope": "a,b, c"}, {"a", "b", "c"}),
        ({"scopes": ["a", 1, "b"]}, {"a", "b"}),
        ({"scope": "", "scopes": ["a"]}, {"a"}),
        ({"scope": "  "}, None),
        ({"scope": 3}, None),
    ],
)
def test_scopes_come_in_several_forms(said, meant):
    assert tokens.read_tokens({"access_token": "acc", **said}, HUBSPOT, NOW).scopes == meant


@pytest.mark.parametrize("bad", [None, "", 3, ["a"], "two words", "line\r\nbreak", "ümlaut", "x" * 20_000])
def test_what_cannot_stand_in_a_header_is_no_token(bad):
    with pytest.raises(ValueError, match="no usable access token"):
        tokens.read_tokens({"access_token": bad}, HUBSPOT, NOW)


# --- documents ------------------------------------------------------------------------------------------------------


def test_a_refresh_keeps_what_it_does_not_name():
    before = document(1800, refresh_token="old", scope="a", token_type="bearer", other="kept")
    later = NOW + timedelta(minutes=25)
    after = tokens.merged(before, tokens.Tokens(Secret("new"), None, "bearer", None, later, None))
    assert after == as_secrets(
        {
            "access_token": "new", "refresh_token": "old", "scope": "a", "token_type": "bearer", "other": "kept",
            "issued_at": later.isoformat(),
        }
    )  # fmt: skip


def test_a_refresh_takes_what_it_names():
    new = tokens.Tokens(Secret("new"), Secret("next"), "bearer", frozenset({"b", "a"}), NOW, None)
    after = tokens.merged(document(1800, refresh_token="old", scope="c"), new)
    assert (after["refresh_token"], after["scope"]) == (Secret("next"), Secret("a b"))


def test_a_new_authorization_keeps_nothing_of_the_one_before():
    new = tokens.Tokens(Secret("new"), None, "bearer", None, NOW, None)
    after = tokens.granted(document(1800, refresh_token="old", scope="c", other="kept"), new)
    assert set(after) == {"access_token", "token_type", "issued_at", "other"}


def test_given_tokens_show_nothing_of_themselves():
    given = document(1800, access_token="a-long-access-token-1234", refresh_token="a-long-refresh-token-1234")
    hints = tokens.hints_of({**given, "other": Secret("a-long-secret-9876")})
    assert hints == {"access_token": "••••", "refresh_token": "••••", "other": "••••9876"}


def test_a_typed_in_token_is_known_by_its_end():
    assert tokens.hints_of(as_secrets({"access_token": "a-long-access-token-1234"})) == {"access_token": "••••1234"}


def test_only_secrets_are_masked_in_records():
    assert set(tokens.secrets_of(document(1800, token_type="Bearer", refresh_token="r"))) == {
        "access_token",
        "refresh_token",
    }


@pytest.mark.parametrize(
    ("oauth", "config", "kept", "can"),
    [
        (None, {}, {"refresh_token": "r", "issued_at": "x"}, False),
        (HUBSPOT, {}, {"refresh_token": "r", "issued_at": "x"}, True),
        (HUBSPOT, {}, {"access_token": "typed in"}, False),
        (MAILCHIMP, {}, {"refresh_token": "r", "issued_at": "x"}, False),
        (CLIENT_CREDENTIALS, {"oauth_token_url": "u"}, {"oauth_client_id": "i", "oauth_client_secret": "s"}, True),
        (CLIENT_CREDENTIALS, {"oauth_token_url": "u"}, {"oauth_client_id": "i"}, False),
        (CLIENT_CREDENTIALS, {}, {"oauth_client_id": "i", "oauth_client_secret": "s"}, False),
    ],
)
def test_who_can_have_another_token(oauth, config, kept, can):
    assert tokens.can_renew(oauth, config, as_secrets(kept)) is can


@pytest.mark.parametrize(
    ("oauth", "changed", "after", "void"),
    [
        (None, {"access_token": "x"}, {}, False),
        (HUBSPOT, {"access_token": "x"}, {}, True),
        (HUBSPOT, {"access_token": None}, {}, True),
        (HUBSPOT, {"other": "x"}, {"url": "else"}, False),
        (CLIENT_CREDENTIALS, {"oauth_client_secret": "x"}, {"oauth_token_url": "u"}, True),
        (CLIENT_CREDENTIALS, {"oauth_client_id": None}, {"oauth_token_url": "u"}, True),
        (CLIENT_CREDENTIALS, {}, {"oauth_token_url": "v"}, True),
        (CLIENT_CREDENTIALS, {}, {"oauth_token_url": "u", "oauth_scope": "s"}, True),
        (CLIENT_CREDENTIALS, {"password": "x"}, {"oauth_token_url": "u", "url": "else"}, False),
    ],
)
def test_which_edits_make_tokens_void(oauth, changed, after, void):
    assert tokens.are_void(oauth, changed, {"oauth_token_url": "u"}, after) is void


# --- the installation's apps, as the environment names them ----------------------------------------------------------


def test_a_list_of_pairs():
    clients = read_clients("hubspot=app-1:s3cret, salesforce=3MVG9.x:a:b=c,")
    assert clients == {"hubspot": Client("app-1", Secret("s3cret")), "salesforce": Client("3MVG9.x", Secret("a:b=c"))}


def test_a_json_object():
    assert read_clients(' {"slack": {"id": "1.2", "secret": "a,b"}}') == {"slack": Client("1.2", Secret("a,b"))}


def test_nothing():
    assert read_clients("") == {}


@pytest.mark.parametrize(
    "text",
    ["hubspot", "hubspot=app", "=app:canary", "hubspot=:canary", "hubspot=app:", '{"a": "canary"}', '{"a": {"id": 1}}'],
)
def test_what_is_not_whole_is_refused_and_not_quoted(text):
    with pytest.raises(ValueError, match="each integration needs") as caught:
        read_clients(text)
    assert "canary" not in str(caught.value)


def test_what_is_no_json_is_refused_and_not_quoted():
    with pytest.raises(ValueError, match="it is not JSON") as caught:
        read_clients('{"canary":')
    assert "canary" not in repr(caught.value)
    assert caught.value.__suppress_context__


def test_a_secret_does_not_show():
    assert "s3cret" not in repr(read_clients("hubspot=app:s3cret"))
