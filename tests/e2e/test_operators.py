"""Operators against the running stack, over HTTP; its database is only read, for ids and for what has changed."""

import re
import signal
from pathlib import Path
from typing import Any

import psycopg2
import pyotp
import pytest

from tests.e2e.browser import Browser
from tests.e2e.running import RunningUp
from tests.meshes.console.signin.test_factors import OPEN, admin_paths
from tests.polling import eventually

CHOSEN, GIVEN, CLERKS = "violet harbour lantern", "granite meadow whistle", "copper window thistle"
MINE = {"email": "mine@example.com", "password1": CHOSEN, "password2": CHOSEN, "operator_password": CLERKS}


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    with RunningUp(tmp_path_factory.mktemp("operators") / "data") as up:
        yield up


def rows(up: RunningUp, sql: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(up.state["database_url"])
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())
    finally:
        connection.close()


def log_of(folder: Path) -> str:
    return (folder / "logs" / "web.log").read_text()


def make_clerk(up: RunningUp, root: Browser, own: str) -> Browser:
    """A member of staff with view_user and change_user, logged in, made through the admin."""
    root.post("/admin/auth/user/add/", username="clerk", password1=GIVEN, password2=GIVEN, operator_password=own)
    ((pk,),) = rows(up, "SELECT id FROM auth_user WHERE username = 'clerk'")
    rights = rows(up, "SELECT id FROM auth_permission WHERE codename IN ('view_user', 'change_user')")
    given = {"username": "clerk", "is_active": "on", "is_staff": "on", "operator_password": own}
    answer = root.post(f"/admin/auth/user/{pk}/change/", **given, user_permissions=[right for (right,) in rights])
    assert answer.status_code == 302
    clerk = Browser(up)
    clerk.log_in("clerk", GIVEN)
    assert clerk.get("/admin/").headers["Location"] == "/admin/password_change/"
    assert clerk.change_password(GIVEN, CLERKS).status_code == 302
    assert clerk.is_in
    return clerk


def test_an_operator_does_not_make_himself_superuser(up):
    root, own = Browser(up), up.state["admin_password"]
    assert root.log_in("admin", own).headers["Location"] == "/admin/"
    clerk = make_clerk(up, root, own)
    everybody = "SELECT id, username, email, password, is_superuser, is_staff, is_active FROM auth_user ORDER BY id"
    before = rows(up, everybody)
    for pk, *_ in before:
        for fields in ({"is_superuser": "on"} | MINE, {"password": "x"}, {"user_permissions": ["1"]}):
            assert clerk.post(f"/admin/auth/user/{pk}/change/", **fields).status_code == 403
        changed = clerk.post(f"/admin/auth/user/{pk}/password/", new_password1=CHOSEN, new_password2=CHOSEN, **MINE)
        assert changed.status_code == 403
    assert clerk.post("/admin/auth/group/add/", name="x", operator_password=CLERKS).status_code == 403
    assert rows(up, everybody) == before
    assert log_of(up.folder).count('rights_change_refused user="clerk"') == 9
    assert CLERKS not in log_of(up.folder)


@pytest.mark.parametrize("password", ["meshes2026", "adminadmin", "adminadminadmin", "manchesterunited"])
def test_guessable_passwords_are_refused(up, password):
    root, own = Browser(up), up.state["admin_password"]
    root.log_in("admin", own)
    before = rows(up, "SELECT password FROM auth_user WHERE username = 'admin'")
    assert root.change_password(own, password).status_code == 200
    made = root.post(
        "/admin/auth/user/add/", username="weak", password1=password, password2=password, operator_password=own
    )
    assert made.status_code == 200
    assert rows(up, "SELECT password FROM auth_user WHERE username = 'admin'") == before
    assert rows(up, "SELECT 1 FROM auth_user WHERE username = 'weak'") == []


def test_a_changed_password_stays_and_with_a_second_factor_it_shows_no_page(up):
    """The last one here: it stops the stack, and starts it with MESHES_SECOND_FACTOR=1."""
    browser, generated = Browser(up), up.state["admin_password"]
    browser.log_in("admin", generated)
    assert "Your password was not chosen by you." in browser.get("/admin/").text
    assert browser.change_password(generated, CHOSEN).status_code == 302
    up.send(signal.SIGINT)
    up.environment |= {"MESHES_SECOND_FACTOR": "1", "MESHES_SESSION_IDLE_SECONDS": "600"}
    up.start()
    assert up.state["admin_password"] is None
    assert Browser(up).log_in("admin", generated).status_code == 200
    browser.url = up.state["api_url"]
    assert browser.get("/admin/").headers["Location"].startswith("/admin/login/")
    app, codes = set_up_an_app(up)
    assert_a_password_shows_no_page(up)
    assert_each_code_counts_once(up, app, codes)


def set_up_an_app(up: RunningUp) -> tuple[pyotp.TOTP, list[str]]:
    browser = Browser(up)
    assert browser.log_in("admin", CHOSEN).headers["Location"] == "/admin/second-factor/"
    assert browser.get("/admin/second-factor/").headers["Location"] == "/admin/second-factor/set-up/"
    page = browser.get("/admin/second-factor/set-up/").text
    found = re.search(r'<code class="secret">([A-Z2-7 ]+)</code>', page)
    assert found is not None
    app = pyotp.TOTP(found[1].replace(" ", ""))
    shown = browser.post("/admin/second-factor/set-up/", code=app.now())
    assert browser.is_in
    return app, re.findall(r"<li><code>([a-z2-7-]+)</code></li>", shown.text)


def assert_a_password_shows_no_page(up: RunningUp) -> None:
    browser = Browser(up)
    browser.log_in("admin", CHOSEN)
    for path in dict.fromkeys(admin_paths()):
        if path not in OPEN:
            answer = browser.get(path)
            assert (answer.status_code, answer.headers.get("Location")) == (302, "/admin/second-factor/"), path


def assert_each_code_counts_once(up: RunningUp, app: pyotp.TOTP, codes: list[str]) -> None:
    def tries(code: str) -> bool:
        browser = Browser(up)
        browser.log_in("admin", CHOSEN)
        browser.post("/admin/second-factor/", code=code)
        return browser.is_in

    assert [tries(codes[0]), tries(codes[0])] == [True, False]
    spent = app.now()
    eventually(lambda: app.now() != spent, 60)
    fresh = app.now()
    assert [tries(fresh), tries(fresh)] == [True, False]
