"""What goes to PostgreSQL and Valkey off this machine is encrypted and its reader known, or `check --deploy` fails."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from kombu.connection import Connection

from meshes import checks
from meshes.environment import PROJECT, envdatabase

LOCAL = "redis://:password@127.0.0.1:6379/0"


@pytest.fixture
def found(monkeypatch):
    """What is told of settings such as these: the id, and the setting that it is about."""

    def find(database="postgresql:///n", broker=LOCAL, *, direct=None, shards=(), allowed=()):
        direct = direct or database
        settings = SimpleNamespace(
            DATABASE_URL=database,
            MESHES_DIRECT_DATABASE_URL=direct,
            DATABASES={"default": envdatabase("A", database), "direct": envdatabase("B", direct)},
            REDIS_URL=broker,
            MESHES_REDIS_SHARDS=[broker, *shards],
            MESHES_CLEAR_TEXT_HOSTS=list(allowed),
        )
        monkeypatch.setattr(checks, "settings", settings)
        messages = list(checks.find_clear_text())
        assert "canary" not in str([(each.msg, each.hint) for each in messages])
        return [(each.id, each.msg.split(" ")[0]) for each in messages]

    return find


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@127.0.0.1/n",
        "postgresql://u:p@127.1.2.3/n",
        "postgresql://u:p@[::1]:5432/n",
        "postgresql://u:p@localhost/n",
        "postgresql://u:p@%2Fvar%2Frun%2Fpostgresql/n",
        "postgresql:///n?host=/var/run/postgresql",
        "postgresql:///n?host=@meshes",
        "postgresql:///n?host=localhost,127.0.0.1",
        "postgresql://u:p@db.example.com/n?hostaddr=127.0.0.1",
        "postgresql://u:p@db.example.com/n?sslmode=verify-full",
        "postgresql:///n?service=prod&sslmode=verify-full",
        "postgresql:///n?host=a.example.com,b.example.com&sslmode=verify-full",
    ],
)
def test_a_database_on_this_machine_or_verified_is_no_error(found, url):
    assert found(url) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@db.example.com/n",
        "postgresql://u:p@10.0.0.5/n",
        "postgresql://u:p@postgres/n",
        "postgresql://u:p@[2001:db8::1]/n",
        "postgresql://u:p@localhost.example.com/n",
        *(
            f"postgresql://u:p@db.example.com/n?sslmode={mode}"
            for mode in ("disable", "prefer", "require", "verify-ca")
        ),
        "postgresql:///n?host=db.example.com",
        "postgresql:///n?host=localhost,db.example.com",
        "postgresql:///n?host=/var/run/postgresql,db.example.com",
        "postgresql:///n?hostaddr=10.0.0.5",
        "postgresql://u:p@localhost/n?hostaddr=10.0.0.5",
        "postgresql:///n?service=prod",
    ],
)
def test_a_database_elsewhere_that_is_not_verified_is_an_error(found, url):
    assert found(url) == [("meshes.E020", "DATABASE_URL")]
    assert found("postgresql:///n", direct=url) == [("meshes.E020", "MESHES_DIRECT_DATABASE_URL")]


def test_what_libpq_takes_from_its_own_variables_counts(found, monkeypatch):
    monkeypatch.setenv("PGHOST", "db.example.com")
    assert found() == [("meshes.E020", "DATABASE_URL")]
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert found() == []
    assert found("postgresql:///n?sslmode=prefer") == [("meshes.E020", "DATABASE_URL")]


@pytest.mark.parametrize(
    "url", [LOCAL, "redis://:p@localhost", "redis://:p@[::1]:6379/0", "rediss://:p@v.example.com/0"]
)
def test_a_broker_on_this_machine_or_by_tls_is_no_error(found, url):
    assert found(broker=url) == []


UNVERIFIED = ("ssl_cert_reqs=none", "ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs=optional", "ssl_check_hostname=False")


@pytest.mark.parametrize(
    ("url", "id"),
    [
        ("redis://:p@v.example.com/0", "meshes.E021"),
        ("redis://:p@10.0.0.5:6379/0", "meshes.E021"),
        *((f"rediss://:p@v.example.com/0?{query}", "meshes.E022") for query in UNVERIFIED),
    ],
)
def test_a_broker_elsewhere_in_clear_or_not_verified_is_an_error(found, url, id):
    assert found(broker=url) == [(id, "REDIS_URL")]
    assert found(shards=[url]) == [(id, "MESHES_REDIS_SHARDS")]


def test_hosts_that_are_named_may_be_spoken_to_in_clear_and_no_others(found):
    urls = ("postgresql://u:p@Postgres/n", "redis://:p@valkey/0")
    assert found(*urls, allowed=["postgres", "valkey"]) == []
    assert found(*urls, allowed=["valkey"]) == [("meshes.E020", "DATABASE_URL")]
    assert found("postgresql:///n?host=postgres,other", allowed=["postgres"]) == [("meshes.E020", "DATABASE_URL")]
    assert found(shards=["redis://:p@other/0"], allowed=["valkey"]) == [("meshes.E021", "MESHES_REDIS_SHARDS")]


def test_no_message_holds_a_password(found):
    broker, shard = "redis://:canary@h/0", "rediss://:canary@i/0?ssl_cert_reqs=none"
    assert found("postgresql://u:canary@h/n", broker, shards=[shard]) == [
        ("meshes.E020", "DATABASE_URL"),
        ("meshes.E021", "REDIS_URL"),
        ("meshes.E022", "MESHES_REDIS_SHARDS"),
    ]


def run(*command, **environment):
    env = {"PATH": os.environ["PATH"], "MESHES_DATA_DIR": "/nonexistent", "SECRET_KEY": "s"}
    env["FERNET_KEYS"] = "c2VjcmV0LW9mLWEtdGVzdC13aXRoLTMyLWJ5dGVzISE="
    return subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, cwd=PROJECT, env=env | environment,
        timeout=300,
    )  # fmt: skip


def test_check_deploy_fails_and_a_start_only_warns():
    given = {"DATABASE_URL": "postgresql://u:p@db.example.com/n", "REDIS_URL": "redis://:p@v.example.com"}
    ids = {"meshes.E020", "meshes.E021"}
    deployed = run("manage.py", "check", "--deploy", **given)
    assert (deployed.returncode, {id for id in ids if f"({id})" in deployed.stderr}) == (1, ids)
    allowed = run("manage.py", "check", "--deploy", **given, MESHES_CLEAR_TEXT_HOSTS="V.example.com, db.example.com")
    assert {id for id in ids if f"({id})" in allowed.stderr} == set()
    started = run("manage.py", "check", **given)
    assert started.returncode == 0
    assert (
        "WARNING meshes.checks DATABASE_URL names a server on another host, db.example.com, and not" in started.stderr
    )


BROKER = "from django.conf import settings; print(settings.CELERY_BROKER_URL, settings.MESHES_REDIS_SHARDS)"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("rediss://:p@h:6379/0", "rediss://:p@h:6379/0?ssl_cert_reqs=required"),
        ("rediss://:p@h/0?ssl_ca_certs=/ca.pem", "rediss://:p@h/0?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required"),
        ("rediss://:p@h/0?ssl_cert_reqs=none", "rediss://:p@h/0?ssl_cert_reqs=none"),
        ("redis://:p@h/0", "redis://:p@h/0"),
    ],
)
def test_a_broker_by_tls_is_verified_unless_that_is_given_up(given, read):
    """Of a URL that says nothing, kombu makes that nobody is verified."""
    shown = run("-c", BROKER, DJANGO_SETTINGS_MODULE="meshes.settings", REDIS_URL=given, MESHES_REDIS_SHARDS=given)
    assert shown.stdout.splitlines()[-1] == f"{read} ['{read}']"
    if "none" not in given and given.startswith("rediss"):
        assert Connection(read).ssl["ssl_cert_reqs"].name == "CERT_REQUIRED"
        assert Connection(given).ssl.get("ssl_cert_reqs", None) is None or Connection(given).ssl["ssl_cert_reqs"] == 0


def test_what_the_check_takes_for_a_host_is_what_libpq_connects_to():
    database = envdatabase("X", "postgresql://u:p@h1/n?hostaddr=10.0.0.5&host=h2")
    assert list(checks.hosts_of(database)) == ["10.0.0.5"]
