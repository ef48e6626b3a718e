"""What cannot be read refuses the start: one line, with the name of the setting and what is right."""

import base64
import os
import re
import subprocess
import sys

import pytest

from meshes.environment import PROJECT

SECRETS = {"SECRET_KEY": "s" * 50, "FERNET_KEYS": "A" * 43}


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESHES_")}
    env = kept | SECRETS | {"MESHES_DATA_DIR": "/nonexistent"} | environment
    return subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, cwd=PROJECT, env=env, timeout=300
    )


READ = """
import sys
from django.core.exceptions import ImproperlyConfigured
from meshes import environment
import importlib, os
for line in sys.stdin.read().splitlines():
    name, _, value = line.partition("=")
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        sys.modules.pop("meshes.settings", None)
        importlib.import_module("meshes.settings")
        print("read", flush=True)
    except ImproperlyConfigured as error:
        print(error, flush=True)
    os.environ.pop(name) if before is None else os.environ.update({name: before})
"""


def read_each(*settings: str) -> list[str]:
    """What `meshes.settings` says of each setting alone."""
    env = os.environ | SECRETS | {"MESHES_DATA_DIR": "/nonexistent"}
    told = subprocess.run(
        [sys.executable, "-c", READ], check=True, capture_output=True, text=True, cwd=PROJECT, env=env,
        input="\n".join(settings), timeout=300,
    )  # fmt: skip
    return told.stdout.splitlines()


INTEGERS = (
    "MESHES_INGEST_RATE", "MESHES_INGEST_KEY_RATE", "MESHES_BACKLOG_LIMIT", "MESHES_LEASE_SECONDS",
    "MESHES_LANE_LEASE_SECONDS", "MESHES_RETENTION_PAYLOAD_DAYS", "MESHES_RETENTION_ATTEMPT_DAYS",
    "MESHES_RETENTION_ACCESS_DAYS", "MESHES_RETENTION_EVENT_DAYS", "MESHES_RETENTION_DELIVERY_DAYS",
    "MESHES_RETENTION_LEDGER_DAYS", "WEB_CONCURRENCY", "MESHES_HEADER_SECONDS", "MESHES_BODY_SECONDS",
    "MESHES_RULES_PER_WORKSPACE", "MESHES_CONNECTION_TESTS", "MESHES_WRONG_KEYS",
    "MESHES_API_RATE", "MESHES_SEARCHES", "MESHES_KEYS_PER_WORKSPACE",
)  # fmt: skip
BOOLEANS = ("MESHES_DEBUG", "MESHES_HTTPS", "MESHES_TASK_EVENTS", "MESHES_OUTBOUND_ALLOW_HTTP", "MESHES_FLOWER_CONTROL")
UNKNOWN_VENDORS = (
    "MESHES_VENDOR_URLS=slack=https://h.example.com,hubspt=https://h.example.com",
    "MESHES_OAUTH_CLIENTS=hubspt=a:pw-4242",
    'MESHES_OAUTH_CLIENTS={"HubSpot": {"id": "a", "secret": "pw-4242"}}',
)
WRONG = (
    *(f"{name}={value}" for name in INTEGERS for value in ("abc", "-1", "1.5", "9" * 30)),
    *(f"{name}={value}" for name in BOOLEANS for value in ("2", "maybe")),
    *(f"MESHES_OUTBOUND_PORTS={value}" for value in ("abc", "0", "65536", "-1", "443,,x", ",", "443,*", "4 43")),
    *(f"MESHES_OUTBOUND_ALLOW_NETS={value}" for value in ("intranet", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8,x")),
    "MESHES_TRUSTED_PROXIES=proxy.example.com",
    *(f"{name}={value}" for name in ("DATABASE_URL", "MESHES_DIRECT_DATABASE_URL") for value in (
        "x", "sqlite:///x", "mysql://u:pw-4242@h/n", "postgresql://u:pw-4242@h:abc/n", "postgresql://u:pw-4242@h",
        "postgresql://u:pw-4242@[::1/n",
    )),
    *(f"REDIS_URL={value}" for value in (
        "x", "http://:pw-4242@h/0", "redis://:pw-4242@h:abc/0", "redis://:pw-4242@h/zero", "redis://:pw 4242@h/0",
    )),
    "MESHES_REDIS_SHARDS=redis://:pw-4242@h:x/0",
    *(f"MESHES_PUBLIC_URL={value}" for value in (
        "meshes.example.com", "ftp://meshes.example.com", "https://", "https://h:abc", "https://h:", "https://u:pw-4242@h",
        "https://h/?a=b", "https://h/#a", "https://a b",
    )),
    *(f"MESHES_CSRF_TRUSTED_ORIGINS={value}" for value in ("meshes.example.com", "https://a.example,b.example")),
    *(f"MESHES_ADMIN_HOSTS={value}" for value in ("https://a.example", "a.example:8443", "*", "a.example,b/c", "a b")),
    *(f"MESHES_VENDOR_URLS={value}" for value in ("hubspot", "hubspot=", "hubspot=h.example.com", "hubspot=https://h:x")),
    *("MESHES_OAUTH_CLIENTS=hubspot", "MESHES_OAUTH_CLIENTS=hubspot=pw-4242"),
    *("MESHES_OAUTH_CLIENTS={pw-4242", 'MESHES_OAUTH_CLIENTS={"hubspot": "pw-4242"}'),
    *UNKNOWN_VENDORS,
    *(f"FLOWER_BASIC_AUTH={value}" for value in (
        "pw-4242", "pw-4242:", ":pw-4242", "ada:a,pw-4242", "ada:a, bob:pw-4242", "ada:pw-4242ü",
    )),
    "MESHES_LOG_LEVEL=loud",
    "MESHES_OAUTH_CALLBACK=both",
    "SSL_CERT_FILE=/nowhere/ca.pem",
    "MESHES_JOURNAL=/nowhere/journal",
    "MESHES_SEAL_HEADS=/nowhere/heads",
    "FERNET_KEYS=,",
    "FERNET_KEYS= , ",
    "SECRET_KEY= ",
)  # fmt: skip
RIGHT = (
    *(f"{name}=7" for name in INTEGERS),
    *(f"{name}={value}" for name in BOOLEANS for value in ("0", "1", "TRUE", "no")),
    *(f"MESHES_OUTBOUND_PORTS={value}" for value in ("*", "443", "443, 8443", "443,")),
    "MESHES_OUTBOUND_ALLOW_NETS=10.0.0.0/8, fd00::/8,192.0.2.1",
    "DATABASE_URL=postgres://u:p%40w@[::1]:5432/n?sslmode=require",
    "DATABASE_URL=postgresql:///n?host=/tmp",
    "DATABASE_URL=postgresql://u@/?service=meshes",
    "MESHES_PUBLIC_URL=https://meshes.example.com:8443/base/",
    "MESHES_PUBLIC_URL=http://[::1]:8000",
    "MESHES_CSRF_TRUSTED_ORIGINS=https://meshes.example.com, https://*.example.com",
    "MESHES_ADMIN_HOSTS=Admin.example.com, .ops.example.com,127.0.0.1,[::1]",
    "MESHES_VENDOR_URLS=hubspot=http://127.0.0.1:9/,zoho=https://zoho.example.com",
    "MESHES_OAUTH_CLIENTS=hubspot=a:b:c, slack=1.2:d",
    "FLOWER_BASIC_AUTH=ada:a secret: of ours,bob:x",
    "MESHES_LOG_LEVEL=debug",
    *(f"MESHES_OAUTH_CALLBACK={value}" for value in ("auto", "shared", "vendor", "VENDOR")),
    "MESHES_BACKLOG_LIMIT=0",
    "FERNET_KEYS=new, old",
)  # fmt: skip


def test_each_setting_that_cannot_be_read_is_named_with_what_is_right():
    told = dict(zip(WRONG, read_each(*WRONG), strict=True))
    assert {setting: words for setting, words in told.items() if not words.startswith(setting.partition("=")[0])} == {}
    right = (" must be ", " is not set")
    assert [setting for setting, words in told.items() if not any(each in words for each in right)] == []
    assert "4242" not in "".join(told.values())
    assert "must be hubspot=<client id>:<client secret>,… or {" in told["MESHES_OAUTH_CLIENTS=hubspot"]
    for setting in UNKNOWN_VENDORS:
        assert told[setting].endswith("Did you mean hubspot?")


def test_each_setting_that_can_be_read_is():
    assert dict(zip(RIGHT, read_each(*RIGHT), strict=True)) == dict.fromkeys(RIGHT, "read")


@pytest.mark.parametrize(
    "command",
    [
        ("manage.py", "check"),
        ("manage.py", "sweep"),
        ("manage.py", "migrate"),
        ("-m", "celery", "-A", "meshes", "worker", "-Q", "deliver"),
        ("-m", "celery", "-A", "meshes", "flower", "--port=0"),
        ("-m", "gunicorn", "meshes.wsgi", "--preload", "--bind", "127.0.0.1:0"),
    ],
    ids=" ".join,
)
def test_every_process_refuses_to_start_with_one_line_and_no_traceback(command):
    ended = run(*command, MESHES_OUTBOUND_PORTS="abc")
    assert ended.returncode != 0
    right = "ports from 1 to 65535 with a comma between two, or * for any, not 'abc'."
    assert [line for line in ended.stderr.splitlines() if "cannot start" in line] == [
        f"Meshes cannot start: MESHES_OUTBOUND_PORTS must be {right}"
    ]
    assert "Traceback" not in ended.stderr + ended.stdout


def test_a_web_process_that_loads_the_settings_itself_ends_the_server():
    """Without --preload gunicorn starts a worker anew that ends, unless its code is 3."""
    ended = run("-m", "gunicorn", "meshes.wsgi", "--bind", "127.0.0.1:0", DATABASE_URL="sqlite:///x")
    assert ended.returncode == 3
    assert ended.stderr.count("Meshes cannot start: DATABASE_URL must be") == 1
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["migrate", "rotate_encryption_keys", "create_api_key"])
def test_a_database_that_takes_no_connection_is_said_in_one_line(command):
    arguments = {"create_api_key": ["--name", "x", "--kind", "account", "--scope", "config"]}.get(command, [])
    url = "postgresql://ada:pw-4242@127.0.0.1:1/meshes"
    strong = {
        "SECRET_KEY": "".join(map(chr, range(48, 110))),
        "FERNET_KEYS": base64.b64encode(bytes(range(32))).decode(),
    }
    ended = run("manage.py", command, *arguments, DATABASE_URL=url, **strong)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith('PostgreSQL cannot be reached: connection to server at "127.0.0.1", port 1 failed: ')
    assert "4242" not in line


def test_a_process_with_weak_settings_starts_and_says_so():
    started = run("manage.py", "check", SECRET_KEY="weak", FERNET_KEYS="A" * 43 + ",my password")
    assert started.returncode == 0
    assert "WARNING meshes.checks SECRET_KEY is weak" in started.stderr
    assert "WARNING meshes.checks The first of FERNET_KEYS" in started.stderr
    assert "WARNING meshes.checks One of FERNET_KEYS behind the first is no key." in started.stderr
    deployed = run("manage.py", "check", "--deploy", SECRET_KEY="weak", FERNET_KEYS="A" * 43 + ",my password")
    assert deployed.returncode == 1
    assert "(meshes.E001) SECRET_KEY is weak" in deployed.stderr
    assert "my password" not in deployed.stderr


@pytest.mark.parametrize("keys", ["a", "my password", "A" * 42, "A" * 42 + "+", f"a,{'A' * 43}", " a , b"])
def test_a_text_that_is_no_key_is_refused_as_the_first(keys):
    ended = run("manage.py", "check", FERNET_KEYS=keys)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()[-1:]
    assert line.startswith("Meshes cannot start: The first of FERNET_KEYS must be URL-safe base64 of 32 random bytes")
    assert "my password" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("keys", ["A" * 43, "A" * 43 + "=", f" {'A' * 43} , a"])
def test_a_key_with_or_without_padding_and_blanks_is_taken_and_other_texts_behind_it(keys):
    assert run("manage.py", "check", FERNET_KEYS=keys).returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        ("manage.py", "sweep", "--once"),
        ("manage.py", "rotate_encryption_keys"),
        ("manage.py", "provision"),
        ("-m", "celery", "-A", "meshes", "worker", "-Q", "deliver", "-P", "solo"),
        ("-m", "gunicorn", "meshes.wsgi", "--preload", "--bind", "127.0.0.1:0"),
        ("-m", "gunicorn", "meshes.wsgi", "--bind", "127.0.0.1:0"),
    ],
    ids=" ".join,
)
def test_nothing_that_seals_starts_with_a_text_that_is_no_key(command):
    ended = run(*command, FERNET_KEYS="a")
    assert ended.returncode != 0
    told = [line for line in ended.stderr.splitlines() if "cannot start" in line]
    assert [line.partition(" must be ")[0] for line in told] == ["Meshes cannot start: The first of FERNET_KEYS"]
    assert "Traceback" not in ended.stderr + ended.stdout


def test_an_operator_without_a_key_still_gets_help():
    assert run("manage.py", "help", FERNET_KEYS="a").returncode == 0


# --- variables that nothing reads ------------------------------------------------------------------------------------


def warnings_of(**environment: str) -> list[str]:
    checked = run("manage.py", "check", **environment)
    assert checked.returncode == 0
    return [line.partition(" WARNING meshes.checks ")[2] for line in checked.stderr.splitlines() if "W003" in line]


def test_a_variable_that_nothing_reads_is_told_with_the_nearest(tmp_path):
    (tmp_path / "run.env").write_text("MESHES_OUTBOUND_PORT=8443\n")
    given = {"MESHES_INGEST_RATES": "5", "MESHES_X": "1", "MESHES_INGEST_RATE": "5", "MESHES_DATA_DIR": str(tmp_path)}
    assert warnings_of(**given) == [
        "MESHES_INGEST_RATES is set, and nothing reads it. Did you mean MESHES_INGEST_RATE? (meshes.W003)",
        "MESHES_OUTBOUND_PORT is set, and nothing reads it. Did you mean MESHES_OUTBOUND_PORTS? (meshes.W003)",
        "MESHES_X is set, and nothing reads it. docs/running.md has those that are read. (meshes.W003)",
    ]
    deployed = run("manage.py", "check", "--deploy", "--fail-level", "WARNING", **given, MESHES_HTTPS="1")
    assert deployed.returncode == 1
    assert "(meshes.W003) MESHES_INGEST_RATES is set" in deployed.stderr


NO_VARIABLES = {"MESHES_PROVIDERS", "MESHES_INGEST_RATES"}
"""A list in the settings, and what the docs show of a slip."""
UNKNOWN = """
import sys
from django.conf import settings
settings.DEBUG
from meshes.environment import known_settings
print(sorted(set(sys.argv[1:]) - known_settings()))
"""


def test_no_variable_that_is_read_or_documented_is_unknown():
    text = "".join(path.read_text() for path in [*PROJECT.glob("docs/*.md"), PROJECT / "compose.yaml"])
    named = set(re.findall(r"\b(MESHES_[A-Z_]*[A-Z])\b(?!_|\*)", text)) - NO_VARIABLES
    for path in PROJECT.glob("[a-z]*/**/*.py"):
        named |= set(re.findall(r"""(?:environ\.get\(|environ\[|env\w*\()["'](MESHES_[A-Z_]+)["']""", path.read_text()))
    assert {"MESHES_INGEST_RATE", "MESHES_BIND", "MESHES_TEST_PATIENCE", "MESHES_FAULT_ROUNDS"} <= named
    told = run("-c", UNKNOWN, *sorted(named), "MESHES_X", DJANGO_SETTINGS_MODULE="meshes.settings")
    assert told.stdout == "['MESHES_X']\n"


SHOW = "from django.conf import settings; print(settings.FERNET_KEYS)"


def test_blanks_around_keys_are_left_out_and_what_they_sealed_still_opens():
    shown = run("-c", SHOW, DJANGO_SETTINGS_MODULE="meshes.settings", FERNET_KEYS="new , old,,older")
    assert shown.stdout.strip() == "['new', 'old', 'older', 'new ', ' old']"


def test_what_a_running_stack_was_started_with_is_seen_beside_it(tmp_path):
    (tmp_path / "stack.env").write_text("# secrets\nSECRET_KEY=of the stack\nMESHES_INGEST_RATE=5\n")
    (tmp_path / "run.env").write_text("MESHES_INGEST_RATE=7\nMESHES_OUTBOUND_PORTS=*\nMESHES_BACKLOG_LIMIT=9\n")
    show = "from django.conf import settings as s; print(s.MESHES_INGEST_RATE, s.MESHES_OUTBOUND_PORTS, s.SECRET_KEY)"
    environment = {"DJANGO_SETTINGS_MODULE": "meshes.settings", "MESHES_DATA_DIR": str(tmp_path), "SECRET_KEY": ""}
    assert run("-c", show, **environment).stdout.strip() == "7 * of the stack"
    assert run("-c", show, **environment, MESHES_INGEST_RATE="8").stdout.strip() == "8 * of the stack"


def test_what_a_stack_keeps_is_looked_for_with_the_first_setting(tmp_path):
    """`demo` chooses its folder, and `up` fills it, after this module was imported."""
    program = (
        "import os, sys; from meshes.environment import env; os.environ['MESHES_DATA_DIR'] = sys.argv[1];"
        " open(sys.argv[1] + '/stack.env', 'w').write('ONE_SETTING=kept\\n'); print(env('ONE_SETTING'))"
    )
    assert run("-c", program, str(tmp_path)).stdout == "kept\n"
