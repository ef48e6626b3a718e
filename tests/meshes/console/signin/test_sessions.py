"""Sessions end: by themselves, from outside, and with what they rested on. What is kept of one logs nobody in."""

import logging
from datetime import timedelta
from io import StringIO

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group, Permission, User
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.test import Client

from delivery.dispatch import sweep
from meshes.console.signin.models import OperatorSession
from meshes.console.signin.sessions import SessionStore, stored
from meshes.console.signin.users import browser_name
from tests.meshes.console.signin.people import (
    OTHER,
    PASSWORD,
    give_password,
    is_in,
    make_superuser,
    make_user,
    set_up,
    sign_in,
)
from tests.operators import said, words

pytestmark = pytest.mark.django_db

NAME = django_settings.SESSION_COOKIE_NAME
LIST = "/admin/signin/operatorsession/"


def with_cookie(value):
    client = Client()
    client.cookies[NAME] = value
    return client


def cookie(client):
    return client.cookies[NAME].value


def age(**times):
    """Move moments of all sessions into the past: `age(seen_at=60)`."""
    OperatorSession.objects.update(**{name: Now() - timedelta(seconds=seconds) for name, seconds in times.items()})


def test_what_is_kept_of_a_session_logs_nobody_in():
    client = sign_in(make_user())
    kept = OperatorSession.objects.get()
    assert is_in(with_cookie(cookie(client)))
    assert not is_in(with_cookie(kept.session_key))
    assert cookie(client) not in str(OperatorSession.objects.values().get())


def test_logging_out_ends_the_session():
    client = sign_in(make_user())
    stolen = with_cookie(cookie(client))
    client.post("/admin/logout/")
    assert not is_in(stolen)
    assert not OperatorSession.objects.filter(user__isnull=False).exists()


def test_a_session_keeps_what_it_is_given_and_is_one_row():
    session = SessionStore()
    session["n"] = 1
    session.save()
    session["n"] = 2
    session.save()
    assert session.session_key is not None
    assert SessionStore(session.session_key)["n"] == 2
    assert session.exists(session.session_key)
    assert OperatorSession.objects.count() == 1
    session.delete()
    assert not session.exists(session.session_key)


# --- by themselves --------------------------------------------------------------------------------------------------


def test_the_limits_are_half_an_hour_and_twelve_hours():
    assert (django_settings.MESHES_SESSION_IDLE_SECONDS, django_settings.MESHES_SESSION_SECONDS) == (1800, 43200)
    assert django_settings.SESSION_COOKIE_AGE == 43200


@pytest.mark.parametrize(
    ("times", "is_open"),
    [
        ({"seen_at": 1790}, True),
        ({"seen_at": 1801}, False),
        ({"started_at": 43100, "seen_at": 0}, True),
        ({"started_at": 43201, "seen_at": 0}, False),
    ],
)
def test_a_session_ends_after_idleness_and_after_its_time(times, is_open):
    client = sign_in(make_user())
    age(**times)
    assert is_in(client) is is_open


def test_a_shorter_limit_counts_at_once(settings):
    client = sign_in(make_user())
    age(seen_at=100)
    settings.MESHES_SESSION_IDLE_SECONDS = 90
    assert not is_in(client)


def test_a_page_keeps_a_session_alive_and_what_its_script_fetches_does_not():
    client = sign_in(make_user())
    age(seen_at=1700)
    before = OperatorSession.objects.get().seen_at
    assert client.get("/admin/jsi18n/", headers={"Sec-Fetch-Dest": "empty"}).status_code == 200
    assert OperatorSession.objects.get().seen_at == before
    assert client.get("/admin/", headers={"Sec-Fetch-Dest": "document"}).status_code == 200
    assert OperatorSession.objects.get().seen_at > before


def test_a_page_leaves_the_screen_when_its_session_ends():
    """By a page that needs no session and keeps none alive, which leads back."""
    client = sign_in(make_user("ada", "delivery.view_event"))
    left = client.get("/admin/delivery/event/?o=1")["Refresh"]
    seconds, _, place = left.partition("; url=")
    assert 1790 <= int(seconds) <= 1800
    assert place == "/admin/away/?next=%2Fadmin%2Fdelivery%2Fevent%2F%3Fo%3D1"
    age(started_at=43000, seen_at=1700)
    before = OperatorSession.objects.get().seen_at
    page = client.get(place)
    assert 'href="/admin/delivery/event/?o=1"' in page.content.decode()
    assert "Refresh" not in page
    assert OperatorSession.objects.get().seen_at == before
    seconds, _, _ = client.get("/admin/")["Refresh"].partition(";")
    assert 0 <= int(seconds) <= 200  # all that is left of twelve hours


@pytest.mark.parametrize(
    "next_", ["https://evil.example/", "//evil.example/admin/", "/\\evil.example", "javascript:1", ""]
)
def test_it_leads_back_to_pages_of_operators_alone(next_):
    page = Client().get("/admin/away/", {"next": next_}).content.decode()
    assert 'href="/admin/"' in page
    assert "evil" not in page


def test_browsers_keep_nothing_of_a_session_that_is_over():
    user = make_user()
    client = sign_in(user)
    assert "Clear-Site-Data" not in client.get("/admin/")
    assert client.post("/admin/logout/")["Clear-Site-Data"] == '"cache", "storage"'
    client = sign_in(user)
    age(seen_at=1801)
    assert client.get("/admin/")["Clear-Site-Data"] == '"cache", "storage"'
    assert "Clear-Site-Data" not in Client().get("/admin/login/")


def test_logging_in_again_and_giving_the_password_again_begin_a_new_session():
    user = make_user()
    client = sign_in(user)
    for path, sent in (
        ("/admin/login/", {"username": "ada", "password": PASSWORD}),
        ("/admin/sign-in/", {"operator_password": PASSWORD, "change": "set-up"}),
    ):
        old = cookie(client)
        assert client.post(path, sent).status_code == 302
        assert cookie(client) != old
        assert is_in(client)
        stranger = Client()
        stranger.cookies["sessionid"] = old
        assert not is_in(stranger)
    assert OperatorSession.objects.count() == 1


def test_requests_of_the_api_and_probes_touch_no_session():
    client = sign_in(make_user())
    age(seen_at=1700)
    before = OperatorSession.objects.get().seen_at
    for path in ("/healthz", "/api/v1/workspaces", "/api/docs", "/"):
        client.get(path)
    assert OperatorSession.objects.get().seen_at == before


def test_what_is_over_is_swept():
    user = make_user()
    sign_in(user)
    age(seen_at=1801)
    client = sign_in(user)
    logins = next(each for each in sweep.sweeps() if each.name == "logins")
    assert (logins.runs_while_held, sweep.run_once(logins), sweep.run_once(logins)) == (True, 1, 0)
    assert is_in(client)


def test_a_new_key_starts_no_new_time():
    client = sign_in(make_user())
    age(started_at=40_000)
    before = OperatorSession.objects.values("started_at", "address", "browser").get()
    sent = {"old_password": PASSWORD, "new_password1": OTHER, "new_password2": OTHER}
    key = cookie(client)
    assert client.post("/admin/password_change/", sent).status_code == 302
    assert cookie(client) != key
    assert is_in(client)
    assert OperatorSession.objects.values("started_at", "address", "browser").get() == before


# --- with what they rested on ---------------------------------------------------------------------------------------


def test_a_new_password_ends_all_other_sessions(caplog):
    user = make_user()
    client, elsewhere = sign_in(user), sign_in(user)
    sent = {"old_password": PASSWORD, "new_password1": OTHER, "new_password2": OTHER}
    with caplog.at_level(logging.INFO, "meshes.security"):
        client.post("/admin/password_change/", sent)
    assert is_in(client)
    assert not is_in(elsewhere)
    assert OperatorSession.objects.filter(user=user).count() == 1
    assert 'password_changed user="ada" by="ada"' in caplog.text


def lose(user, what):
    right, group = Permission.objects.get(codename="view_event"), Group.objects.get(name="readers")
    match what:
        case "set_password":
            user.set_password(OTHER)
            user.save()
        case "right":
            user.user_permissions.remove(right)
        case "right, from its side":
            right.user_set.remove(user)
        case "all rights":
            user.user_permissions.clear()
        case "group":
            user.groups.remove(group)
        case "group, from its side":
            group.user_set.clear()
        case "right of the group":
            group.permissions.set([])
        case "right of the group, from its side":
            right.group_set.clear()
        case "the group itself":
            group.delete()
        case flag:
            setattr(user, flag, False)
            user.save(update_fields=[flag])


LOST = ("set_password", "is_active", "is_staff", "is_superuser", "right", "right, from its side", "all rights", "group",
        "group, from its side", "right of the group",
        "right of the group, from its side", "the group itself")  # fmt: skip


@pytest.mark.parametrize("what", LOST)
def test_a_loss_ends_the_sessions_of_whom_it_concerns(what):
    user, other = make_superuser("ada"), make_user("eve")
    right, group = Permission.objects.get(codename="view_event"), Group.objects.create(name="readers")
    group.permissions.add(right)
    user.user_permissions.add(right)
    user.groups.add(group)
    client, elsewhere, theirs = sign_in(user), sign_in(user), sign_in(other)
    lose(User.objects.get(pk=user.pk), what)
    assert [is_in(each) for each in (client, elsewhere, theirs)] == [False, False, True]
    assert not OperatorSession.objects.filter(user=user).exists()


def test_a_gain_and_a_renewed_hash_end_nothing():
    user = make_user()
    client = sign_in(user)
    user.is_superuser = True
    user.first_name = "Ada"
    user.save()
    user.user_permissions.add(Permission.objects.get(codename="view_event"))
    User.objects.filter(pk=user.pk).update(password=make_password(PASSWORD, hasher="default"))
    assert OperatorSession.objects.filter(user=user).count() == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django.contrib.auth.hashers.MD5PasswordHasher.must_update", lambda *_: True)
        sign_in(user)
    assert OperatorSession.objects.filter(user=user).count() == 2
    assert client is not None


# --- the list -------------------------------------------------------------------------------------------------------

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def end(client, *sessions, password=PASSWORD, action="end", confirm="yes"):
    sent = {"action": action, "_selected_action": [session.pk for session in sessions], "confirm": confirm,
            "operator_password": password}  # fmt: skip
    return client.post(LIST, {name: value for name, value in sent.items() if value is not None})


def test_the_list_tells_whose_since_from_where_and_by_which_browser():
    client = sign_in(make_user(), HTTP_USER_AGENT=FIREFOX, REMOTE_ADDR="203.0.113.7")
    session = OperatorSession.objects.get()
    text = words(client.get(LIST))
    assert "Your sessions" in text
    for shown in ("ada", "203.0.113.7", "Firefox on Linux", f"{session.started_at:%Y-%m-%d %H:%M:%S}", "this one"):
        assert shown in text
    page = client.get(f"{LIST}{session.pk}/change/")
    assert "Firefox on Linux" in words(page)
    assert f"{LIST}{session.pk}/do/end/".encode() in page.content


def test_a_session_is_ended_from_its_page():
    user = make_user()
    client, elsewhere = sign_in(user), sign_in(user)
    other = OperatorSession.objects.exclude(pk=own_key(client)).get()
    asked = client.post(f"{LIST}{other.pk}/do/end/")
    assert "End these sessions?" in words(asked)
    assert is_in(elsewhere)
    client.post(f"{LIST}{other.pk}/do/end/", {"confirm": "yes", "operator_password": PASSWORD})
    assert [is_in(client), is_in(elsewhere)] == [True, False]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (FIREFOX, "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Mobile Safari/604.1", "Safari on iOS"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Chrome/140.0 Safari/537.36", "Chrome on macOS"),
        ("curl/8.5.0", "curl/8.5.0"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("", ""),
    ],
)
def test_browsers_are_named(text, name):
    assert browser_name(text) == name


def test_everybody_sees_and_ends_the_own_sessions_alone():
    ada, eve = make_user("ada"), make_user("eve")
    client, theirs = sign_in(ada), sign_in(eve)
    text = words(client.get(LIST))
    assert "ada" in text
    assert "eve" not in text
    foreign = OperatorSession.objects.get(user=eve)
    assert client.get(f"{LIST}{foreign.pk}/change/").status_code == 302
    end(client, foreign)
    end(client, foreign, action="end_all_of_the_user")
    client.post(f"{LIST}{foreign.pk}/do/end/", {"confirm": "yes", "operator_password": PASSWORD})
    assert is_in(theirs)


def test_ending_asks_for_the_password_and_is_recorded(caplog):
    user = make_user()
    client, elsewhere = sign_in(user), sign_in(user)
    other = OperatorSession.objects.exclude(pk=own_key(client)).get()
    assert "End these sessions?" in words(end(client, other, confirm=None))
    for wrong in ("", OTHER):
        assert end(client, other, password=wrong).status_code == 200
    assert is_in(elsewhere)
    with caplog.at_level(logging.INFO, "meshes.security"):
        assert said(end(client, other)) == ["1 session ended."]
    assert not is_in(elsewhere)
    assert is_in(client)
    assert 'sessions_ended user="ada" count=1 by="ada"' in caplog.text


def own_key(client):
    return stored(cookie(client))


def test_a_superuser_ends_all_of_a_user():
    root, ada, eve = make_superuser(), make_user("ada"), make_user("eve")
    client, first, second, theirs = sign_in(root), sign_in(ada), sign_in(ada), sign_in(eve)
    end(client, OperatorSession.objects.filter(user=ada).first(), action="end_all_of_the_user")
    assert [is_in(each) for each in (client, first, second, theirs)] == [True, False, False, True]


def test_ending_the_own_session_logs_out():
    client = sign_in(make_user())
    assert end(client, OperatorSession.objects.get()).url == "/admin/login/"
    assert not is_in(client)


def test_who_has_given_a_password_alone_has_no_session_to_show():
    ada, root = make_user("ada"), make_superuser()
    set_up(ada)
    give_password(ada)
    assert "ada" not in words(sign_in(root).get(LIST))


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_ends_one_s_sessions_or_all(caplog):
    ada, eve = make_user("ada"), make_user("eve")
    clients = [sign_in(ada), sign_in(ada), sign_in(eve)]
    out = StringIO()
    with caplog.at_level(logging.INFO, "meshes.security"):
        call_command("end_sessions", "ada", stdout=out)
    assert "2 sessions ended." in out.getvalue()
    assert [is_in(client) for client in clients] == [False, False, True]
    assert 'sessions_ended user="ada" count=2 by="(command)"' in caplog.text
    call_command("end_sessions", "--all", stdout=out)
    assert not is_in(clients[2])
    with pytest.raises(CommandError, match="There is no operator 'nobody'"):
        call_command("end_sessions", "nobody")
    with pytest.raises(CommandError):
        call_command("end_sessions")
