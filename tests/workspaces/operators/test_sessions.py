"""Who reads the table of sessions cannot log in with what stands there."""

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client

from workspaces.operators.sessions import SessionStore

pytestmark = pytest.mark.django_db

NAME = settings.SESSION_COOKIE_NAME


def log_in() -> Client:
    user = User.objects.create_superuser("root", password="the password of root")
    client = Client()
    answer = client.post("/admin/login/", {"username": user.username, "password": "the password of root"})
    assert answer.status_code == 302
    return client


def is_let_in(client: Client) -> bool:
    return client.get("/admin/").status_code == 200


def with_cookie(value: str) -> Client:
    client = Client()
    client.cookies[NAME] = value
    return client


def test_what_is_kept_of_a_session_logs_nobody_in():
    client = log_in()
    cookie = client.cookies[NAME].value
    kept = Session.objects.get()
    assert is_let_in(with_cookie(cookie))
    assert not is_let_in(with_cookie(kept.session_key))
    assert cookie not in str(Session.objects.values().get())


def test_logging_out_ends_the_session():
    client = log_in()
    stolen = with_cookie(client.cookies[NAME].value)
    client.post("/admin/logout/")
    assert not is_let_in(stolen)
    assert not Session.objects.exists()


def test_a_session_keeps_what_it_is_given_and_is_one_row():
    session = SessionStore()
    session["n"] = 1
    session.save()
    session["n"] = 2
    session.save()
    assert session.session_key is not None
    assert SessionStore(session.session_key)["n"] == 2
    assert session.exists(session.session_key)
    assert Session.objects.count() == 1
    session.delete()
    assert not session.exists(session.session_key)
