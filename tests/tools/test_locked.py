"""What is locked is what the lists of components say, and a known hole fails the audit."""

import json
import re
import subprocess
import sys

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tools import audit, locked, pin_images, write_sbom
from tools.locked import PROJECT

LOCK = locked.SERVED_LOCK.read_text()


# --- the lock --------------------------------------------------------------------------------------------------------


def test_every_pin_of_the_lock_is_read_with_its_hashes():
    packages = locked.packages()
    assert {(each.name, each.version) for each in packages} == set(re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.MULTILINE))
    assert sum(len(each.hashes) for each in packages) == LOCK.count("--hash=sha256:")
    names = {each.name for each in packages} | {"meshes"}
    assert all(each.needed_by and set(each.needed_by) <= names for each in packages)
    (celery,) = (each for each in packages if each.name == "celery")
    assert celery.needed_by == ("flower", "meshes")


# --- the list of components ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sbom():
    return json.loads(write_sbom.TARGET.read_text())


def test_the_list_is_that_of_the_lock_and_the_same_each_time():
    """After a change of the lock or of an image: `make lock`, or `make pin`."""
    assert write_sbom.TARGET.read_text() == write_sbom.make_sbom() == write_sbom.make_sbom()


def test_it_is_valid_cyclonedx():
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(write_sbom.TARGET.read_text()) is None
    broken = write_sbom.TARGET.read_text().replace('"type": "library"', '"type": "libary"', 1)
    assert validator.validate_str(broken) is not None


def test_it_has_every_package_and_image_and_who_needs_them(sbom):
    packages = {each["name"]: each["version"] for each in sbom["components"] if each["type"] == "library"}
    assert packages == {each.name: each.version for each in locked.packages()}
    images = {each["name"] for each in sbom["components"] if each["type"] == "container"}
    assert images == {"postgres", "python", "valkey/valkey"}
    needs = {each["ref"]: each.get("dependsOn", []) for each in sbom["dependencies"]}
    assert f"pkg:pypi/django@{packages['django']}" in needs["meshes"]
    assert f"pkg:pypi/kombu@{packages['kombu']}" in needs[f"pkg:pypi/celery@{packages['celery']}"]


def test_it_names_no_registry_no_machine_and_no_moment(sbom):
    text = write_sbom.TARGET.read_text()
    assert re.findall(r"https?://[^\"]*", text) == ["http://cyclonedx.org/schema/bom-1.6.schema.json"]
    assert {"serialNumber", "timestamp"} & (sbom.keys() | sbom["metadata"].keys()) == set()
    assert str(PROJECT) not in text


# --- known holes -----------------------------------------------------------------------------------------------------


ONE = {"name": "django", "version": "5.2.1", "vulns": []}
HOLE = {"id": "PYSEC-0000-1", "fix_versions": ["5.2.2"], "description": ""}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Makes `pip-audit` answer so."""

    def answer(*dependencies, says=""):
        (tmp_path / "answer").write_text(json.dumps({"dependencies": dependencies}) if dependencies else says)
        program = tmp_path / "pip-audit"
        program.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\necho {says!r} >&2\n")
        program.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    return answer


def test_a_known_hole_fails_and_is_named(registry, capsys):
    registry(ONE | {"vulns": [HOLE]})
    assert audit.main() == 1
    assert capsys.readouterr().out == "django 5.2.1: PYSEC-0000-1, closed in 5.2.2\n1 packages audited.\n"


def test_none_is_known(registry, capsys):
    registry(ONE, {"name": "own", "skip_reason": "not found"})
    assert audit.main() == 0
    assert capsys.readouterr().out == "1 packages audited. Not audited: own.\n"


def test_a_registry_that_does_not_answer_is_said_and_no_failure(registry, capsys):
    registry({"name": "amqp", "skip_reason": "not found"})
    assert audit.main() == 0
    registry(says="Connection refused")
    assert audit.main() == 0
    assert capsys.readouterr().out == "".join(
        f"Not audited: the registry does not tell of known holes ({reason}).\n"
        for reason in ("not found", "Connection refused")
    )


def test_ci_asks():
    assert "make audit\n" in (PROJECT / ".ci" / "run").read_text()


# --- images ----------------------------------------------------------------------------------------------------------


def test_pinning_writes_the_digest_that_docker_gives(tmp_path, monkeypatch):
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/sh\nfor last; do :; done\nprintf "sha256:%s" "$(printf %s "$last" | sha256sum | cut -c-64)"\n'
    )
    docker.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for source in locked.IMAGE_FILES:
        before = source.read_text()
        path = tmp_path / source.name
        path.write_text(before)
        pin_images.pin(path)
        after = path.read_text()
        pins = locked.IMAGE.findall(after)
        assert [pin[:2] for pin in pins] == [pin[:2] for pin in locked.IMAGE.findall(before)]
        for name, tag, digest in pins:
            given = subprocess.run(
                ["sha256sum"], input=f"{name}:{tag}".encode(), capture_output=True, check=True
            ).stdout
            assert digest == given[:64].decode()
        assert locked.IMAGE.sub("", after) == locked.IMAGE.sub("", before)


def test_pinning_writes_nothing_that_is_no_digest(tmp_path, monkeypatch):
    (tmp_path / "docker").write_text("#!/bin/sh\necho unknown\n")
    (tmp_path / "docker").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "Dockerfile"
    path.write_text((PROJECT / "Dockerfile").read_text())
    with pytest.raises(SystemExit, match="docker gives no digest of python:"):
        pin_images.pin(path)
    assert path.read_text() == (PROJECT / "Dockerfile").read_text()


def test_the_docs_say_by_when_holes_are_closed():
    text = (PROJECT / "SECURITY.md").read_text()
    assert re.search(r"\| critical .*\| 7 days \|\n\| high .*\| 30 days \|\n\| medium .*\| 90 days \|", text)
