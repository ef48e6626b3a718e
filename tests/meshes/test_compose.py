"""compose.yaml starts what `up` starts, each service with its own settings, secrets, networks and limits; no docker."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from django.conf import settings
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from connections import conversation
from delivery.dispatch import attempts, retention
from delivery.management.commands import sweep
from meshes import checks, services
from meshes.dev.binaries import valkey_binary
from meshes.dev.embedded import free_port
from meshes.environment import SECRETS
from tests.polling import eventually
from workspaces import endpoints

PROJECT = Path(__file__).resolve().parents[2]
SAMPLES = {
    "FERNET_KEYS": "c2VjcmV0LW9mLWEtdGVzdC13aXRoLTMyLWJ5dGVzISE=",
    "SECRET_KEY": "Zr8-0bT1mVd3Kq9sXw2Yc5Hf7Jg4Ln6Pu1Ra8Ed0Ti3UoQe9Wz5",
    "POSTGRES_PASSWORD": "a/b#c?d@e:f%g",
    "VALKEY_PASSWORD": "h/i#j?k@l:m%n \"o\\p'q`r`$s",
}


def fill(line: str) -> tuple[str, str]:
    """The name and the value of a line of `.env`; a secret that is left out gets one of its own."""
    name, _, value = line.strip().partition("=")
    return name, value.replace("…", SAMPLES.get(name, f"sample-of-{name.lower()}"))


ENV = dict(
    fill(line)
    for line in re.findall(r"^    [A-Z_]+=.*$", (PROJECT / "docs" / "running.md").read_text(), re.MULTILINE)
    if not line.strip().endswith("make up")
)
"""The `.env` that docs/running.md shows, with something in the place of each secret."""
OURS = {"migrate", "web", "fanout", "deliver", "sweep", "flower"}
IN_PLACE_OF_ONE = frozenset(f"{name}_FILE" for name in SECRETS)


@pytest.fixture(scope="module")
def document():
    return yaml.safe_load((PROJECT / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def compose(document):
    return document["services"]


def resolved(text: str, env=ENV) -> str:
    """With the variables in it, as Compose reads them."""
    filled = re.sub(r"(?<!\$)\$\{(\w+)(?::-([^}]*))?\}", lambda found: env.get(found[1]) or found[2] or "", str(text))
    return filled.replace("$$", "$")


def test_records_outside_the_database_are_in_a_volume_that_the_image_gives_to_our_user(compose):
    for name in ("web", "sweep"):
        files = {environment_of(compose[name])[each] for each in ("MESHES_JOURNAL", "MESHES_SEAL_HEADS")}
        assert files == {"/var/lib/meshes/journal", "/var/lib/meshes/seal-heads"}
    assert "install --directory --owner=meshes --mode=700 /var/lib/meshes" in (PROJECT / "Dockerfile").read_text()


def environment_of(service, env=ENV) -> dict[str, str]:
    """What a container has: a name without a value is that of `.env`, and is not there where that has none."""
    given = {
        name: env.get(name) if value is None else resolved(value, env) for name, value in service["environment"].items()
    }
    return {name: value for name, value in given.items() if value is not None}


def test_it_has_every_service(compose):
    assert set(compose) == OURS | {"postgres", "valkey"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("web", services.web("0.0.0.0:8000")),
        ("fanout", services.worker("fanout")),
        ("deliver", services.worker("deliver")),
        ("sweep", services.sweeper()),
        ("flower", services.flower("0.0.0.0", 5555)),
    ],
)
def test_commands_are_those_of_up(compose, name, arguments):
    assert compose[name]["command"] == ["python", *arguments]


def test_what_is_in_progress_has_time_to_end_before_its_service_is_killed(compose):
    test_of_a_connection = 2 * (conversation.TOKEN_SECONDS + checks.LONGEST_ATTEMPT_SECONDS)
    longest = {
        "web": max(test_of_a_connection, endpoints.SEARCH_SECONDS),
        "fanout": settings.MESHES_LEASE_SECONDS * attempts.USABLE_SHARE,
        "deliver": settings.MESHES_LEASE_SECONDS * attempts.USABLE_SHARE,
        "sweep": sweep.STOP_SECONDS - 1,
    }
    waited = {
        "web": services.WEB_STOP_SECONDS,
        "fanout": services.WORKER_STOP_SECONDS,
        "deliver": services.WORKER_STOP_SECONDS,
        "sweep": services.SWEEP_STOP_SECONDS,
    }
    for name, seconds in longest.items():
        killed_after = int(compose[name]["stop_grace_period"].removesuffix("s"))
        assert seconds < waited[name] < killed_after
        assert killed_after == waited[name] + services.KILL_SECONDS
    assert str(services.WEB_STOP_SECONDS) in services.web("127.0.0.1:0")
    assert sweep.STOP_SECONDS == services.SWEEP_STOP_SECONDS > retention.EMPTYING_SECONDS


def test_ours_start_after_migrations(compose):
    for name in OURS - {"migrate", "flower"}:
        assert compose[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert compose["flower"]["depends_on"] == {"valkey": {"condition": "service_healthy"}}  # it knows no database


def test_every_container_is_confined(compose):
    for name, service in compose.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert (service["pids_limit"], "mem_limit" in service) == (512, True), name
        assert service["logging"] == {"driver": "local", "options": {"max-size": "20m", "max-file": "5"}}, name
        assert not {"privileged", "network_mode", "pid", "ipc", "devices"} & service.keys(), name
        assert re.fullmatch(r"\d+[mg]", resolved(service["mem_limit"])), name
    assert [name for name, service in compose.items() if "cap_add" in service] == ["postgres"]
    assert {name: service["volumes"] for name, service in compose.items() if "volumes" in service} == {
        "postgres": ["postgres:/var/lib/postgresql", "./postgres/role.sql:/docker-entrypoint-initdb.d/role.sql:ro"],
        "web": ["records:/var/lib/meshes"],
        "sweep": ["records:/var/lib/meshes"],
    }
    assert compose["valkey"]["user"] == "999:999"


def test_postgres_makes_the_services_role_in_a_new_volume_and_logs_no_rows(compose):
    postgres = compose["postgres"]
    assert (postgres["environment"]["POSTGRES_USER"], postgres["environment"]["POSTGRES_DB"]) == ("postgres", "meshes")
    assert (PROJECT / "postgres" / "role.sql").stat().st_mode & 0o004  # the container's user is another
    assert {"log_min_error_statement=panic", "log_error_verbosity=terse"} <= set(postgres["command"])


def test_workers_scale(compose):
    for name in ("fanout", "deliver", "sweep"):
        assert {"container_name", "ports", "hostname"} & compose[name].keys() == set()


def test_flower_and_web_are_published_on_loopback_and_nothing_else_is(compose):
    published = {name: service["ports"] for name, service in compose.items() if "ports" in service}
    assert published == {"web": ["${MESHES_BIND:-127.0.0.1:8000}:8000"], "flower": ["127.0.0.1:5555:5555"]}


def test_what_runs_on_has_a_health_check(compose):
    assert {name for name, service in compose.items() if "healthcheck" not in service} == {"migrate"}


def test_operators_need_a_second_factor(compose):
    assert compose["web"]["environment"]["MESHES_SECOND_FACTOR"] == "1"


def test_the_docs_send_the_logs_of_every_service_elsewhere(compose):
    (shown,) = re.findall(r"```yaml\n(.*?)```", (PROJECT / "docs" / "logs.md").read_text(), re.DOTALL)
    logging = {name: service["logging"] for name, service in yaml.safe_load(shown)["services"].items()}
    assert logging.keys() == compose.keys()
    assert {each["driver"] for each in logging.values()} == {"syslog"}
    assert {each["options"]["syslog-address"] for each in logging.values()} == {"tcp+tls://logs.example.com:6514"}


# --- networks --------------------------------------------------------------------------------------------------------


def test_services_reach_what_they_need_and_nothing_else(compose):
    assert {name: set(service["networks"]) for name, service in compose.items()} == {
        "postgres": {"database"},
        "valkey": {"broker"},
        "migrate": {"database"},
        "web": {"edge", "database", "broker"},
        "fanout": {"database", "broker"},
        "deliver": {"outbound", "database", "broker"},
        "sweep": {"outbound", "database", "broker"},
        "flower": {"monitor", "broker"},
    }


def test_the_networks_of_the_servers_have_no_way_out(document):
    internal = {
        name: resolved((settings or {}).get("internal", "false")) for name, settings in document["networks"].items()
    }
    assert internal == {"database": "true", "broker": "true", "edge": "false", "outbound": "false", "monitor": "false"}


def test_the_network_of_the_published_port_is_that_of_the_trusted_proxies(document, compose):
    (network,) = document["networks"]["edge"]["ipam"]["config"]
    assert environment_of(compose["web"])["MESHES_TRUSTED_PROXIES"] == resolved(network["subnet"]) == "172.31.250.0/28"
    assert [name for name, service in compose.items() if "edge" in service["networks"]] == ["web"]


def test_the_docs_say_who_speaks_to_whom(compose):
    page = (PROJECT / "docs" / "communication.md").read_text()
    said = set(re.findall(r"^\| `(\w+)` \| `(postgres|valkey)`", page, re.MULTILINE))
    servers = {"database": "postgres", "broker": "valkey"}
    assert said == {
        (name, servers[network]) for name in OURS for network in compose[name]["networks"] if network in servers
    }


# --- images ----------------------------------------------------------------------------------------------------------


def test_images_are_pinned_by_version_and_digest_and_flower_has_its_own(compose):
    for name in ("postgres", "valkey"):
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+(\.\d+)?-trixie@sha256:[0-9a-f]{64}", compose[name]["image"]), name
    assert {compose[name]["image"] for name in OURS - {"flower"}} == {"${MESHES_IMAGE:-meshes}"}
    assert compose["flower"]["image"] == "${MESHES_FLOWER_IMAGE:-meshes-flower}"
    assert {name: compose[name]["build"] for name in OURS} == dict.fromkeys(OURS, ".") | {
        "flower": {"context": ".", "target": "flower"}
    }


# --- settings and secrets --------------------------------------------------------------------------------------------

NAMES = """
import json
from django.conf import settings
settings.DEBUG
from meshes import environment as e
others = set(e.READ_ELSEWHERE) | set(e.SECRETS) | {name + "_FILE" for name in e.SECRETS}
print(json.dumps(sorted(e.known_settings() - others)))
"""
NOT_PASSED_ON = {
    *("MESHES_DEBUG", "MESHES_OWN_PORTS"),  # for a machine of one's own
    *("POSTGRES_USER", "POSTGRES_DB"),  # as postgres has them
}
RECORDS = {"MESHES_JOURNAL", "MESHES_SEAL_HEADS"}


def test_every_setting_of_env_is_passed_to_every_service(compose):
    """One that is added to the settings is to be added to compose.yaml: there `.env` alone passes nothing on."""
    env = {"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "meshes.settings", "MESHES_DATA_DIR": "/nonexistent"}
    told = subprocess.run(
        [sys.executable, "-c", NAMES], check=True, capture_output=True, text=True, cwd=PROJECT, timeout=300,
        env=env | {"SECRET_KEY": "s", "FERNET_KEYS": SAMPLES["FERNET_KEYS"]},
    )  # fmt: skip
    servers = {"POSTGRES_HOST", "VALKEY_HOST"}
    read = set(json.loads(told.stdout)) - NOT_PASSED_ON | servers
    for name in OURS:
        passed = (compose[name]["environment"].keys() - set(SECRETS) - IN_PLACE_OF_ONE) | servers
        assert passed == (read if name in {"web", "sweep"} else read - RECORDS), name
        assert "env_file" not in compose[name]


@pytest.mark.parametrize("name", sorted(OURS))
def test_documents_are_sealed_by_aes_256_gcm_unless_env_says_otherwise(compose, name):
    assert environment_of(compose[name])["MESHES_SEALING"] == "AES-256-GCM"
    assert environment_of(compose[name], ENV | {"MESHES_SEALING": "FERNET"})["MESHES_SEALING"] == "FERNET"


def test_the_settings_of_the_docs_part_the_admin_from_all_else(compose):
    assert environment_of(compose["web"])["MESHES_ADMIN_HOSTS"] not in ENV["MESHES_ALLOWED_HOSTS"].split(",")


def test_each_service_gets_the_names_of_its_own_secrets_and_no_others(compose):
    held = {
        name: {each.removesuffix("_FILE") for each in service["environment"]} & set(SECRETS)
        for name, service in compose.items()
    }
    database = {"DATABASE_URL", "MESHES_DIRECT_DATABASE_URL", "POSTGRES_PASSWORD"}
    broker = {"REDIS_URL", "VALKEY_PASSWORD"}
    both = database | broker | {"MESHES_REDIS_SHARDS"}
    sealed = {"FERNET_KEYS", "MESHES_OAUTH_CLIENTS"}
    assert held == {
        "postgres": {"POSTGRES_PASSWORD"},
        "valkey": {"VALKEY_PASSWORD"},
        "migrate": database,
        "web": both | sealed | {"SECRET_KEY", "SECRET_KEY_FALLBACKS"},
        "fanout": both,
        "deliver": both | sealed,
        "sweep": both | sealed,
        "flower": broker | {"FLOWER_BASIC_AUTH"},
    }
    assert {name: held[name] for name in OURS} == {name: set(secrets) for name, secrets in services.SECRETS_OF.items()}
    for name in OURS:
        passed = compose[name]["environment"]
        assert passed["MESHES_SERVICE"] == name
        assert {f"{each}_FILE" for each in held[name]} <= passed.keys()
        assert [each for each in passed.keys() & (set(SECRETS) | IN_PLACE_OF_ONE) if passed[each] is not None] == []


def start(compose, name, code, env=ENV):
    """Python in the environment of a service, and in no other."""
    environment = {
        "PATH": os.environ["PATH"],
        "MESHES_DATA_DIR": "/nonexistent",
        "DJANGO_SETTINGS_MODULE": "meshes.settings",
    }
    return subprocess.run(
        [sys.executable, *code], check=False, capture_output=True, text=True, cwd=PROJECT, timeout=300,
        env=environment | in_a_folder_of_ours(environment_of(compose[name], env)),
    )  # fmt: skip


def in_a_folder_of_ours(environment):
    """Here is no volume."""
    return {name: value.replace("/var/lib/meshes", tempfile.gettempdir()) for name, value in environment.items()}


LOADS = {
    "web": "import meshes.wsgi",
    "fanout": "from meshes.celery import app; app.loader.import_default_modules(); app.tasks['delivery.fan_out']",
    "deliver": "from meshes.celery import app; app.loader.import_default_modules(); app.tasks['delivery.deliver']",
    "sweep": "import django; django.setup(); from delivery.management.commands import sweep",
    "migrate": "import django; django.setup(); from django.core.management.commands import migrate",
    "flower": "import meshes.monitor, sys; assert 'meshes.settings' not in sys.modules",
}


@pytest.mark.parametrize("name", sorted(OURS))
def test_each_service_starts_with_its_own_names_alone(compose, name):
    loaded = start(compose, name, ["-c", LOADS[name]])
    assert loaded.returncode == 0, loaded.stderr
    assert "WARNING" not in loaded.stderr


@pytest.mark.parametrize("name", sorted(OURS - {"flower"}))
def test_its_settings_pass_check_deploy(compose, name):
    checked = start(compose, name, ["manage.py", "check", "--deploy", "--fail-level", "WARNING"])
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


@pytest.mark.parametrize(
    ("name", "left_out", "words"),
    [
        ("web", "SECRET_KEY", "SECRET_KEY is not set."),
        ("deliver", "FERNET_KEYS", "FERNET_KEYS is not set."),
        ("migrate", "POSTGRES_PASSWORD", "POSTGRES_PASSWORD is not set, and neither is DATABASE_URL."),
        ("sweep", "VALKEY_PASSWORD", "VALKEY_PASSWORD is not set, and neither is REDIS_URL."),
        ("flower", "VALKEY_PASSWORD", "VALKEY_PASSWORD is not set, and neither is REDIS_URL."),
    ],
)
def test_a_service_without_one_of_its_own_says_so(compose, name, left_out, words):
    code = ["-c", LOADS[name]] if name in {"web", "deliver", "flower"} else ["manage.py", "check"]
    ended = start(compose, name, code, {each: ENV[each] for each in ENV if each != left_out})
    assert ended.returncode != 0
    assert ended.stderr.startswith(f"Meshes cannot start: {words}")


def test_check_deploy_fails_without_one_of_them(compose):
    env = ENV | {"MESHES_HTTPS": "0", "REDIS_URL": "redis://valkey.example.com:6379/0", "MESHES_ALLOWED_HOSTS": "*"}
    checked = start(compose, "web", ["manage.py", "check", "--deploy"], env)
    assert checked.returncode == 1
    told = set(re.findall(r"\((\w+\.\w+)\)", checked.stderr))
    assert {"meshes.W004", "meshes.E004", "meshes.E005", "meshes.E021"} <= told


SERVERS = """
from django.conf import settings as s
d = s.DATABASES["default"]
print([d["HOST"], d["PASSWORD"], s.REDIS_URL.rpartition("@")[2], s.MESHES_CLEAR_TEXT_HOSTS])
"""


def test_its_servers_may_have_any_password_and_others_may_take_their_place(compose):
    shown = start(compose, "web", ["-c", SERVERS]).stdout
    assert shown == f"{['postgres', SAMPLES['POSTGRES_PASSWORD'], 'valkey:6379/0', ['postgres', 'valkey']]}\n"
    others = {"DATABASE_URL": "postgresql://u:p%2F@db.example.com/n", "REDIS_URL": "rediss://:q@v.example.com/0"}
    shown = start(compose, "web", ["-c", SERVERS], ENV | others).stdout
    assert shown.startswith("['db.example.com', 'p/', 'v.example.com/0?ssl_cert_reqs=required', ")
    assert [resolved(compose[name]["scale"], {"POSTGRES_SCALE": "0"}) for name in ("postgres", "valkey")] == ["0", "1"]


def test_every_variable_of_compose_is_in_the_docs():
    text = (PROJECT / "compose.yaml").read_text()
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", text)) | set(re.findall(r"^ +([A-Z][A-Z_]+):", text, re.MULTILINE))
    asked = {name for name in asked if name.removesuffix("_FILE") not in SECRETS} | {"POSTGRES_PASSWORD"}
    documented = (PROJECT / "docs" / "running.md").read_text()
    assert {name for name in asked if f"`{name}" not in documented} == set()
    assert {"POSTGRES_PASSWORD", "VALKEY_PASSWORD", "FLOWER_BASIC_AUTH", "SECRET_KEY", "FERNET_KEYS"} <= ENV.keys()


# --- Valkey ----------------------------------------------------------------------------------------------------------


def run_valkey(compose, tmp_path, port, **environment):
    """Valkey by the command of its container, on a port of the test's own."""
    (tmp_path / "valkey-server").symlink_to(valkey_binary())
    shell, option, script = map(resolved, compose["valkey"]["command"])
    script = script.replace("valkey-server - ", f"valkey-server - --port {port} --bind 127.0.0.1 ")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | environment
    return subprocess.Popen(
        [shell, option, script], env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("by_file", [False, True])
def test_valkey_wants_the_password_that_ours_have(compose, tmp_path, by_file):
    port = free_port()
    (tmp_path / "password").write_text(SAMPLES["VALKEY_PASSWORD"] + "\n")
    given = {"VALKEY_PASSWORD_FILE": str(tmp_path / "password")} if by_file else environment_of(compose["valkey"])
    process = run_valkey(compose, tmp_path, port, **given)
    try:
        with Redis(port=port, password=SAMPLES["VALKEY_PASSWORD"]) as client:
            eventually(lambda: answers(client))
            assert client.config_get("maxmemory", "maxmemory-policy", "save", "appendonly") == {
                "maxmemory": str(768 * 1024**2), "maxmemory-policy": "noeviction", "save": "", "appendonly": "no",
            }  # fmt: skip
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"PING\r\n")
            assert stranger.recv(100).startswith(b"-NOAUTH ")  # which its health check asks for
        with Redis(port=port, password="wrong") as client, pytest.raises(AuthenticationError):
            client.ping()
        assert SAMPLES["VALKEY_PASSWORD"] not in Path(f"/proc/{process.pid}/cmdline").read_text()
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.parametrize("given", [{}, {"VALKEY_PASSWORD": ""}, {"VALKEY_PASSWORD_FILE": "/dev/null"}])
def test_valkey_does_not_start_without_a_password(compose, tmp_path, given):
    process = run_valkey(compose, tmp_path, free_port(), **given)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"VALKEY_PASSWORD" in error


def answers(client) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def test_docker_compose_accepts_it(tmp_path):
    if subprocess.run(["docker", "compose", "version"], check=False, capture_output=True).returncode != 0:
        pytest.skip("there is no docker compose here")
    env = tmp_path / ".env"
    env.write_text("".join(f"{name}='{value}'\n" for name, value in ENV.items() if name != "VALKEY_PASSWORD"))
    command = ["docker", "compose", "--env-file", str(env), "--project-directory", str(tmp_path)]
    subprocess.run([*command, "-f", str(PROJECT / "compose.yaml"), "config", "-q"], check=True)
