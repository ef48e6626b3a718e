"""Nobody gives himself rights: only superusers touch them, and whoever does gives the own password again."""

import logging
import re

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from tests.meshes.console.signin.people import OTHER, PASSWORD, grant, make_user
from tests.operators import Operator, said, words

pytestmark = pytest.mark.django_db

CHANGE_USER = ("auth.view_user", "auth.change_user", "auth.add_user", "auth.delete_user")
CHANGE_GROUP = ("auth.view_group", "auth.change_group", "auth.add_group", "auth.delete_group")


def person(name, *permissions, **flags):
    return Operator(make_user(name, *permissions, **flags))


@pytest.fixture
def root():
    return person("root", is_superuser=True)


@pytest.fixture
def clerk():
    return person("clerk", *CHANGE_USER, *CHANGE_GROUP)


@pytest.fixture
def other():
    return person("other").user


def page(user, end="change/"):
    return f"/admin/auth/user/{user.pk}/{end}"


def form(user, **changes):
    """The form of a user's page as a superuser sees it."""
    return {
        "username": user.username, "first_name": user.first_name, "last_name": user.last_name, "email": user.email,
        "is_active": "on", "is_staff": "on", "operator_password": PASSWORD,
    } | changes  # fmt: skip


def row(user):
    """All that a user's row says, and the rights."""
    found = User.objects.filter(pk=user.pk).values().get()
    user = User.objects.get(pk=user.pk)
    return found | {"groups": {*user.groups.all()}, "rights": {*user.user_permissions.all()}}


ATTACKS = {
    "superuser": {"is_superuser": "on"},
    "staff": {"is_staff": "on"},
    "inactive": {"is_active": ""},
    "group": {"groups": "1"},
    "rights": {"user_permissions": "1"},
    "name": {"username": "root2"},
    "password": {"password": OTHER},
    "all": {"is_superuser": "on", "email": "mine@example.com", "password1": OTHER, "password2": OTHER},
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("whose", ["own", "another's", "a superuser's"])
def test_change_user_gives_no_rights(root, clerk, other, caplog, whose, attack):
    target = {"own": clerk.user, "another's": other, "a superuser's": root.user}[whose]
    before = row(target)
    sent = {"first_name": "X", "email": "x@example.com", "operator_password": PASSWORD} | ATTACKS[attack]
    with caplog.at_level(logging.WARNING, "meshes.security"):
        assert clerk.client.post(page(target), sent).status_code == 403
    assert row(target) == before
    assert f'rights_change_refused user="clerk" target="user {target.pk}"' in caplog.text
    assert OTHER not in caplog.text


@pytest.mark.parametrize("whose", ["own", "a superuser's"])
def test_change_user_is_for_others_that_are_no_superusers(root, clerk, whose):
    target = clerk.user if whose == "own" else root.user
    before = row(target)
    assert clerk.client.get(page(target)).status_code == 200
    assert b'name="_save"' not in clerk.client.get(page(target)).content
    assert clerk.client.post(page(target), {"first_name": "X"}).status_code == 403
    assert row(target) == before


def test_change_user_still_edits_names_and_addresses(clerk, other):
    assert clerk.client.post(page(other), {"first_name": "Ada", "email": other.email}).status_code == 302
    other.refresh_from_db()
    assert other.first_name == "Ada"
    sent = {"first_name": "Ada", "email": "new@example.com"}
    for wrong in ("", "not the password"):
        assert clerk.client.post(page(other), sent | {"operator_password": wrong}).status_code == 200
    other.refresh_from_db()
    assert other.email == "other@example.com"
    assert clerk.client.post(page(other), sent | {"operator_password": PASSWORD}).status_code == 302
    other.refresh_from_db()
    assert other.email == "new@example.com"
    assert other.is_staff
    assert other.is_active


@pytest.mark.parametrize("whose", ["own", "another's", "a superuser's"])
def test_only_superusers_set_passwords(root, clerk, other, caplog, whose):
    target = {"own": clerk.user, "another's": other, "a superuser's": root.user}[whose]
    sent = {"operator_password": PASSWORD, "new_password1": OTHER, "new_password2": OTHER}
    sent |= {"password1": OTHER, "password2": OTHER, "usable_password": "true", "set-password": "yes"}
    with caplog.at_level(logging.WARNING, "meshes.security"):
        assert clerk.client.get(page(target, "password/")).status_code == 403
        assert clerk.client.post(page(target, "password/"), sent).status_code == 403
    target.refresh_from_db()
    assert target.check_password(PASSWORD)
    assert caplog.text.count("rights_change_refused") == 1


def test_nobody_but_a_superuser_adds_a_user(clerk):
    sent = {"username": "mine", "password1": OTHER, "password2": OTHER, "operator_password": PASSWORD}
    assert clerk.client.get("/admin/auth/user/add/").status_code == 403
    assert clerk.client.post("/admin/auth/user/add/", sent).status_code == 403
    assert not User.objects.filter(username="mine").exists()


def test_no_user_is_deleted(root, clerk, other):
    for who in (root, clerk):
        assert who.client.post(page(other, "delete/"), {"post": "yes"}).status_code == 403
        who.run("auth_user", "delete_selected", other.pk, post="yes")
    assert User.objects.filter(pk=other.pk).exists()


@pytest.mark.parametrize("path", ["add/", "{pk}/change/", "{pk}/delete/"])
def test_a_group_gives_its_member_no_way_up(clerk, caplog, path):
    group = Group.objects.create(name="clerks")
    clerk.user.groups.add(group)
    grant(group.permissions, *CHANGE_GROUP)
    everything = [permission.pk for permission in Permission.objects.all()]
    sent = {"name": "x", "permissions": everything, "post": "yes", "operator_password": PASSWORD}
    with caplog.at_level(logging.WARNING, "meshes.security"):
        assert clerk.client.post(f"/admin/auth/group/{path.format(pk=group.pk)}", sent).status_code == 403
    clerk.run("auth_group", "delete_selected", group.pk, post="yes")
    assert set(group.permissions.values_list("codename", flat=True)) == {p.partition(".")[2] for p in CHANGE_GROUP}
    assert Group.objects.get().name == "clerks"
    assert "rights_change_refused" in caplog.text
    assert clerk.client.get(f"/admin/auth/group/{group.pk}/change/").status_code == 200


# --- superusers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"is_superuser": "on"}, {"is_active": ""}, {"email": "x@example.com"}, {"username": "x"}]
)
def test_a_superuser_gives_the_own_password_for_a_change(root, other, change):
    before = row(other)
    for wrong in ("", "not the password", OTHER):
        answer = root.client.post(page(other), form(other, **change, operator_password=wrong))
        assert answer.status_code == 200
        assert row(other) == before
    assert root.client.post(page(other), form(other, **change)).status_code == 302
    assert row(other) != before


def test_guesses_at_the_own_password_are_slowed_and_recorded(root, other, settings, caplog):
    settings.MESHES_WRONG_PASSWORDS = 2
    with caplog.at_level(logging.INFO, "meshes.security"):
        answers = [
            root.client.post(page(other), form(other, email="x@y.example", operator_password=OTHER)) for _ in "123"
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert root.client.post(page(other), form(other, email="x@y.example")).status_code == 429
    other.refresh_from_db()
    assert other.email == "other@example.com"
    assert caplog.text.count('password_not_confirmed user="root"') == 2
    assert OTHER not in caplog.text


def test_a_change_of_a_first_name_needs_no_password(root, other):
    assert root.client.post(page(other), form(other, first_name="Ada", operator_password="")).status_code == 302
    assert LogEntry.objects.get().get_change_message() == "Changed First name."


def test_rights_are_given_and_recorded(root, other, caplog):
    right = Permission.objects.get(codename="view_event")
    with caplog.at_level(logging.WARNING, "meshes.security"):
        assert root.client.post(page(other), form(other, user_permissions=[right.pk])).status_code == 302
    assert {*other.user_permissions.all()} == {right}
    assert 'rights_changed user="other" changes=["user_permissions"] by="root"' in caplog.text


def test_whoever_is_in_a_changed_group_is_named(root, other, caplog):
    group = Group.objects.create(name="readers")
    other.groups.add(group)
    right = Permission.objects.get(codename="view_event")
    sent = {"name": "readers", "permissions": [right.pk], "operator_password": PASSWORD}
    with caplog.at_level(logging.WARNING, "meshes.security"):
        root.client.post(f"/admin/auth/group/{group.pk}/change/", sent)
        root.client.post(f"/admin/auth/group/{group.pk}/delete/", sent | {"post": "yes"})
    assert caplog.text.count('rights_changed user="other" changes=["group readers"] by="root"') == 2


@pytest.mark.parametrize("attack", ["superuser", "staff", "group", "rights"])
def test_no_superuser_touches_the_own_rights(root, attack):
    before = row(root.user)
    assert root.client.post(page(root.user), form(root.user) | ATTACKS[attack]).status_code == 403
    own = {"username": "root", "first_name": "Ada", "email": root.user.email}
    assert root.client.post(page(root.user), own).status_code == 302
    assert row(root.user) == before | {"first_name": "Ada"}


def test_a_superuser_sets_a_password_by_giving_the_own(root, other):
    sent = {"new_password1": OTHER, "new_password2": OTHER}
    for wrong in ("", OTHER):
        assert root.client.post(page(other, "password/"), sent | {"operator_password": wrong}).status_code == 200
        other.refresh_from_db()
        assert other.check_password(PASSWORD)
    answer = root.client.post(page(other, "password/"), sent | {"operator_password": PASSWORD})
    assert answer.url == page(other)
    other.refresh_from_db()
    assert other.check_password(OTHER)
    assert root.client.get(page(root.user, "password/")).url == "/admin/password_change/"
    assert root.client.get("/admin/auth/user/99999/password/").status_code == 404


def test_a_superuser_adds_a_user_by_giving_the_own_password(root):
    sent = {"username": "new", "password1": OTHER, "password2": OTHER}
    assert root.client.post("/admin/auth/user/add/", sent | {"operator_password": OTHER}).status_code == 200
    assert not User.objects.filter(username="new").exists()
    assert root.client.post("/admin/auth/user/add/", sent | {"operator_password": PASSWORD}).status_code == 302
    made = User.objects.get(username="new")
    assert (made.is_staff, made.is_superuser) == (False, False)


def test_groups_are_changed_by_giving_the_own_password(root):
    right = Permission.objects.get(codename="view_event")
    sent = {"name": "readers", "permissions": [right.pk]}
    assert root.client.post("/admin/auth/group/add/", sent).status_code == 200
    assert not Group.objects.exists()
    assert root.client.post("/admin/auth/group/add/", sent | {"operator_password": PASSWORD}).status_code == 302
    group = Group.objects.get()
    change, delete = (f"/admin/auth/group/{group.pk}/{end}/" for end in ("change", "delete"))
    assert root.client.post(change, {"name": "x", "operator_password": OTHER}).status_code == 200
    assert {*group.permissions.all()} == {right}
    assert root.client.post(change, {"name": "readers", "operator_password": PASSWORD}).status_code == 302
    assert not group.permissions.exists()
    assert "Your own password" in words(root.client.get(delete))
    assert said(root.client.post(delete, {"post": "yes", "operator_password": OTHER})) == [
        "This is not your present password."
    ]
    assert Group.objects.exists()
    root.client.post(delete, {"post": "yes", "operator_password": PASSWORD})
    assert not Group.objects.exists()


def test_no_page_shows_a_part_of_a_password(root, other):
    digest = other.password.split("$")[-1]
    text = root.client.get(page(other)).content.decode()
    assert other.password.split("$")[0] not in text
    assert digest[:6] not in text


def test_a_password_is_changed_by_giving_the_old_one(clerk):
    sent = {"new_password1": OTHER, "new_password2": OTHER}
    assert clerk.client.post("/admin/password_change/", sent | {"old_password": OTHER}).status_code == 200
    clerk.user.refresh_from_db()
    assert clerk.user.check_password(PASSWORD)
    assert clerk.client.post("/admin/password_change/", sent | {"old_password": PASSWORD}).status_code == 302
    clerk.user.refresh_from_db()
    assert clerk.user.check_password(OTHER)
    assert Client().login(username="clerk", password=OTHER)


def test_rights_are_offered_on_what_has_a_page_alone(root, other):
    group = Group.objects.create(name="Support")
    gone = {"payload", "routingledger", "sealeddocument", "oauthstate", "idempotencyrecord", "contenttype"}
    for page in (f"user/{other.pk}", f"group/{group.pk}"):
        shown = root.client.get(f"/admin/auth/{page}/change/").content.decode()
        offered = re.findall(r'<option value="(\d+)"[^>]*>[^<]*\| Can view', shown)
        models = set(Permission.objects.filter(pk__in=offered).values_list("content_type__model", flat=True))
        assert models >= {"event", "delivery", "connection", "user", "operatorsession"}
        assert not models & gone
