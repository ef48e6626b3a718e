"""compose.yaml starts what `up` starts, lets deliveries in flight end, and scales."""

import subprocess
from pathlib import Path

import pytest
import yaml

from meshes import services

PROJECT = Path(__file__).resolve().parents[2]
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


def test_ours_wait_longer_for_their_end_than_a_worker_waits_for_its_deliveries(compose):
    for name in OURS:
        assert compose[name]["stop_grace_period"] == "45s"
    assert services.WARM_STOP_SECONDS < 45


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
    assert without == {"migrate", "sweep"}


def test_docker_compose_accepts_it(tmp_path):
    if subprocess.run(["docker", "compose", "version"], check=False, capture_output=True).returncode != 0:
        pytest.skip("there is no docker compose here")
    env = tmp_path / ".env"
    env.write_text("POSTGRES_PASSWORD=p\nFLOWER_BASIC_AUTH=u:p\nSECRET_KEY=s\nFERNET_KEYS=f\n")
    command = ["docker", "compose", "--env-file", str(env), "--project-directory", str(tmp_path)]
    subprocess.run([*command, "-f", str(PROJECT / "compose.yaml"), "config", "-q"], check=True)
