"""compose.yaml starts what `up` starts, lets deliveries in flight end, and scales."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from django.conf import settings

from connections import probing
from delivery import dispatch, retention
from delivery.management.commands import sweep
from meshes import checks, searching, services

PROJECT = Path(__file__).resolve().parents[2]


def fill(line: str) -> tuple[str, str]:
    """The name and the value of a line of `.env`; a secret that is left out gets one of its own."""
    name, _, value = line.strip().partition("=")
    return name, value.replace("…", hashlib.sha512(name.encode()).hexdigest())


ENV = dict(
    fill(line)
    for line in re.findall(r"^    [A-Z_]+=.*$", (PROJECT / "docs" / "running.md").read_text(), re.MULTILINE)
    if not line.strip().endswith("make up")
)
"""The `.env` that docs/running.md shows, with something in the place of each secret."""
OURS = {"migrate", "web", "fanout", "deliver", "sweep", "flower"}


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]


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


def test_the_image_starts_web_by_itself():
    line = (PROJECT / "Dockerfile").read_text().splitlines()[-1]
    assert line.startswith("CMD ")
    assert yaml.safe_load(line.removeprefix("CMD ")) == ["python", *services.web("0.0.0.0:8000")]


def test_what_is_in_progress_has_time_to_end_before_its_service_is_killed(compose):
    test_of_a_connection = 2 * (probing.TOKEN_SECONDS + checks.LONGEST_ATTEMPT_SECONDS)
    longest = {
        "web": max(test_of_a_connection, searching.SEARCH_SECONDS),
        "fanout": settings.MESHES_LEASE_SECONDS * dispatch.USABLE_SHARE,
        "deliver": settings.MESHES_LEASE_SECONDS * dispatch.USABLE_SHARE,
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


def test_ours_start_after_migrations_with_least_privilege(compose):
    for name in OURS - {"migrate"}:
        assert compose[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        assert compose[name]["cap_drop"] == ["ALL"]
        assert compose[name]["read_only"] is True
    assert "USER meshes" in (PROJECT / "Dockerfile").read_text().splitlines()


def test_workers_scale(compose):
    for name in ("fanout", "deliver", "sweep"):
        assert {"container_name", "ports", "hostname"} & compose[name].keys() == set()


def test_flower_and_web_are_published_on_loopback_and_nothing_else_is(compose):
    published = {name: service["ports"] for name, service in compose.items() if "ports" in service}
    assert published == {"web": ["${MESHES_BIND:-127.0.0.1:8000}:8000"], "flower": ["127.0.0.1:5555:5555"]}


def test_what_can_be_asked_has_a_health_check(compose):
    without = {name for name, service in compose.items() if "healthcheck" not in service}
    assert without == {"migrate"}


def resolved(text: str) -> str:
    """With the variables in it, as Compose reads them. KeyError for one that must be set and is not."""
    return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: ENV[found[1]], text)


def test_every_secret_it_asks_for_is_in_the_docs():
    asked = set(re.findall(r"\$\{(\w+):\?", (PROJECT / "compose.yaml").read_text()))
    assert asked == {"POSTGRES_PASSWORD", "VALKEY_PASSWORD", "FLOWER_BASIC_AUTH"}
    assert asked | {"SECRET_KEY", "FERNET_KEYS", "MESHES_HTTPS"} <= ENV.keys()


def test_valkey_wants_the_password_that_ours_have(compose):
    command = [resolved(argument) for argument in compose["valkey"]["command"]]
    assert command[command.index("--requirepass") + 1] == ENV["VALKEY_PASSWORD"]
    assert resolved(compose["valkey"]["environment"]["REDISCLI_AUTH"]) == ENV["VALKEY_PASSWORD"]
    for name in OURS:
        url = resolved(compose[name]["environment"]["REDIS_URL"])
        assert url == f"redis://:{ENV['VALKEY_PASSWORD']}@valkey:6379/0"


def test_ours_have_the_same_settings_but_for_flowers_password(compose):
    shared = compose["web"]["environment"]
    assert [name for name in OURS if compose[name]["environment"] != shared] == ["flower"]
    assert compose["flower"]["environment"].items() - shared.items() == {
        ("FLOWER_BASIC_AUTH", "${FLOWER_BASIC_AUTH:?set it in .env, as user:password}")
    }


def test_operators_need_a_second_factor(compose):
    assert compose["web"]["environment"]["MESHES_SECOND_FACTOR"] == "1"


@pytest.mark.parametrize("name", ["web", "flower"])
def test_its_settings_pass_check_deploy(compose, name):
    """In the environment of each service, and no other; without docker."""
    environment = {key: resolved(value) for key, value in compose[name]["environment"].items()}
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    env = {"PATH": os.environ["PATH"], "MESHES_DATA_DIR": "/nonexistent"} | ENV | environment
    checked = subprocess.run(command, check=False, capture_output=True, text=True, cwd=PROJECT, env=env, timeout=300)
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


def test_check_deploy_fails_without_one_of_them(compose):
    environment = {key: resolved(value) for key, value in compose["web"]["environment"].items()}
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    env = {"PATH": os.environ["PATH"], "MESHES_DATA_DIR": "/nonexistent"} | ENV | environment
    env |= {"MESHES_HTTPS": "0", "REDIS_URL": "redis://valkey:6379/0", "MESHES_ALLOWED_HOSTS": "*"}
    checked = subprocess.run(command, check=False, capture_output=True, text=True, cwd=PROJECT, env=env, timeout=300)
    assert checked.returncode == 1
    assert {"meshes.W004", "meshes.E004", "meshes.E005"} <= set(re.findall(r"\((\w+\.\w+)\)", checked.stderr))


def test_docker_compose_accepts_it(tmp_path):
    if subprocess.run(["docker", "compose", "version"], check=False, capture_output=True).returncode != 0:
        pytest.skip("there is no docker compose here")
    env = tmp_path / ".env"
    env.write_text("".join(f"{name}={value}\n" for name, value in ENV.items()))
    command = ["docker", "compose", "--env-file", str(env), "--project-directory", str(tmp_path)]
    subprocess.run([*command, "-f", str(PROJECT / "compose.yaml"), "config", "-q"], check=True)
