"""Heads in a file outside the database: they outlive logs, and tell a restore from somebody's hand in the chain."""

import logging
import stat
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from meshes.kit import clock
from tests.connections.records import TABLE, make_record, tampering
from workspaces.vault import access_log
from workspaces.vault.models import AccessLogSeal, AccessRecord

pytestmark = pytest.mark.django_db

UNSEALED = "the access log is not sealed: segment 3, as MESHES_SEAL_HEADS has it, is not in its chain"


@pytest.fixture
def file(tmp_path, settings):
    path = tmp_path / "seal-heads"
    settings.MESHES_SEAL_HEADS = str(path)
    return path


def seal(number=1):
    for _ in range(number):
        make_record()
        access_log.seal(clock.database_now())


def heads(file):
    return [(line.segment, line.head) for line in access_log.parse_heads(iter(file.read_text().splitlines()))]


def verify(*logs):
    out = StringIO()
    call_command("verify_access_log", *(f"--log={log}" for log in logs), stdout=out)
    return out.getvalue()


def tamper(statement, *parameters):
    with tampering() as cursor:
        cursor.execute(statement, parameters)


def lose_after(segment):
    """As a restore of a dump of that time does."""
    last = AccessLogSeal.objects.get(segment=segment).last
    tamper("DELETE FROM access_log_seals WHERE segment > %s", segment)
    tamper(f"DELETE FROM {TABLE} WHERE number > %s", last)


def restored(file):
    return access_log.record_restore({str(file)}, clock.database_now())


def test_each_segment_has_its_line_and_the_file_is_its_owners(file):
    seal(3)
    sealed = list(AccessLogSeal.objects.order_by("segment").values_list("segment", "head"))
    assert heads(file) == sealed
    assert len(sealed) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "heads in the log: 3" in verify(file)


def test_what_a_crash_kept_from_the_file_is_added_later(file, settings):
    seal()
    settings.MESHES_SEAL_HEADS = ""
    seal(2)
    settings.MESHES_SEAL_HEADS = str(file)
    seal()
    assert [segment for segment, _ in heads(file)] == [1, 2, 3, 4]


def test_a_file_that_is_new_begins_with_the_newest_segment(file, settings):
    settings.MESHES_SEAL_HEADS = ""
    seal(2)
    settings.MESHES_SEAL_HEADS = str(file)
    seal()
    assert [segment for segment, _ in heads(file)] == [2, 3]


def test_a_file_that_cannot_be_written_is_told_and_the_log_is_sealed(file, settings, caplog):
    settings.MESHES_SEAL_HEADS = str(file.parent / "missing" / "heads")
    seal()
    assert AccessLogSeal.objects.count() == 1
    assert "MESHES_SEAL_HEADS cannot be written (No such file or directory)" in caplog.text


def test_after_a_restore_the_chain_goes_on_and_the_check_is_green(file):
    seal(3)
    lose_after(1)
    with pytest.raises(CommandError):
        verify(file)  # nobody has said yet that it was a restore
    assert restored(file).segment == 1
    seal(2)
    said = verify(file)
    assert "after segment 1" in said
    assert "The sealed access log is whole." in said
    assert [segment for segment, _ in heads(file)] == [1, 2, 3, 1, 2, 3]
    assert AccessRecord.objects.filter(purpose="restored").count() == 1


def test_the_log_of_the_sweeper_is_read_beside_the_file(file, tmp_path):
    """It knows segments that are lost, and no restore; both are put in the order of their moments."""
    seal(3)
    log = tmp_path / "sweep.log"
    lines = [f"2026-01-01 00:00:00,000 INFO workspaces.vault.access_log {access_log.line_of(each)}"
             for each in AccessLogSeal.objects.order_by("segment")]  # fmt: skip
    log.write_text("\n".join(lines))
    lose_after(1)
    restored(file)
    seal(2)
    assert "whole" in verify(file, log)
    with pytest.raises(CommandError):
        verify(log)


def test_a_database_that_went_back_is_not_sealed_before_somebody_has_said_so(file, caplog):
    seal(3)
    lose_after(1)
    make_record()
    assert access_log.seal(clock.database_now()) == 0
    assert UNSEALED in caplog.text
    assert AccessLogSeal.objects.count() == 1
    restored(file)
    assert access_log.seal(clock.database_now()) > 0
    assert "whole" in verify(file)


@pytest.mark.parametrize("segment", [1, 2, 3])
def test_what_is_changed_after_a_restore_is_still_found(file, segment):
    """Before the place from which history goes on, and after it."""
    seal(3)
    lose_after(2)
    restored(file)
    seal(2)
    tamper("UPDATE access_log_seals SET head = repeat('0', 64) WHERE segment = %s", segment)
    with pytest.raises(CommandError):
        verify(file)


def test_a_chain_that_is_made_anew_after_a_restore_is_found_by_the_file(file):
    seal(2)
    lose_after(1)
    restored(file)
    seal(2)
    tamper("DELETE FROM access_log_seals WHERE segment > 1")
    tamper(f"UPDATE {TABLE} SET actor = 'nobody' WHERE number = (SELECT max(number) FROM {TABLE})")
    access_log._seal(clock.database_now())
    with pytest.raises(CommandError):
        verify(file)


def test_a_restore_that_only_the_file_tells_of_is_found(file):
    """A line that was added by hand would make what it follows void."""
    seal(3)
    lose_after(1)
    tip = access_log.read_tip()
    words = access_log.LOGGED_RESTORE % (tip.segment, tip.head, "01b2c3d4-0000-7000-8000-000000000000")
    access_log._add_line(str(file), words, clock.database_now())
    with pytest.raises(CommandError):
        verify(file)


def test_a_restore_is_logged_whatever_the_level(file, caplog):
    with caplog.at_level(logging.INFO, logger="workspaces.vault.access_log"):
        restored(file)
    assert "access log restored: after segment 0" in caplog.text
