"""Whether `FERNET_KEYS` open what is stored: at the start, and by `check --deploy`."""

import os
import subprocess
import sys
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.db import OperationalError
from django.db import connection as database

from meshes import checks
from meshes.environment import PROJECT
from tests.factories import make_connection, make_workspace
from workspaces.vault import sealing, stored_keys
from workspaces.vault.models import AccessRecord


def ids() -> list[str]:
    return [str(found.id) for found in checks.check_stored_keys()]


@pytest.mark.django_db
def test_keys_that_open_everything_are_silent(use_keys):
    use_keys("old")
    make_connection(make_workspace())
    use_keys("new", "old")
    make_connection(make_workspace())
    before = AccessRecord.objects.count()
    assert ids() == []
    assert AccessRecord.objects.count() == before


@pytest.mark.django_db
def test_a_key_in_use_that_is_missing_is_named_with_what_needs_it(use_keys):
    use_keys("old")
    key_id = sealing.newest_key_id()
    for _ in range(3):
        make_connection(make_workspace())
    use_keys("new")
    make_connection(make_workspace())
    (found,) = checks.check_stored_keys()
    assert (found.id, found.level) == ("meshes.E009", 40)
    assert found.msg == f"3 sealed documents need the key {key_id}, which is not among FERNET_KEYS."
    use_keys("new", "old")
    assert ids() == []


@pytest.mark.django_db
def test_a_sample_of_each_key_is_tried(use_keys):
    use_keys("old")
    make_connection(make_workspace())
    use_keys("new", "old")
    damaged = make_connection(make_workspace())
    with database.cursor() as cursor:
        cursor.execute(
            "UPDATE sealed_documents SET document = substr(document, 1, 40) || '\\x41'::bytea || substr(document, 42)"
            " WHERE connection_id = %s",
            [damaged.pk],
        )
    (found,) = checks.check_stored_keys()
    name = f'{damaged.public_id} "{damaged.name}" of the workspace {damaged.workspace}'
    assert (found.id, found.msg) == (
        "meshes.E010",
        f"The key {sealing.newest_key_id()} does not open what it sealed: {name} is damaged.",
    )


def test_without_a_database_it_is_told_that_nothing_is_known(monkeypatch, caplog):
    def fail():
        raise OperationalError("gone")
        yield

    monkeypatch.setattr(stored_keys, "find_unopenable", fail)
    (found,) = checks.check_stored_keys()
    assert (found.id, found.level) == ("meshes.I001", 20)
    monkeypatch.setattr(stored_keys.connection, "close", lambda: None)
    stored_keys.tell_unopenable()
    assert [record.levelname for record in caplog.records if record.name == "workspaces.vault.stored_keys"] in (
        [],
        ["INFO"],
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("command", [["manage.py", "check", "--deploy"], ["-c", "import meshes.wsgi"]], ids=" ".join)
def test_a_process_says_it_and_goes_on(use_keys, command):
    use_keys("old")
    make_connection(make_workspace())
    server = urlsplit(os.environ["DATABASE_URL"])
    name = database.settings_dict["NAME"]
    env = os.environ | {"DATABASE_URL": urlunsplit(server._replace(path=f"/{name}")), "FERNET_KEYS": "A" * 43}
    told = subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True, cwd=PROJECT, env=env)
    assert "1 sealed documents need the key" in told.stderr
    assert "Traceback" not in told.stderr
    assert told.returncode == (1 if "--deploy" in command else 0)
