"""What `meshes.security` says of logins and refusals: who, from where, on one line, and no secret."""

import json
import logging
import re
import threading
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client, RequestFactory

from meshes.kit import ids
from tests.factories import make_connection, make_workspace
from tests.workspaces.callers import issue
from workspaces import keys, limits, security_log

PASSWORD = "correct horse battery staple"
PATH = "/api/v1/workspaces"
LOGIN = "/admin/login/"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh(redis_client):
    limits._shared.cache_clear()
    security_log.write_refusals()


@pytest.fixture
def ada():
    return User.objects.create_superuser("ada", password=PASSWORD)


@pytest.fixture
def lines(caplog):
    """What was logged since the test began."""
    caplog.set_level(logging.INFO, "meshes.security")

    def read():
        security_log.write_refusals()
        return [record.getMessage() for record in caplog.records if record.name == "meshes.security"]

    return read


def log_in(username, password, **meta):
    data = {"username": username, "password": password}
    return Client(REMOTE_ADDR="203.0.113.7", **meta).post(LOGIN, data)


@pytest.mark.usefixtures("ada")
def test_a_login_and_a_logout_are_logged_with_the_address(lines):
    client = Client(REMOTE_ADDR="2001:db8::7")
    client.post(LOGIN, {"username": "ada", "password": PASSWORD})
    client.post("/admin/logout/")
    assert lines() == [f'{word} user="ada" address="2001:db8::7"' for word in ("login_succeeded", "logged_out")]


@pytest.mark.usefixtures("ada")
def test_a_wrong_password_is_logged_and_is_not_in_the_line(lines):
    log_in("ada", "a wrong one")
    assert lines() == ['login_failed user="ada" address="203.0.113.7"']


def test_what_is_no_user_is_not_repeated_as_it_may_be_a_password(lines):
    log_in(PASSWORD, "x")
    assert lines() == ['login_failed user="(no such user)" address="203.0.113.7"']


@pytest.mark.parametrize("name", ['ada\nlogin_succeeded user="root"', "ada\r", "ada\x1b[2J", "ada\u2028", "ada\x85x"])
def test_no_name_begins_a_line(lines, name):
    log_in(name, "x")
    security_log.log_failed_login(None, name)
    assert set(lines()) == {
        'login_failed user="(no such user)" address="203.0.113.7"',
        'login_failed user="(no such user)"',
    }
    security_log.log_logout(None, User(username=name))
    assert lines()[-1] == f"logged_out user={json.dumps(name)}"


def test_a_user_with_a_name_of_control_characters_keeps_to_the_line(lines):
    security_log.log_logout(None, User(username="ada\n\x1b\u2028\x85"))
    assert lines() == ['logged_out user="ada\\n\\u001b\\u2028\\u0085"']


@pytest.mark.usefixtures("ada")
def test_the_address_is_the_clients_and_nobody_can_say_another(lines, settings):
    log_in("ada", "x", HTTP_X_FORWARDED_FOR="198.51.100.1")
    settings.MESHES_TRUSTED_PROXIES = ["203.0.113.0/24"]
    log_in("ada", "x", HTTP_X_FORWARDED_FOR="192.0.2.1, 198.51.100.1")
    assert [line.rpartition("address=")[2] for line in lines()] == ['"203.0.113.7"', '"198.51.100.1"']


def test_all_other_kinds_name_whom_and_by_whom(lines, ada):
    request = RequestFactory().get("/")
    request.user = User(username="root")
    security_log.log_second_factor(request, ada, passed=False)
    security_log.log_second_factor(request, ada, passed=True, kind="recovery_code")
    security_log.log_second_factor_change(request, ada, "added")
    security_log.log_password_confirmation(request, ada, passed=False)
    security_log.log_password_change(request, ada)
    security_log.log_rights_change(request, ada, ["is_superuser", "+delivery.view_event"])
    security_log.log_ended_sessions(None, None, 3)
    assert lines() == [
        'second_factor_failed user="ada" kind="totp" address="127.0.0.1"',
        'second_factor_succeeded user="ada" kind="recovery_code" address="127.0.0.1"',
        'second_factor_changed user="ada" change="added" by="root" address="127.0.0.1"',
        'password_not_confirmed user="ada" address="127.0.0.1"',
        'password_changed user="ada" by="root" address="127.0.0.1"',
        'rights_changed user="ada" changes=["is_superuser", "+delivery.view_event"] by="root" address="127.0.0.1"',
        'sessions_ended user="" count=3 by="(command)"',
    ]


# --- refusals of the API ----------------------------------------------------------------------------------------------


def ask(credential=None, path=PATH, address="203.0.113.7"):
    headers = {} if credential is None else {"authorization": f"Bearer {credential}"}
    return Client(headers=headers).get(path, REMOTE_ADDR=address).status_code


def test_a_flood_of_wrong_keys_is_a_line_for_each_address_and_kind(lines):
    unknown = keys._generate(ids.uuid7())
    for _ in range(30):
        ask(unknown)
        ask()
    ask("nonsense", address="2001:db8:1:2:3:4:5:6")
    assert lines() == [
        'refused kind="401 unknown" address="203.0.113.7" count=30',
        'refused kind="401 missing" address="203.0.113.7" count=30',
        'refused kind="401 malformed" address="2001:db8:1:2::/64" count=1',
    ]
    assert len(lines()) == 3, "what was written is not written again"


def test_a_key_is_named_where_there_is_one(lines):
    issued = issue()
    ask(keys._generate(issued.row.pk))  # its id with another secret
    keys.revoke_key(issued.row.pk, issued.row.created_at)
    keys.forget(issued.row.pk)
    ask(issued.key)
    weak = issue(scopes=["events:write"])
    assert ask(weak.key) == 403
    assert lines() == [
        f'refused kind="401 unknown" address="203.0.113.7" key="{issued.row.public_id}" count=1',
        f'refused kind="401 revoked" address="203.0.113.7" key="{issued.row.public_id}" count=1',
        f'refused kind="403 forbidden" address="203.0.113.7" key="{weak.row.public_id}" count=1',
    ]


def test_wrong_keys_above_the_limit_are_counted_too_and_right_ones_never(lines, settings):
    settings.MESHES_WRONG_KEYS = 5
    unknown, right = keys._generate(ids.uuid7()), issue(workspace=make_workspace(), kind="workspace").key
    answers = [ask(unknown) for _ in range(8)]
    assert answers == [401] * 5 + [429] * 3
    assert ask(right) == 200
    assert ask(right, f"{PATH}/ws_nothing") == 404
    assert lines() == [
        'refused kind="401 unknown" address="203.0.113.7" count=5',
        'refused kind="429 rate-limited" address="203.0.113.7" count=3',
    ]


def test_pages_links_hosts_and_floods_that_were_refused_are_counted_too(lines, settings):
    staff = User.objects.create_user("staff", is_staff=True)
    client = Client(REMOTE_ADDR="203.0.113.7")
    client.force_login(staff)
    security_log.write_refusals()
    before = len(lines())
    assert client.get("/admin/auth/user/").status_code == 403
    assert client.get("/connect/forged").status_code == 404
    assert client.get("/oauth/outcome/forged").status_code == 404
    assert client.get("/nothing").status_code == 404
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    settings.MESHES_CONNECTION_TESTS = 1
    login = issue()
    hook = make_connection(make_workspace())
    headers = {"authorization": f"Bearer {login.key}"}
    for _ in range(3):
        client.post(f"/api/v1/connections/{hook.public_id}/test", "{}", "application/json", headers=headers)
    assert lines()[before:] == [
        'refused kind="403 page" address="203.0.113.7" user="staff" count=1',
        'refused kind="404 link" address="203.0.113.7" count=2',
        'refused kind="400 host" address="203.0.113.7" count=1',
        f'refused kind="429 rate-limited" address="203.0.113.7" key="{login.row.public_id}" count=2',
    ]


def test_what_was_forged_is_counted(lines):
    login, client = issue(), Client(REMOTE_ADDR="203.0.113.7", enforce_csrf_checks=True)
    assert client.post(LOGIN, {"username": "ada", "password": PASSWORD}).status_code == 403
    assert client.get("/oauth/callback", {"state": "forged", "code": "x"}).status_code == 303
    for cursor in ("A" * 44, "forged"):
        answer = client.get(PATH, {"cursor": cursor}, headers={"authorization": f"Bearer {login.key}"})
        assert answer.status_code == 422
    assert client.get(PATH, {"limit": "x"}, headers={"authorization": f"Bearer {login.key}"}).status_code == 422
    assert lines() == [
        'refused kind="403 page" address="203.0.113.7" count=1',
        'refused kind="400 state" address="203.0.113.7" count=1',
        f'refused kind="422 cursor" address="203.0.113.7" key="{login.row.public_id}" count=2',
    ]


def test_an_origin_that_a_publishable_key_does_not_name_is_counted(lines):
    login = issue(workspace=make_workspace(), kind="publishable", allowed_origins=["https://shop.example"])
    headers = {"authorization": f"Bearer {login.key}", "origin": "https://evil.example"}
    body = json.dumps({"event": "a.b", "payload": {}})
    client = Client(REMOTE_ADDR="203.0.113.7")
    assert client.post("/api/v1/events", body, "application/json", headers=headers).status_code == 403
    assert lines() == [f'refused kind="403 forbidden" address="203.0.113.7" key="{login.row.public_id}" count=1']


WORDS = re.compile(r'"([a-z_]+)", request')


def test_the_page_of_logs_names_every_word_and_kind():
    page = (Path(__file__).parents[2] / "docs/logs.md").read_text()
    source = Path(security_log.__file__).read_text()
    words = {*WORDS.findall(source), "refused", "second_factor_failed", "second_factor_succeeded"}
    assert len(words) > 9
    assert [word for word in sorted(words) if f"`{word}`" not in page] == []


def test_many_addresses_cost_no_memory_and_are_counted_as_others(lines, monkeypatch):
    monkeypatch.setattr(security_log, "MOST_GATHERED", 2)
    for number in range(5):
        ask(address=f"203.0.113.{number}")
    assert lines() == [
        'refused kind="401 missing" address="203.0.113.0" count=1',
        'refused kind="401 missing" address="203.0.113.1" count=1',
        'refused kind="401 missing" address="(others)" count=3',
    ]


def test_they_are_written_without_another_request(caplog, monkeypatch):
    from tests.polling import eventually

    caplog.set_level(logging.INFO, "meshes.security")
    monkeypatch.setattr(security_log, "WINDOW_SECONDS", 0.01)
    ask()
    eventually(lambda: [record for record in caplog.records if record.getMessage().startswith("refused ")])


def test_they_are_written_at_once_where_no_thread_is_to_be_had(caplog, monkeypatch):
    def start(timer):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", start)
    assert [ask(), ask()] == [401, 401]
    written = [record.getMessage() for record in caplog.records if record.name == "meshes.security"]
    assert written == ['refused kind="401 missing" address="203.0.113.7" count=1'] * 2
