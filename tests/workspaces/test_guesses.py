"""How fast passwords may be guessed, and that nobody is locked out by somebody else's limits."""

import hashlib
import threading

import pytest
from django.conf import settings as configured
from django.contrib.auth.models import User
from django.core import signing
from django.test import Client, RequestFactory

from workspaces import limits, security_log
from workspaces.limits import TooManyGuessesError

PASSWORD = "correct horse battery staple"
LOGIN = "/admin/login/"
HERE, THERE = "203.0.113.7", "198.51.100.1"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh(redis_client, settings):
    settings.MESHES_WRONG_PASSWORDS = 4
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # not what is tested, and quick
    limits._shared.cache_clear()
    User.objects.create_superuser("ada", password=PASSWORD)
    User.objects.create_superuser("bob", password=PASSWORD)


def log_in(password, username="ada", address=HERE, client=None, **meta):
    client = client or Client()
    return client.post(LOGIN, {"username": username, "password": password}, REMOTE_ADDR=address, **meta)


def statuses(number, password="wrong", **options):
    return [log_in(password, **options).status_code for _ in range(number)]


def test_after_some_wrong_passwords_the_next_is_not_tried_and_told_when_it_will_be():
    assert statuses(6) == [200] * 4 + [429] * 2
    answer = log_in(PASSWORD)
    assert answer.status_code == 429
    assert 1 <= int(answer["Retry-After"]) <= 15
    assert answer["Cache-Control"] == "no-store"
    assert b"was not tried" in answer.content
    assert configured.SESSION_COOKIE_NAME not in answer.cookies


def test_right_passwords_are_not_counted():
    assert statuses(10, PASSWORD) == [302] * 10


def test_the_right_user_gets_in_from_another_address():
    assert statuses(30)[-1] == 429
    assert log_in(PASSWORD, address=THERE).status_code == 302


def test_another_user_of_that_address_waits_too():
    assert statuses(5)[-1] == 429
    assert log_in(PASSWORD, username="bob").status_code == 429


def test_a_user_who_is_guessed_from_many_addresses_gets_in_by_his_own_browser():
    known = Client()
    assert log_in(PASSWORD, client=known).status_code == 302
    known.post("/admin/logout/", REMOTE_ADDR=HERE)
    for number in range(8):
        statuses(4, address=f"192.0.2.{number}")
    assert log_in(PASSWORD, address=THERE).status_code == 429
    assert log_in(PASSWORD, address=THERE, client=known).status_code == 302


def test_a_known_browser_guesses_no_faster_and_for_its_own_user_only():
    known = Client()
    log_in(PASSWORD, client=known)
    known.post("/admin/logout/", REMOTE_ADDR=HERE)
    assert statuses(6, client=known) == [200] * 4 + [429] * 2
    assert statuses(6, client=known, username="bob") == [200] * 4 + [429] * 2


@pytest.mark.parametrize("value", ["", "x", "x.y:1:z", "é", "a" * 5000])
def test_a_forged_cookie_is_none(value):
    statuses(4)
    client = Client()
    client.cookies[configured.MESHES_DEVICE_COOKIE_NAME] = value
    assert log_in(PASSWORD, client=client).status_code == 429


def test_a_browser_that_logged_in_under_an_earlier_version_is_known():
    statuses(30)
    client = Client()
    signer = signing.TimestampSigner(salt="workspaces.guesses.device")
    cookie = signer.sign(f"browser.{hashlib.sha256(b'ada').hexdigest()[:32]}")
    client.cookies[configured.MESHES_DEVICE_COOKIE_NAME] = cookie
    assert log_in(PASSWORD, client=client).status_code == 302


def test_another_address_that_is_only_said_changes_nothing():
    answers = [log_in("wrong", HTTP_X_FORWARDED_FOR=f"198.51.100.{number}").status_code for number in range(6)]
    assert answers == [200] * 4 + [429] * 2


def test_guesses_at_once_are_not_more_than_one_after_the_other():
    request = RequestFactory().get("/")
    tried, refused = [], []

    def guess():
        try:
            limits.try_guess(request, "password", "ada", lambda: bool(tried.append(1)))
        except TooManyGuessesError:
            refused.append(1)

    threads = [threading.Thread(target=guess) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(tried), len(refused)) == (4, 16)


def test_without_a_broker_guesses_are_counted_in_the_process(settings):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    limits._shared.cache_clear()
    assert statuses(6) == [200] * 4 + [429] * 2
    assert log_in(PASSWORD, address=THERE).status_code == 302
    limits._shared.cache_clear()


@pytest.mark.parametrize(("kind", "most"), [("code", 4), ("confirmation", 4)])
def test_codes_and_confirmations_are_counted_by_user_wherever_they_come_from(kind, most):
    def guess(address, username="ada", is_right=False):
        request = RequestFactory().get("/", REMOTE_ADDR=address)
        return limits.try_guess(request, kind, username, lambda: is_right)

    assert [guess(HERE, is_right=True) for _ in range(10)] == [True] * 10
    assert [guess(f"192.0.2.{number}") for number in range(most)] == [False] * most
    with pytest.raises(TooManyGuessesError) as refused:
        guess(THERE, is_right=True)
    assert 0 < refused.value.seconds <= 15
    assert guess(THERE, username="bob", is_right=True)


def test_the_wait_grows_to_that_of_the_hour_and_no_further(redis_client):
    request = RequestFactory().get("/")
    for _ in range(10):  # as if ten minutes passed, of wrong ones
        for key in redis_client.keys("meshes:guesses:*:minute"):
            redis_client.delete(key)
        for _ in range(4):
            limits.try_guess(request, "password", "ada", lambda: False)
    with pytest.raises(TooManyGuessesError) as refused:
        limits.try_guess(request, "password", "ada", lambda: False)
    assert 60 < refused.value.seconds <= 90  # 40 an hour


def test_what_was_not_tried_is_counted_for_the_log(caplog):
    security_log.write_refusals()
    caplog.clear()
    statuses(7)
    security_log.write_refusals()
    lines = [record.getMessage() for record in caplog.records if record.name == "meshes.security"]
    assert lines == [
        *(['login_failed user="ada" address="203.0.113.7"'] * 4),
        'refused kind="429 password" address="203.0.113.7" count=3',
    ]
