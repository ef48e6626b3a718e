"""Settings that are weak: a warning when a process starts, an error of `check --deploy`, and no refusal."""

import base64
import logging
from datetime import timedelta

import pytest
from django.core.checks import WARNING, Error, Tags, run_checks

from meshes import checks
from workspaces.vault.secret import is_strong, is_well_formed

pytestmark = pytest.mark.django_db  # one of the checks asks it by which role it is reached

STRONG = base64.urlsafe_b64encode(bytes(range(32))).decode()


@pytest.fixture
def strong(settings):
    settings.SECRET_KEY = STRONG + STRONG
    settings.FERNET_KEYS = [STRONG]
    settings.REDIS_URL = "redis://:password@valkey:6379/0"
    settings.MESHES_REDIS_SHARDS = [settings.REDIS_URL]
    settings.MESHES_CLEAR_TEXT_HOSTS = ["valkey"]
    settings.ALLOWED_HOSTS = ["meshes.example.com", "127.0.0.1"]
    settings.MESHES_PUBLIC_URL = "https://meshes.example.com"
    settings.DEBUG = False
    return settings


def found() -> list[str]:
    return [str(each.id) for each in checks.check_weak_settings()]


def test_what_is_strong_is_silent(strong, caplog):
    checks.warn_of_weak_settings()
    assert (found(), caplog.messages) == ([], [])


@pytest.mark.parametrize(
    ("name", "value", "id"),
    [
        ("SECRET_KEY", "short", "meshes.E001"),
        ("SECRET_KEY", "ab" * 40, "meshes.E001"),
        ("SECRET_KEY", "django-insecure-" + STRONG, "meshes.E001"),
        ("FERNET_KEYS", ["my password"], "meshes.E002"),
        ("FERNET_KEYS", [STRONG[:-2]], "meshes.E002"),
        ("FERNET_KEYS", [STRONG.replace("A", "+", 1)], "meshes.E002"),
        ("FERNET_KEYS", ["A" * 43 + "="], "meshes.E002"),
        ("FERNET_KEYS", [STRONG + "\n"], "meshes.E002"),
        ("FERNET_KEYS", [STRONG, "my password"], "meshes.W001"),
        ("DEBUG", True, "meshes.E003"),
        ("ALLOWED_HOSTS", ["127.0.0.1", "*"], "meshes.E004"),
        ("ALLOWED_HOSTS", [], "meshes.E004"),
        ("ALLOWED_HOSTS", ["https://meshes.example.com"], "meshes.E004"),
        ("REDIS_URL", "redis://valkey:6379/0", "meshes.E005"),
        ("REDIS_URL", "rediss://user@10.0.0.5:6379/0", "meshes.E005"),
        ("MESHES_REDIS_SHARDS", ["redis://:password@valkey:6379/0", "rediss://other:6379/0"], "meshes.E005"),
        ("MESHES_PUBLIC_URL", "http://meshes.example.com", "meshes.E006"),
        ("MESHES_LEASE_SECONDS", 30, "meshes.E007"),
        ("MESHES_LANE_LEASE_SECONDS", 60, "meshes.E007"),
    ],
)
def test_what_is_weak_is_told_at_the_start_and_an_error_of_check_deploy(strong, caplog, name, value, id):
    setattr(strong, name, value)
    with caplog.at_level(logging.WARNING):
        checks.warn_of_weak_settings()
    assert found() == [id]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith(f"({id})")
    deployed = [each for each in run_checks(tags=[Tags.security], include_deployment_checks=True) if each.id == id]
    assert [isinstance(each, Error) for each in deployed] == [".E" in id]
    assert id not in {each.id for each in run_checks(tags=[Tags.security])}


def test_what_django_says_of_https_is_said_by_our_names(strong):
    """Its own hints name settings that nobody can set here."""
    strong.MESHES_HTTPS = strong.SESSION_COOKIE_SECURE = strong.CSRF_COOKIE_SECURE = False
    strong.SECURE_HSTS_SECONDS = 0
    told = [each for each in run_checks(tags=[Tags.security], include_deployment_checks=True) if not each.is_silenced()]
    (https,) = (each for each in told if each.id == "meshes.W004")
    assert (https.level, "MESHES_HTTPS is 0" in https.msg) == (WARNING, True)
    assert [each.id for each in told if each.id.startswith("security.")] == []


def test_a_proxy_that_is_not_named_is_told_where_https_is_its_word(strong):
    strong.MESHES_HTTPS = True
    (told,) = checks.check_https()
    assert (told.level, told.id, "MESHES_TRUSTED_PROXIES" in told.msg) == (WARNING, "meshes.W010", True)
    strong.MESHES_TRUSTED_PROXIES = ["10.0.0.1"]
    assert checks.check_https() == []


def test_a_password_as_the_only_factor_is_told_by_the_command_alone(strong, caplog):
    checks.warn_of_weak_settings()
    assert caplog.messages == []
    told = run_checks(tags=[Tags.security], include_deployment_checks=True)
    (factor,) = (each for each in told if each.id == "meshes.W006")
    assert (factor.level, "MESHES_SECOND_FACTOR is 0" in factor.msg) == (WARNING, True)
    strong.MESHES_SECOND_FACTOR = True
    assert checks.check_second_factor() == []


def test_connect_links_below_a_host_of_the_admin_are_told(strong):
    strong.MESHES_PUBLIC_URL, strong.MESHES_ADMIN_HOSTS = "https://Admin.example.com", [".example.com"]
    assert found() == ["meshes.E011"]
    strong.MESHES_ADMIN_HOSTS = ["admin.example.org"]
    assert found() == []


def test_no_weak_setting_is_told_twice(strong):
    strong.SECRET_KEY, strong.DEBUG, strong.ALLOWED_HOSTS = "weak", True, []
    told = [each for each in run_checks(tags=[Tags.security], include_deployment_checks=True) if not each.is_silenced()]
    assert [each.id for each in told if each.id.startswith("security.")] == []
    assert {"meshes.E001", "meshes.E003", "meshes.E004"} <= {each.id for each in told}


def test_a_flower_without_a_password_is_told(strong, monkeypatch):
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)
    monkeypatch.delenv("MESHES_FLOWER_PASSWORD", raising=False)
    assert [each.id for each in checks.check_flower()] == ["meshes.I002"]
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "ada:secret")
    assert checks.check_flower() == []


@pytest.mark.parametrize(
    ("journal", "heads", "told"), [("", "", 2), ("/kept/journal", "", 1), ("/kept/journal", "/kept/heads", 0)]
)
def test_what_a_restore_needs_beside_a_dump_is_told(settings, journal, heads, told):
    settings.MESHES_JOURNAL, settings.MESHES_SEAL_HEADS = journal, heads
    assert [each.id for each in checks.check_kept_files()] == ["meshes.I003"] * told


@pytest.mark.parametrize("table", ["payloads", "routing_ledgers", "deliveries"])
def test_retention_beyond_the_events_own_is_told(strong, table):
    strong.MESHES_RETENTION = strong.MESHES_RETENTION | {table: timedelta(days=121)}
    assert found() == ["meshes.E008"]


def test_attempts_that_outlive_their_deliveries_are_told(strong):
    strong.MESHES_RETENTION = strong.MESHES_RETENTION | {"deliveries": timedelta(days=29)}
    assert found() == ["meshes.E008"]


@pytest.mark.parametrize("url", ["redis://127.0.0.1:6379/0", "redis://localhost/0", "redis://[::1]:6379", "redis:///0"])
def test_a_broker_on_this_machine_may_go_without_a_password(strong, url):
    strong.REDIS_URL = url
    strong.MESHES_REDIS_SHARDS = [url]
    assert found() == []


@pytest.mark.parametrize("text", [STRONG, STRONG.rstrip("="), STRONG.rstrip("=") * 2, "-_" * 22])
def test_a_key_is_base64url_of_32_bytes_or_more_with_or_without_padding(text):
    assert is_well_formed(text)


def test_no_message_holds_a_secret(strong):
    strong.SECRET_KEY, strong.FERNET_KEYS = "canary-1", ["canary-2", "canary-3"]
    strong.REDIS_URL = "redis://canary-4@valkey/0"
    assert "canary" not in str(checks.check_weak_settings())
    assert not is_strong("canary-2")
