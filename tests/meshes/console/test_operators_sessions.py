"""How operators log in and out: what a password may be, and what ends a session."""

from html import unescape

import pytest
from django.conf import settings as of_services
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.test import Client

from tests.meshes.console.signin.people import is_in
from tests.operators import superuser, words

pytestmark = pytest.mark.django_db

PASSWORD = " 'Ωmega' \"tilde~\" and two  blanks, then a hundred letters more " + "x" * 100 + " "
HASHERS = list(of_services.PASSWORD_HASHERS)
NEW_PASSWORD = "another long one that nobody has used before"


def log_in(client: Client, password: str = PASSWORD) -> int:
    return client.post("/admin/login/", {"username": "ada", "password": password}).status_code


@pytest.fixture(autouse=True)
def quick_hashes(settings):
    """Of the slow ones one test is enough."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def user() -> User:
    return User.objects.create_superuser("ada", password=PASSWORD)


@pytest.fixture
def client(user) -> Client:
    client = Client()
    assert log_in(client) == 302
    return client


def test_a_login_takes_no_session_that_a_stranger_chose(user):
    client = Client()
    client.cookies["sessionid"] = chosen = "a" * 32
    assert log_in(client) == 302
    assert client.cookies["sessionid"].value != chosen


def test_a_user_who_is_switched_off_is_out_at_once(client, user):
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert not is_in(client)


def test_a_user_who_is_deleted_is_out_at_once(client, user):
    user.delete()
    assert not is_in(client)


def change_password(client: Client, old: str, new: str = NEW_PASSWORD) -> int:
    form = {"old_password": old, "new_password1": new, "new_password2": new}
    return client.post("/admin/password_change/", form).status_code


def test_a_new_password_takes_the_old_one_and_ends_the_other_sessions(client, user):
    other = Client()
    log_in(other)
    assert change_password(client, "not the old one") == 200
    user.refresh_from_db()
    assert user.check_password(PASSWORD)
    assert change_password(client, PASSWORD) == 302
    assert (is_in(client), is_in(other)) == (True, False)


def test_a_password_is_taken_as_it_was_typed(client, user):
    """Of any characters, longer than 64, without a change of case, and with the blanks at its ends."""
    assert len(PASSWORD) > 128
    for other in (PASSWORD.strip(), PASSWORD.lower(), PASSWORD[:72], PASSWORD[:128]):
        assert not user.check_password(other)
    assert log_in(Client(), PASSWORD.strip()) == 200
    assert change_password(client, PASSWORD, "no capitals and no digits are asked for") == 302


def test_passwords_are_kept_by_a_slow_hash(settings):
    settings.PASSWORD_HASHERS = HASHERS
    algorithm, rounds, salt, _ = make_password(PASSWORD).split("$")
    assert (algorithm, len(salt)) == ("pbkdf2_sha256", 22)
    assert int(rounds) >= 600_000


def test_the_cookies_are_kept_from_other_sites_and_the_session_from_scripts(client):
    cookies = client.cookies
    assert {cookie["samesite"] for cookie in cookies.values()} <= {"Lax", "Strict"}
    assert [name for name, cookie in cookies.items() if not cookie["httponly"]] == []
    assert len(cookies["sessionid"].value) == 32


def test_the_login_asks_for_a_name_and_a_password_and_nothing_else():
    page = Client().get("/admin/login/").content.decode()
    assert 'type="password" name="password" autocomplete="current-password"' in page
    assert "onpaste" not in page
    assert page.count('<input type="text"') == page.count('<input type="password"') == 1


def test_pages_of_operators_are_kept_by_nobody_and_have_a_way_out():
    page = superuser().client.get("/admin/connections/connection/")
    assert {"no-store", "private"} <= set(page["Cache-Control"].split(", "))
    assert "Log out" in words(page)


def test_what_is_said_to_an_operator_is_in_no_cookie():
    client = superuser().client
    answer = client.get("/admin/find/", {"id": "Friends of Ada"})
    assert set(answer.cookies) <= {"csrftoken", "sessionid"}
    assert "Nothing is known by 'Friends of Ada'." in unescape(words(client.get(answer["Location"])))
