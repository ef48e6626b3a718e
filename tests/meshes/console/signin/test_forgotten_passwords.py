"""Who has forgotten a password gets another one, and that is no way around the second factor."""

from io import StringIO

import pytest
from django.contrib.auth.management.commands import changepassword
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from tests.meshes.console.signin.people import (
    PASSWORD,
    give_password,
    is_in,
    make_superuser,
    make_user,
    set_up,
    sign_in,
)

pytestmark = pytest.mark.django_db

NEW = "cobalt thicket marmalade"


def set_by_superuser(user, monkeypatch):
    form = {"new_password1": NEW, "new_password2": NEW, "operator_password": PASSWORD}
    answer = sign_in(make_superuser()).post(f"/admin/auth/user/{user.pk}/password/", form)
    assert answer.status_code == 302


def set_by_command(user, monkeypatch):
    monkeypatch.setattr(changepassword.Command, "_get_pass", lambda *_, **__: NEW)
    call_command("changepassword", user.username, stdout=StringIO())


@pytest.mark.parametrize("set_password", [set_by_superuser, set_by_command])
def test_a_new_password_still_needs_the_second_factor(monkeypatch, set_password):
    user = make_user()
    app, _ = set_up(user)
    set_password(user, monkeypatch)
    client, answer = give_password(user, password=NEW)
    assert answer.url == "/admin/second-factor/"
    assert not is_in(client)
    assert client.get("/admin/second-factor/set-up/").status_code == 302
    assert client.post("/admin/second-factor/", {"code": app.code()}).status_code == 302
    assert "_auth_user_id" in client.session
    old, answer = give_password(user)
    assert answer.status_code == 200
    assert not is_in(old)


def test_nobody_resets_a_password_by_himself():
    for path in ("/admin/password_reset/", "/accounts/password_reset/", "/password_reset/"):
        assert Client().get(path).status_code in {302, 404}
    assert b"orgot" not in Client().get("/admin/login/").content


def test_migrations_make_no_user():
    assert not User.objects.exists()
