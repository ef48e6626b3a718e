"""A password alone shows no page where a second factor is needed; every code counts once."""

import base64
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.models.functions import Now
from django.test import Client
from django.urls import URLPattern, URLResolver

from meshes.console.signin import factors
from meshes.console.signin.models import Authenticator, OperatorSession, RecoveryCode
from meshes.kit import clock
from tests.meshes.console.signin.people import (
    OTHER,
    PASSWORD,
    give_password,
    is_in,
    make_superuser,
    make_user,
    scan,
    set_up,
    shown_codes,
    sign_in,
)
from tests.operators import words
from workspaces.vault import sealing

pytestmark = pytest.mark.django_db

# RFC 6238, appendix B, SHA-1: the secret "12345678901234567890", eight digits.
RFC_6238 = {59: "94287082", 1111111109: "07081804", 1111111111: "14050471", 1234567890: "89005924",
            2000000000: "69279037", 20000000000: "65353130"}  # fmt: skip


def admin_paths():
    """A path for every route below /admin/, with something where a parameter stands."""

    def walk(patterns, prefix):
        for pattern in patterns:
            if isinstance(pattern, URLResolver):
                yield from walk(pattern.url_patterns, prefix + str(pattern.pattern))
            else:
                assert isinstance(pattern, URLPattern)
                yield prefix + str(pattern.pattern)

    for route in walk(admin.site.get_urls(), "/admin/"):
        if "(?P<app_label>" in route:
            yield "/admin/auth/"
        elif "(?P<url>" in route:
            yield from ("/admin/nothing", "/admin/auth/user")
        else:
            yield (
                route.replace("<path:object_id>", "1")
                .replace("<id>", "1")
                .replace("<slug:action>", "end")
                .replace("<path:content_type_id>", "1")
            )


OPEN = {"/admin/login/", "/admin/away/", "/admin/second-factor/", "/admin/second-factor/set-up/"}


@pytest.mark.parametrize("moment", RFC_6238)
def test_codes_are_those_of_the_rfc(monkeypatch, moment):
    monkeypatch.setattr(factors, "present_step", lambda: moment // 30)
    code = RFC_6238[moment][-6:]
    assert factors.matching_step(b"12345678901234567890", code) == moment // 30
    assert factors.matching_step(b"12345678901234567891", code) is None


def test_a_password_alone_shows_no_page():
    user = make_superuser()
    app, _ = set_up(user)
    client, answer = give_password(user)
    assert answer.url == "/admin/second-factor/"
    paths = list(dict.fromkeys(admin_paths()))
    assert len(paths) > 100
    for path in paths:
        if path in OPEN:
            continue
        for method in (client.get, client.post):
            answer = method(path)
            assert (answer.status_code, answer["Location"]) == (302, "/admin/second-factor/"), path
    assert client.get("/admin/second-factor/set-up/").url == "/admin/login/"
    page = client.get("/admin/second-factor/")
    assert page.status_code == 200
    assert "Dead letters" not in words(page)
    assert client.post("/admin/second-factor/", {"code": app.code()}).url == "/admin/"
    assert is_in(client)


def test_no_route_but_the_steps_is_open_to_strangers():
    client = Client()
    for path in admin_paths():
        answer = client.get(path)
        if path in {"/admin/login/", "/admin/away/"}:
            continue
        assert answer.status_code == 302, path
        assert answer["Location"].startswith("/admin/login/") or path == "/admin/logout/", path


def test_where_it_is_enforced_it_is_set_up_before_any_page(settings):
    settings.MESHES_SECOND_FACTOR = True
    user = make_user()
    client, answer = give_password(user)
    assert answer.url == "/admin/second-factor/"
    assert client.get(answer.url).url == "/admin/second-factor/set-up/"
    for path in admin_paths():
        if path not in OPEN:
            assert client.get(path)["Location"] == "/admin/second-factor/", path
    page = client.get("/admin/second-factor/set-up/")
    app = scan(page)
    assert b"<svg" in page.content
    assert b"style=" not in page.content
    assert client.post("/admin/second-factor/set-up/", {"code": "000000"}).status_code == 200
    assert not Authenticator.objects.exists()
    assert not is_in(client)
    shown = client.post("/admin/second-factor/set-up/", {"code": app.code()})
    codes = shown_codes(shown)
    assert len(set(codes)) == 10
    assert is_in(client)
    assert Client().get("/admin/").status_code == 302
    again, _ = give_password(user)
    again.post("/admin/second-factor/", {"code": codes[0]})
    assert is_in(again)


def test_of_two_browsers_with_the_password_one_sets_it_up(settings, monkeypatch):
    """Also where both are asked for the first code at the same moment."""
    settings.MESHES_SECOND_FACTOR = True
    user = make_user()
    (first, _), (second, _) = give_password(user), give_password(user)
    apps = [scan(client.get("/admin/second-factor/set-up/")) for client in (first, second)]
    assert apps[0].totp.secret != apps[1].totp.secret
    first.post("/admin/second-factor/set-up/", {"code": apps[0].code()})
    kept = Authenticator.objects.values().get()
    with monkeypatch.context() as patch:
        patch.setattr("meshes.console.signin.steps._who_may_set_up", lambda request: user)
        answer = second.post("/admin/second-factor/set-up/", {"code": apps[1].code()})
    assert answer.url == "/admin/second-factor/"
    assert second.post("/admin/second-factor/set-up/", {"code": apps[1].code()}).url == "/admin/login/"
    assert Authenticator.objects.values().get() == kept
    assert RecoveryCode.objects.count() == 10
    assert [is_in(client) for client in (first, second)] == [True, False]


def test_a_session_of_before_it_was_enforced_is_not_enough(settings):
    client = sign_in(make_user())
    settings.MESHES_SECOND_FACTOR = True
    assert client.get("/admin/").url == "/admin/login/?next=/admin/"
    assert client.get("/admin/login/").status_code == 200
    assert not OperatorSession.objects.filter(user__isnull=False).exists()


def test_a_code_counts_once():
    user = make_user()
    app, _ = set_up(user)
    code = app.code()
    sign_in(user, app)
    other, _ = give_password(user)
    answer = other.post("/admin/second-factor/", {"code": code})
    assert "was used before" in words(answer)
    assert not is_in(other)


def test_an_older_code_does_not_count_after_a_newer_one():
    user = make_user()
    app, _ = set_up(user)
    older = app.code(steps_ago=1)
    assert factors.use_code(user, app.code()) == "totp"
    assert factors.use_code(user, older) is None


def test_a_code_is_good_for_its_step_and_the_next():
    user = make_user()
    app, _ = set_up(user)
    assert factors.use_code(user, app.code(steps_ago=3)) is None
    assert factors.use_code(user, app.code(steps_ago=-2)) is None
    assert factors.use_code(user, app.code(steps_ago=1)) == "totp"


def test_a_recovery_code_counts_once():
    user = make_user()
    _, codes = set_up(user)
    sign_in_by_recovery(user, codes[3].upper().replace("-", " "))
    other, _ = give_password(user)
    assert other.post("/admin/second-factor/", {"code": codes[3]}).status_code == 200
    assert not is_in(other)
    assert RecoveryCode.objects.count() == 9


def sign_in_by_recovery(user, code):
    client, _ = give_password(user)
    client.post("/admin/second-factor/", {"code": code})
    assert is_in(client)
    return client


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", ["totp", "recovery_code"])
def test_of_twenty_at_once_one_counts(kind):
    user = make_user()
    app, codes = set_up(user)
    code = app.code() if kind == "totp" else codes[0]

    def use(_):
        try:
            return factors.use_code(user, code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(10) as pool:
        used = list(pool.map(use, range(20)))
    assert sorted(filter(None, used)) == [kind]


def test_guesses_at_a_code_are_slowed_and_recorded(settings, caplog):
    settings.MESHES_WRONG_PASSWORDS = 3
    user = make_user()
    app, _ = set_up(user)
    client, _ = give_password(user)
    with caplog.at_level(logging.INFO, "meshes.security"):
        answers = [client.post("/admin/second-factor/", {"code": f"00000{n}"}).status_code for n in range(5)]
        assert answers == [200, 200, 200, 429, 429]
        assert client.post("/admin/second-factor/", {"code": app.code()}).status_code == 429
    assert caplog.text.count('second_factor_failed user="ada"') == 3
    assert "login_succeeded" not in caplog.text


def test_a_login_is_recorded_when_all_has_been_given(caplog):
    user = make_user()
    app, _ = set_up(user)
    with caplog.at_level(logging.INFO, "meshes.security"):
        client, _ = give_password(user)
        assert "login_succeeded" not in caplog.text
        client.post("/admin/second-factor/", {"code": app.code()})
    assert 'second_factor_succeeded user="ada" kind="totp"' in caplog.text
    assert 'login_succeeded user="ada"' in caplog.text
    assert app.code() not in caplog.text


def test_the_session_has_a_new_key_at_each_step():
    user = make_user()
    app, _ = set_up(user)
    client = Client()
    client.cookies["sessionid"] = "a key that somebody planted here"
    keys = ["a key that somebody planted here"]
    give_password(user, client)
    keys.append(client.cookies["sessionid"].value)
    client.post("/admin/second-factor/", {"code": app.code()})
    keys.append(client.cookies["sessionid"].value)
    assert len(set(keys)) == 3
    for old in keys[:2]:
        stranger = Client()
        stranger.cookies["sessionid"] = old
        assert not is_in(stranger)


def test_a_password_waits_ten_minutes_for_the_second_factor():
    user = make_user()
    app, _ = set_up(user)
    client, _ = give_password(user)
    OperatorSession.objects.update(started_at=Now() - timedelta(minutes=9))
    assert client.get("/admin/second-factor/").status_code == 200
    OperatorSession.objects.update(started_at=Now() - timedelta(minutes=11))
    assert client.post("/admin/second-factor/", {"code": app.code()}).url == "/admin/login/"
    assert not is_in(client)


@pytest.mark.parametrize(("seconds", "where"), [(570, None), (630, "/admin/sign-in/")])
def test_what_was_given_to_change_the_second_factor_counts_for_ten_minutes(monkeypatch, seconds, where):
    user = make_user()
    app, _ = set_up(user)
    client = sign_in(user, app)
    Authenticator.objects.update(last_step=0)
    started = client.post("/admin/sign-in/", {"operator_password": PASSWORD, "code": app.code(), "change": "set-up"})
    assert started.url == "/admin/second-factor/set-up/"
    new = scan(client.get("/admin/second-factor/set-up/"))
    later = clock.database_now() + timedelta(seconds=seconds)
    monkeypatch.setattr(clock, "database_now", lambda: later)
    assert client.get("/admin/second-factor/set-up/").headers.get("Location") == where
    client.post("/admin/second-factor/set-up/", {"code": new.code()})
    secret = factors.open_secret(user, Authenticator.objects.get().secret)
    assert base64.b32encode(secret).decode() == (new if where is None else app).totp.secret


@pytest.mark.parametrize("change", [{"is_active": False}, {"is_staff": False}, {"password": "another"}])
def test_between_the_steps_the_user_must_stay_who_he_was(change):
    user = make_user()
    app, _ = set_up(user)
    client, _ = give_password(user)
    User.objects.filter(pk=user.pk).update(**change)
    assert client.post("/admin/second-factor/", {"code": app.code()}).url == "/admin/login/"
    assert not is_in(client)


def test_another_s_code_lets_nobody_in():
    ada, eve = make_user("ada"), make_user("eve")
    set_up(ada)
    hers, codes = set_up(eve)
    client, _ = give_password(ada)
    for code in (hers.code(), codes[0]):
        client.post("/admin/second-factor/", {"code": code})
    assert not is_in(client)
    assert RecoveryCode.objects.filter(user=eve).count() == 10


def test_a_destination_stays_on_this_site():
    user = make_user()
    app, _ = set_up(user)
    for asked, led in (
        ("/admin/auth/", "/admin/auth/"),
        ("https://evil.example/", "/admin/"),
        ("//evil.example", "/admin/"),
    ):
        client = Client()
        client.post("/admin/login/", {"username": "ada", "password": PASSWORD, "next": asked})
        Authenticator.objects.update(last_step=0)
        assert client.post("/admin/second-factor/", {"code": app.code()}).url == led


# --- what is kept ---------------------------------------------------------------------------------------------------


def everything_stored():
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE 'operator%%' OR tablename LIKE 'auth%%'")
        texts = []
        for (table,) in cursor.fetchall():
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            texts += [row[0] for row in cursor.fetchall()]
    return "\n".join(texts)


def test_no_row_holds_a_secret_or_a_code(settings):
    settings.MESHES_SECOND_FACTOR = True
    user = make_user()
    client, _ = give_password(user)
    page = client.get("/admin/second-factor/set-up/")
    app = scan(page)
    before = everything_stored()
    codes = shown_codes(client.post("/admin/second-factor/set-up/", {"code": app.code()}))
    stored = before + everything_stored()
    assert len(codes) == 10
    for secret in (app.totp.secret, app.totp.byte_secret().hex(), *codes, *(code.replace("-", "") for code in codes)):
        assert secret.lower() not in stored.lower()


def test_a_secret_opens_for_its_own_user_alone():
    ada, eve = make_user("ada"), make_user("eve")
    hers, _ = set_up(eve)
    set_up(ada)
    Authenticator.objects.filter(user=ada).update(secret=Authenticator.objects.get(user=eve).secret)
    assert factors.use_code(ada, hers.code()) is None


@pytest.mark.parametrize("first", [sealing.FERNET, sealing.AES_256_GCM])
@pytest.mark.parametrize("then", [sealing.FERNET, sealing.AES_256_GCM])
def test_a_rotation_of_the_sealing_keys_moves_the_secrets_too(settings, use_keys, first, then):
    use_keys("old")
    settings.MESHES_SEALING = first
    user = make_user()
    app, _ = set_up(user)
    settings.MESHES_SEALING = then
    use_keys("new", "old")
    out = StringIO()
    call_command("rotate_encryption_keys", stdout=out)
    assert "to re-seal: 1\n" in out.getvalue()
    use_keys("new")
    row = Authenticator.objects.get(user=user)
    assert (row.key_id, sealing.format_of(row.secret.encode())) == (sealing.newest_key_id(), then)
    assert factors.use_code(user, app.code()) == "totp"


def test_a_secret_that_does_not_open_is_named_and_left(use_keys):
    use_keys("old")
    user = make_user()
    app, _ = set_up(user)
    use_keys("new")
    out = StringIO()
    with pytest.raises(CommandError, match=r"^1 documents open with none of the keys and were left\.$"):
        call_command("rotate_encryption_keys", stdout=out, no_color=True)
    assert f"does not open: the second factor of {user.username}\n" in out.getvalue()
    use_keys("new", "old")
    assert factors.use_code(user, app.code()) == "totp"


def test_a_recovery_code_has_more_than_128_random_bits():
    _, codes = set_up(make_user())
    assert [len(code.replace("-", "")) * 5 for code in codes] == [160] * 10
    assert len(set(codes)) == 10


def test_with_the_wrong_keys_recovery_codes_still_let_in(settings, caplog, use_keys):
    user = make_user()
    app, codes = set_up(user)
    use_keys("another")
    client, _ = give_password(user)
    assert client.post("/admin/second-factor/", {"code": app.code()}).status_code == 200
    assert "the authenticator of ada does not open" in caplog.text
    assert not is_in(client)
    client.post("/admin/second-factor/", {"code": codes[0]})
    assert is_in(client)


# --- looking after one's own ----------------------------------------------------------------------------------------


def test_setting_one_up_oneself_asks_for_the_password():
    user = make_user()
    client, elsewhere = sign_in(user), sign_in(user)
    assert client.get("/admin/second-factor/set-up/").url == "/admin/sign-in/"
    wrong = client.post("/admin/sign-in/", {"operator_password": OTHER, "change": "set-up"})
    assert wrong.status_code == 200
    assert client.get("/admin/second-factor/set-up/").url == "/admin/sign-in/"
    answer = client.post("/admin/sign-in/", {"operator_password": PASSWORD, "change": "set-up"})
    app = scan(client.get(answer.url))
    assert len(shown_codes(client.post(answer.url, {"code": app.code()}))) == 10
    assert is_in(client)
    assert not is_in(elsewhere)


@pytest.mark.parametrize("change", ["set-up", "codes", "remove"])
def test_a_change_asks_for_password_and_code(change):
    user = make_user()
    app, codes = set_up(user)
    client = sign_in(user, app)
    before = (Authenticator.objects.values().get(), set(RecoveryCode.objects.values_list("digest", flat=True)))
    for sent in ({"operator_password": PASSWORD}, {"code": codes[0]}, {"operator_password": OTHER, "code": codes[0]},
                 {"operator_password": PASSWORD, "code": "123"}):  # fmt: skip
        assert client.post("/admin/sign-in/", sent | {"change": change}).status_code == 200
    after = (Authenticator.objects.values().get(), set(RecoveryCode.objects.values_list("digest", flat=True)))
    assert after == before
    assert client.get("/admin/second-factor/set-up/").url == "/admin/sign-in/"


def test_another_app_takes_the_place_of_the_first():
    user = make_user()
    app, codes = set_up(user)
    client, elsewhere = sign_in(user, app), sign_in_by_recovery(user, codes[1])
    client.post("/admin/sign-in/", {"operator_password": PASSWORD, "code": codes[0], "change": "set-up"})
    second = scan(client.get("/admin/second-factor/set-up/"))
    fresh = shown_codes(client.post("/admin/second-factor/set-up/", {"code": second.code()}))
    assert is_in(client)
    assert not is_in(elsewhere)
    assert factors.use_code(user, codes[2]) is None
    assert factors.use_code(user, app.code()) is None
    assert factors.use_code(user, fresh[0]) == "recovery_code"


def test_removing_it_where_it_is_not_enforced(settings):
    user = make_user()
    app, codes = set_up(user)
    client = sign_in(user, app)
    settings.MESHES_SECOND_FACTOR = True
    assert b'value="remove"' not in client.get("/admin/sign-in/").content
    client.post("/admin/sign-in/", {"operator_password": PASSWORD, "code": codes[0], "change": "remove"})
    assert Authenticator.objects.exists()
    settings.MESHES_SECOND_FACTOR = False
    client.post("/admin/sign-in/", {"operator_password": PASSWORD, "code": codes[1], "change": "remove"})
    assert not Authenticator.objects.exists()
    assert not RecoveryCode.objects.exists()
    assert is_in(client)


def test_a_superuser_resets_that_of_somebody_else(caplog):
    root, user = make_superuser(), make_user()
    app, _ = set_up(user)
    theirs, client = sign_in(user, app), sign_in(root)
    path = f"/admin/auth/user/{user.pk}/second-factor/reset/"
    assert client.post(path, {"operator_password": OTHER}).status_code == 200
    assert Authenticator.objects.exists()
    with caplog.at_level(logging.INFO, "meshes.security"):
        assert client.post(path, {"operator_password": PASSWORD}).status_code == 302
    assert not Authenticator.objects.exists()
    assert not is_in(theirs)
    assert 'second_factor_changed user="ada" change="removed" by="root"' in caplog.text
    own = f"/admin/auth/user/{root.pk}/second-factor/reset/"
    assert client.post(own, {"operator_password": PASSWORD}).status_code == 403


def test_nobody_else_resets_one():
    root, clerk = make_superuser(), make_user("clerk", "auth.view_user", "auth.change_user")
    set_up(root)
    path = f"/admin/auth/user/{root.pk}/second-factor/reset/"
    assert sign_in(clerk).post(path, {"operator_password": PASSWORD}).status_code == 403
    assert Authenticator.objects.exists()


def test_the_command_lets_a_locked_out_operator_in():
    user = make_user()
    app, _ = set_up(user)
    client = sign_in(user, app)
    call_command("reset_second_factor", "ada", stdout=StringIO())
    assert not is_in(client)
    assert is_in(give_password(user)[0])
    with pytest.raises(CommandError, match="ada has no second factor"):
        call_command("reset_second_factor", "ada")
    with pytest.raises(CommandError, match="There is no operator 'nobody'"):
        call_command("reset_second_factor", "nobody")
