"""The journal: on disk before the commit, by ids alone, and never silently left out."""

import json
import os
import stat
import subprocess
import sys

import pytest
from django.db import transaction

from meshes.kit import clock, files
from tests.factories import make_workspace
from workspaces import journal, keys, lifecycle
from workspaces.models import ApiKey, JournalEntry


@pytest.fixture
def file(tmp_path, settings):
    path = tmp_path / "journal"
    settings.MESHES_JOURNAL = str(path)
    return path


def entries(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


# --- the file -------------------------------------------------------------------------------------------------------


def test_lines_are_added_to_a_file_that_only_its_owner_reads(tmp_path):
    path = tmp_path / "lines"
    for line in ("one", "two"):
        files.append_line(str(path), line)
    assert path.read_text() == "one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path):
    path = tmp_path / "lines"
    path.write_text("one\ntw")
    files.append_line(str(path), "three")
    assert path.read_text() == "one\ntw\nthree\n"


def test_a_line_that_does_not_fit_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    files.append_line(str(path), "one")

    def full(descriptor, left):
        os.pwrite(descriptor, b"tw", 4)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        files.append_line(str(path), "two")
    assert path.read_text() == "one\n"


def test_processes_that_write_at_once_mix_no_lines(tmp_path):
    path = tmp_path / "lines"
    code = (
        "import sys; from meshes.kit.files import append_line\n"
        "for n in range(50): append_line(sys.argv[1], sys.argv[2] * 3000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), letter]) for letter in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert sorted(path.read_text().splitlines()) == [letter * 3000 for letter in "abc" for _ in range(50)]


# --- entries --------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_what_ends_for_ever_is_told_by_ids(file):
    workspace = make_workspace(name="canary-name")
    key = keys.create_key(name="canary-key", kind="workspace", scopes=["config"], workspace=workspace).row
    keys.rotate_key(key.pk, 0, clock.database_now())
    keys.revoke_key(key.pk, clock.database_now())
    keys.revoke_key(key.pk, clock.database_now())
    lifecycle.delete_workspace(workspace, clock.database_now())
    lifecycle.delete_workspace(workspace, clock.database_now())
    told = entries(file)
    assert [(entry["did"], entry.get("key"), entry.get("workspace")) for entry in told] == [
        ("key_rotated", key.public_id, None),
        ("key_revoked", key.public_id, None),
        ("workspace_deleted", None, workspace.public_id),
    ]
    assert told[0]["version"] == 2
    assert "canary" not in file.read_text()


@pytest.mark.django_db
def test_without_a_journal_nothing_is_kept():
    lifecycle.delete_workspace(make_workspace(), clock.database_now())
    assert not JournalEntry.objects.exists()


@pytest.mark.django_db
def test_it_is_on_disk_before_the_change_is_committed(file):
    """What fails after that leaves an entry of what did not happen, never the other way round."""
    workspace = make_workspace()

    def fail_late():
        with transaction.atomic():
            lifecycle.delete_workspace(workspace, clock.database_now())
            raise TimeoutError

    with pytest.raises(TimeoutError):
        fail_late()
    workspace.refresh_from_db()
    assert workspace.deleted_at is None
    assert [entry["did"] for entry in entries(file)] == ["workspace_deleted"]


@pytest.mark.django_db
def test_an_unwritable_journal_is_told_and_written_later(file, settings, caplog):
    """The change is made all the same; its entry stands in the log and in the database until a sweep has written it."""
    settings.MESHES_JOURNAL = str(file.parent / "missing" / "journal")
    workspace = make_workspace()
    lifecycle.delete_workspace(workspace, clock.database_now())
    workspace.refresh_from_db()
    assert workspace.deleted_at is not None
    assert "the journal cannot be written (No such file or directory)" in caplog.text
    assert workspace.public_id in caplog.text
    with pytest.raises(OSError, match="missing"):
        journal.write_pending()
    assert JournalEntry.objects.count() == 1
    settings.MESHES_JOURNAL = str(file)
    assert (journal.write_pending(), journal.write_pending()) == (1, 0)
    assert [entry["workspace"] for entry in entries(file)] == [workspace.public_id]


def test_several_are_read_by_their_moments_and_what_is_torn_is_counted(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text('{"at": "2026-01-01T00:00:02", "did": "erased", "n": 3}\n{"at": "2026-01\n[]\n')
    second.write_text('{"at": "2026-01-01T00:00:01", "did": "erased", "n": 2}\n\n')
    read = list(journal.read([str(first), str(second)]))
    assert [entry and entry[1] for entry in read] == [None, None, {"n": 2}, {"n": 3}]


@pytest.mark.django_db
def test_a_key_of_kind_account_is_told_of_too(file):
    key = keys.create_key(name="CI", kind=ApiKey.Kind.ACCOUNT, scopes=keys.SCOPES).row
    keys.revoke_key(key.pk, clock.database_now())
    assert [entry["key"] for entry in entries(file)] == [key.public_id]
