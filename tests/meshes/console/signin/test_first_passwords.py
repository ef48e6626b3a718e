"""A password that somebody else chose is for a first login: what `make up` generates, and what a superuser sets."""

import json

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError
from django.test import Client

from meshes.console.signin.models import FirstPassword
from meshes.dev.management.commands.provision import provide_admin
from meshes.dev.stack import Stack
from meshes.dev.stack_folder import StackFolder
from tests.meshes.console.signin.people import OTHER, PASSWORD, is_in, make_superuser, make_user, sign_in
from tests.operators import words

pytestmark = pytest.mark.django_db

THIRD = "copper window thistle"


@pytest.fixture
def folder(tmp_path):
    folder = StackFolder(tmp_path / "data")
    folder.ensure_secrets()
    return folder


def kept(folder):
    return folder.read_env()["MESHES_ADMIN_PASSWORD"]


def log_in(password, username="admin"):
    client = Client()
    client.post("/admin/login/", {"username": username, "password": password})
    return client


def change(client, old, new):
    return client.post("/admin/password_change/", {"old_password": old, "new_password1": new, "new_password2": new})


def test_the_generated_password_is_set_for_a_user_that_is_made(folder):
    generated = kept(folder)
    provide_admin(folder, "")
    admin = User.objects.get()
    assert (admin.username, admin.is_staff, admin.is_superuser) == ("admin", True, True)
    assert admin.check_password(generated)
    assert kept(folder) == generated


def test_until_it_is_changed_a_banner_says_so(folder):
    provide_admin(folder, "")
    client = log_in(kept(folder))
    assert "Your password was not chosen by you." in words(client.get("/admin/"))
    assert change(client, kept(folder), OTHER).status_code == 302
    assert "Your password was not chosen by you." not in words(client.get("/admin/"))
    assert "Your password was not chosen by you." not in words(log_in(OTHER).get("/admin/"))


def test_where_there_is_https_it_must_be_changed(folder, settings):
    provide_admin(folder, "")
    settings.SESSION_COOKIE_SECURE = True
    client = log_in(kept(folder))
    for path in ("/admin/", "/admin/auth/user/", "/admin/delivery/event/", "/admin/sign-in/", "/admin/jsi18n/"):
        assert client.get(path, secure=True).url == "/admin/password_change/", path
        assert client.post(path, secure=True).url == "/admin/password_change/", path
    assert "Choose another before you go on" in words(client.get("/admin/password_change/", secure=True))


def test_a_changed_one_survives_a_restart_and_is_known_to_nobody_else(folder):
    provide_admin(folder, "")
    change(log_in(kept(folder)), kept(folder), OTHER)
    for _ in range(2):
        folder.ensure_secrets()
        provide_admin(folder, "")
        assert is_in(log_in(OTHER))
        assert kept(folder) == ""
    assert not FirstPassword.objects.exists()
    assert published(folder)["admin_password"] is None


def published(folder):
    folder.update_env({"MESHES_ACCOUNT_KEY": "key", "DATABASE_URL": "d", "REDIS_URL": "r"})
    stack = Stack(folder, {"MESHES_ADMIN_PASSWORD": PASSWORD}, port=1, durable=False, report=print)
    return json.loads(json.dumps(stack.state()))


def test_a_given_one_is_set_once(folder):
    provide_admin(folder, PASSWORD)
    assert is_in(log_in(PASSWORD))
    assert published(folder)["admin_password"] == PASSWORD
    assert not FirstPassword.objects.exists()
    change(log_in(PASSWORD), PASSWORD, OTHER)
    provide_admin(folder, PASSWORD)
    assert is_in(log_in(OTHER))
    assert published(folder)["admin_password"] is None
    provide_admin(folder, "")
    assert is_in(log_in(OTHER))


def test_another_given_one_is_set_for_who_has_lost_the_first(folder):
    provide_admin(folder, "")
    change(log_in(kept(folder)), kept(folder), OTHER)
    provide_admin(folder, THIRD)
    assert is_in(log_in(THIRD))
    assert not is_in(log_in(OTHER))
    assert kept(folder) == THIRD


@pytest.mark.parametrize("password", ["admin", "adminadminadmin", "violet harbour\nlantern of the north"])
def test_a_weak_given_one_is_refused(folder, password):
    with pytest.raises(CommandError, match="MESHES_ADMIN_PASSWORD: "):
        provide_admin(folder, password)
    assert not User.objects.exists()


def test_a_stack_of_an_earlier_version_keeps_its_user_and_gets_the_banner(folder):
    User.objects.create_superuser("admin", password=kept(folder))
    provide_admin(folder, "")
    assert "Your password was not chosen by you." in words(log_in(kept(folder)).get("/admin/"))


# --- by a superuser -------------------------------------------------------------------------------------------------


def test_one_that_a_superuser_has_set_is_good_for_one_login(folder):
    root, user = make_superuser(), make_user()
    sent = {"operator_password": PASSWORD, "new_password1": OTHER, "new_password2": OTHER}
    sign_in(root).post(f"/admin/auth/user/{user.pk}/password/", sent)
    client = log_in(OTHER, "ada")
    assert client.get("/admin/").url == "/admin/password_change/"
    assert change(client, OTHER, OTHER).status_code == 200
    assert client.get("/admin/").url == "/admin/password_change/"
    assert change(client, OTHER, THIRD).status_code == 302
    assert is_in(client)
    assert is_in(log_in(THIRD, "ada"))


def test_so_is_that_of_a_user_that_a_superuser_has_made():
    sent = {"username": "new", "password1": OTHER, "password2": OTHER, "operator_password": PASSWORD}
    sign_in(make_superuser()).post("/admin/auth/user/add/", sent)
    User.objects.filter(username="new").update(is_staff=True)
    assert log_in(OTHER, "new").get("/admin/").url == "/admin/password_change/"


def test_logging_out_is_free_before_the_change():
    user = make_user()
    FirstPassword.objects.create(user=user, origin="superuser")
    client = log_in(PASSWORD, "ada")
    assert client.post("/admin/logout/").status_code == 200
    assert client.get("/admin/").url.startswith("/admin/login/")
