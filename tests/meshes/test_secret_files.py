"""Every secret may be in a file that `NAME_FILE` names; servers may be named by parts, and passwords be anything."""

import json
import os
import re
import subprocess
import sys

import pytest

from meshes.environment import PROJECT, SECRETS, read_secret_files
from meshes.services import SECRETS_OF

SHOW = """
import json, sys
from meshes.environment import env
print(json.dumps({name: env(name) for name in sys.argv[1:]}))
"""
SETTINGS = """
import json
from django.conf import settings as s
import redis
client = redis.Redis.from_url(s.REDIS_URL).connection_pool.connection_kwargs
d = s.DATABASES["default"]
print(json.dumps([d["USER"], d["PASSWORD"], d["HOST"], d["NAME"], client.get("password"), client["host"]]))
"""
ODD = "a/b#c?d@e:f%g h&i\\"


def run(*command, **environment):
    env = {"PATH": os.environ["PATH"], "MESHES_DATA_DIR": "/nonexistent"} | environment
    return subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, cwd=PROJECT, env=env, timeout=300
    )


def test_every_secret_is_read_from_its_file_without_the_newline_at_its_end(tmp_path):
    for name in SECRETS:
        (tmp_path / name).write_text(f"of {name} \n")
    given = {f"{name}_FILE": str(tmp_path / name) for name in SECRETS}
    assert json.loads(run("-c", SHOW, *SECRETS, **given).stdout) == {name: f"of {name} " for name in SECRETS}
    assert read_secret_files(given | {"OTHER_FILE": "x"}) == {name: f"of {name} " for name in SECRETS} | {
        "OTHER_FILE": "x"
    }


def test_every_secret_of_a_service_may_be_in_a_file():
    assert frozenset().union(*SECRETS_OF.values()) <= set(SECRETS)
    assert {
        *("SECRET_KEY", "SECRET_KEY_FALLBACKS", "FERNET_KEYS", "DATABASE_URL", "REDIS_URL", "MESHES_REDIS_SHARDS"),
        *("FLOWER_BASIC_AUTH", "MESHES_OAUTH_CLIENTS", "MESHES_ADMIN_PASSWORD", "POSTGRES_PASSWORD", "VALKEY_PASSWORD"),
    } <= set(SECRETS)


@pytest.mark.parametrize("name", ["SECRET_KEY", "FERNET_KEYS", "DATABASE_URL", "MESHES_OAUTH_CLIENTS"])
@pytest.mark.parametrize(
    ("content", "also", "words"),
    [
        (b"canary", "canary-2", "{name} and {name}_FILE are both set: only one may be."),
        (b"", "", "{name}_FILE is {path!r}, which is empty."),
        (b" \r\n\n", "", "{name}_FILE is {path!r}, which is empty."),
        (b"\xff\xfecanary", "", "{name}_FILE must be a file that can be read, not {path!r}."),
        (None, "", "{name}_FILE must be a file that can be read, not {path!r}."),
    ],
)
def test_a_file_that_will_not_do_is_one_line_without_the_secret(tmp_path, name, content, also, words):
    path = str(tmp_path / "secret")
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    secrets = {"SECRET_KEY": "s" * 50, "FERNET_KEYS": "c2VjcmV0LW9mLWEtdGVzdC13aXRoLTMyLWJ5dGVzISE="} | {
        name: also,
        f"{name}_FILE": path,
    }
    ended = run("manage.py", "check", **secrets)
    assert ended.returncode == 1
    assert ended.stderr == f"Meshes cannot start: {words.format(name=name, path=path)}\n"


def test_flower_takes_its_login_and_its_broker_from_files(tmp_path):
    (tmp_path / "login").write_text("ada\n")
    (tmp_path / "broker").write_text("redis://:pw@127.0.0.1:1/0\n")
    given = {"FLOWER_BASIC_AUTH_FILE": str(tmp_path / "login"), "REDIS_URL_FILE": str(tmp_path / "broker")}
    ended = run("-m", "celery", "-A", "meshes.monitor", "flower", "--port=0", **given)
    words = "FLOWER_BASIC_AUTH must be user:password, in ASCII, with a comma between two such."
    assert f"Meshes cannot start: {words}\n" in ended.stderr
    assert ended.returncode != 0


def test_servers_are_named_by_parts_and_their_passwords_may_have_any_characters(tmp_path):
    (tmp_path / "password").write_text(ODD)
    given = {
        "SECRET_KEY": "s" * 50,
        "FERNET_KEYS": "c2VjcmV0LW9mLWEtdGVzdC13aXRoLTMyLWJ5dGVzISE=",
        "DJANGO_SETTINGS_MODULE": "meshes.settings",
    }
    given |= {"POSTGRES_HOST": "postgres", "VALKEY_HOST": "valkey", "VALKEY_PASSWORD": ODD}
    for password in ({"POSTGRES_PASSWORD": ODD}, {"POSTGRES_PASSWORD_FILE": str(tmp_path / "password")}):
        shown = json.loads(run("-c", SETTINGS, **given, **password).stdout)
        assert shown == ["meshes", ODD, "postgres", "meshes", ODD, "valkey"]
    other = {"DATABASE_URL": "postgresql://u:p@db.example.com/n", "REDIS_URL": "redis://:q@r.example.com"}
    shown = json.loads(run("-c", SETTINGS, **given, POSTGRES_PASSWORD=ODD, **other).stdout)
    assert shown == ["u", "p", "db.example.com", "n", "q", "r.example.com"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"POSTGRES_HOST": "postgres"}, "POSTGRES_PASSWORD is not set, and neither is DATABASE_URL."),
        ({"VALKEY_HOST": "valkey"}, "VALKEY_PASSWORD is not set, and neither is REDIS_URL."),
        ({"MESHES_SERVICE": "wep"}, f"MESHES_SERVICE must be one of {', '.join(SECRETS_OF)}, not 'wep'."),
    ],
)
def test_what_is_left_out_is_one_line(given, words):
    ended = run(
        "manage.py", "check", SECRET_KEY="s" * 50, FERNET_KEYS="c2VjcmV0LW9mLWEtdGVzdC13aXRoLTMyLWJ5dGVzISE=", **given
    )
    assert (ended.returncode, ended.stderr) == (1, f"Meshes cannot start: {words}\n")


VAULT = """
import django
django.setup()
from workspaces.vault import sealing
sealing.newest_key_id()
"""


def test_a_service_without_keys_fails_where_it_would_use_them_and_never_takes_others():
    given = {"MESHES_SERVICE": "fanout", "DJANGO_SETTINGS_MODULE": "meshes.settings", "SECRET_KEY": "s" * 50}
    ended = run("-c", VAULT, **given)
    assert "ImproperlyConfigured: FERNET_KEYS is not set in this service" in ended.stderr
    ended = run("-c", "from django.conf import settings; settings.SECRET_KEY", **given | {"SECRET_KEY": ""})
    assert "ImproperlyConfigured: The SECRET_KEY setting must not be empty." in ended.stderr


def test_the_docs_say_which_service_needs_which_secret():
    text = (PROJECT / "docs" / "running.md").read_text().partition("| secret | needed by |")[2].partition("\n\n")[0]
    rows = [[set(re.findall(r"`([\w ]+)`", cell)) for cell in row.split("|")[1:3]] for row in text.splitlines()[2:]]
    said = {secret: services for secrets, services in rows for secret in secrets}
    needed = {name: {each for each, held in SECRETS_OF.items() if name in held} or {"make up"} for name in SECRETS}
    assert said == needed
