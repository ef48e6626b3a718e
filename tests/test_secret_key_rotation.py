"""What is derived from SECRET_KEY: accepted while that key is among SECRET_KEY_FALLBACKS, and refused after."""

import base64
import hmac
import re
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core import signing
from django.test import Client, RequestFactory

from connections.oauth import authorize, pages
from meshes.api.pages import decode_cursor, encode_cursor
from meshes.kit import ids
from tests.connections.oauth.conftest import integrations, vendor  # noqa: F401
from tests.connections.oauth.making import opened
from tests.connections.oauth.test_authorize import come_back, make, person, start
from tests.connections.oauth.test_pages import link_of, path_of, proof_on
from tests.workspaces.callers import caller
from workspaces import limits

pytestmark = pytest.mark.django_db
PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture
def key(settings):
    """`key.rotate()`: a new SECRET_KEY, the one before behind it. `key.retire()`: the one before is gone."""
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "of the time before", []

    class Key:
        def rotate(self):
            settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
            settings.SECRET_KEY = "of the time after"

        def retire(self):
            settings.SECRET_KEY_FALLBACKS = []

    return Key()


def test_a_session_of_an_operator(key):
    user = User.objects.create(username="ada", is_staff=True, is_superuser=True)
    used, unused = Client(), Client()
    used.force_login(user)
    unused.force_login(user)
    key.rotate()
    assert used.get("/admin/").status_code == 200
    key.retire()
    assert used.get("/admin/").status_code == 200  # which was renewed when it was seen
    answer = unused.get("/admin/")
    assert (answer.status_code, answer["Location"].partition("?")[0]) == (302, "/admin/login/")


def test_a_cursor(key):
    cursor = (ids.uuid7(), False)
    text = encode_cursor(cursor, "/here")
    key.rotate()
    assert decode_cursor(text, "/here") == cursor
    assert encode_cursor(cursor, "/here") != text
    key.retire()
    assert decode_cursor(text, "/here") is None


def test_a_connect_link_and_the_proof_on_its_page(key, vendor):  # noqa: F811
    path = path_of(link_of(caller(), make()))
    browser = Client()
    proof = proof_on(browser.get(path))
    key.rotate()
    assert browser.get(path).status_code == 200
    assert browser.post(path, {"proof": proof}).status_code == 200
    key.retire()
    assert browser.post(path, {"proof": proof}).status_code == 404
    assert pages.read_link(path.removeprefix("/connect/")) is None


def test_a_proof_alone(key):
    proof = pages._proof("cookie", "token", "of the time before")
    assert pages._is_proven(proof, "cookie", "token")
    key.rotate()
    assert pages._is_proven(proof, "cookie", "token")
    key.retire()
    assert not pages._is_proven(proof, "cookie", "token")


def test_an_authorization_that_is_under_way_with_pkce(key, vendor):  # noqa: F811
    connection = make()
    answer = vendor.consent(start(caller(), connection))
    verifier = authorize.verifier_of(answer["state"])
    key.rotate()
    assert authorize.verifier_of(answer["state"]) == verifier
    assert come_back(answer).status_code == 200
    connection.refresh_from_db()
    assert (connection.status, "access_token" in opened(connection).secret) == ("active", True)


def test_a_ticket_that_was_made_before_and_is_opened_after(key, vendor):  # noqa: F811
    connection = make()
    browser = person()
    answer = vendor.consent(start(caller(), connection, browser))
    key.rotate()
    fresh = vendor.consent(start(caller(), make(), browser))
    assert answer["state"][authorize.RANDOM_CHARACTERS :] != fresh["state"][authorize.RANDOM_CHARACTERS :]
    assert come_back(answer, browser).status_code == 200
    assert come_back(fresh, browser).status_code == 200


def test_an_authorization_under_a_key_that_is_gone_is_refused_by_the_vendor(key, vendor):  # noqa: F811
    connection = make()
    answer = vendor.consent(start(caller(), connection))
    key.rotate()
    key.retire()
    assert come_back(answer).status_code == 400
    connection.refresh_from_db()
    assert connection.status == "needs_reauth"


def test_a_state_of_an_earlier_version_is_of_the_present_key(key):
    present = b"meshes: PKCE verifier\0of the time before"
    expected = base64.urlsafe_b64encode(hmac.digest(present, b"s" * 43, "sha256")).rstrip(b"=").decode()
    assert authorize.verifier_of("s" * 43) == expected


def test_the_page_that_tells_how_an_authorization_ended(key):
    token = signing.dumps(["Title", "Words", ""], salt=pages.OUTCOME_SALT)
    key.rotate()
    assert Client().get(f"/oauth/outcome/{token}").status_code == 400
    key.retire()
    assert Client().get(f"/oauth/outcome/{token}").status_code == 404


def test_the_cookie_of_a_browser_in_which_somebody_has_logged_in(key, settings):
    request = RequestFactory().get("/")
    request.COOKIES[settings.MESHES_DEVICE_COOKIE_NAME] = limits.make_device_cookie("ada")
    device = limits._device_of(request, "ada")
    assert device is not None
    key.rotate()
    assert limits._device_of(request, "ada") == device
    key.retire()
    assert limits._device_of(request, "ada") is None


def test_nothing_else_is_derived_from_it():
    """Who adds a use adds a test above."""
    pattern = re.compile(
        r"salted_hmac\(|Signer\(|signing\.(dumps|loads)\(|settings\.SECRET_KEY\b|token_generator|get_signed_cookie"
    )
    folders = [PROJECT / name for name in ("connections", "delivery", "meshes", "workspaces")]
    files = [path for folder in folders for path in folder.rglob("*.py") if pattern.search(path.read_text())]
    assert {str(path.relative_to(PROJECT)) for path in files} == {
        "connections/oauth/pages.py",
        "connections/oauth/authorize.py",
        "meshes/checks.py",  # whether it is strong
        "meshes/api/pages.py",
        "workspaces/limits.py",
    }
