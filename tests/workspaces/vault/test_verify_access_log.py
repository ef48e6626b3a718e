"""What was done to sealed records is found and named; what was dropped in time, and what is not sealed yet, is told."""

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from delivery.dispatch import retention
from meshes.kit import ids, partitions
from tests.connections.records import TABLE, id_at, make_record, tampering
from workspaces.vault import access_log, verifying
from workspaces.vault.models import AccessLogSeal, AccessRecord

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC)


@pytest.fixture
def sealed(monkeypatch):
    """Nine records in segments of three."""
    monkeypatch.setattr(access_log, "MOST_RECORDS", 3)
    records = [make_record(actor=f"worker-{number}") for number in range(9)]
    access_log.seal(NOW)
    return records


def check(logged=None):
    *_, report = verifying.verify(datetime.now(UTC), *(logged or ({}, [])))
    return report


def name(record):
    return f"record {ids.encode(ids.ACCESS, record.pk)} (number {record.number})"


def tamper(statement, *parameters):
    with tampering() as cursor:
        cursor.execute(statement, parameters)


COLUMNS = [field.column for field in AccessRecord._meta.fields if field.column not in {"id", "number"}]


def insert_copy(record, number, at=NOW):
    """A row that says it had been there, under this number."""
    forged = id_at(at)
    kept = ", ".join(COLUMNS)
    tamper(
        f"INSERT INTO {TABLE} (id, number, {kept}) SELECT %s, %s, {kept} FROM {TABLE} WHERE id = %s",
        *(forged, number, record.pk),
    )
    return f"record {ids.encode(ids.ACCESS, forged)} (number {number})"


def test_what_was_only_added_to_is_whole(sealed):
    make_record()
    report = check()
    assert (report.findings, report.segments, report.records, report.unsealed) == ([], 3, 9, 1)


def test_actions_are_sealed_and_checked_in_one_chain_with_openings(sealed):
    owner_id = ids.uuid7()
    access_log.record_action(workspace_id=None, owner_kind="event", owner_id=owner_id, actor="ada", purpose="viewed")
    access_log.seal(NOW)
    report = check()
    assert (report.findings, report.segments, report.records, report.unsealed) == ([], 4, 10, 0)
    action = AccessRecord.objects.get(kind="action")
    tamper(f"UPDATE {TABLE} SET actor = 'bob' WHERE id = %s", action.pk)
    assert check().findings == [f"segment 4: {name(action)} was changed"]


def test_an_empty_log_is_whole():
    report = check()
    assert (report.findings, report.segments, report.unsealed) == ([], 0, 0)


@pytest.mark.parametrize("position", range(9))
def test_a_removed_record_is_named(sealed, position):
    tamper(f"DELETE FROM {TABLE} WHERE id = %s", sealed[position].pk)
    segment = position // 3 + 1
    assert check().findings == [f"segment {segment}: the record with number {sealed[position].number} was removed"]


CHANGES = {
    "workspace_id": ids.uuid7(),
    "owner_kind": "api_key",
    "owner_id": ids.uuid7(),
    "kind": "signing_secret",
    "version": 2,
    "actor": "nobody",
    "purpose": "delivery",
    "granted": False,
    "delivery_id": ids.uuid7(),
    "attempt_number": 1,
    "created_at": NOW + timedelta(microseconds=1),
}


def test_every_column_can_be_changed_in_these_tests():
    assert set(CHANGES) == set(COLUMNS)


@pytest.mark.parametrize("column", CHANGES)
def test_a_changed_record_is_named_whatever_was_changed(sealed, column):
    tamper(f"UPDATE {TABLE} SET {column} = %s WHERE id = %s", CHANGES[column], sealed[4].pk)
    assert check().findings == [f"segment 2: {name(sealed[4])} was changed"]


def test_a_new_id_or_number_is_a_change(sealed):
    tamper(f"UPDATE {TABLE} SET id = %s WHERE id = %s", other := id_at(NOW), sealed[4].pk)
    tamper(f"UPDATE {TABLE} SET number = %s WHERE id = %s", sealed[6].number, sealed[7].pk)
    sealed[4].pk = other
    number = sealed[6].number
    assert check().findings == [
        f"segment 2: {name(sealed[4])} was changed",
        f"segment 3: record {ids.encode(ids.ACCESS, sealed[7].pk)} (number {number}) was inserted",
        f"segment 3: the record with number {sealed[7].number} was removed",
    ]


@pytest.mark.parametrize("position", [0, 2, 3, 8])
def test_an_inserted_record_is_named(sealed, position):
    forged = insert_copy(sealed[0], sealed[position].number)
    assert check().findings == [f"segment {position // 3 + 1}: {forged} was inserted"]


def test_a_record_of_another_week_cannot_be_slipped_in(sealed):
    """Also into a week of which nothing was sealed, or nothing so late."""
    partitions.ensure(TABLE, partitions.week_of(NOW + timedelta(weeks=2)))
    forged = insert_copy(sealed[0], sealed[5].number, NOW + timedelta(weeks=2))
    assert check().findings == [f"{forged} was inserted into what is sealed"]


def test_two_records_that_change_places_are_found(sealed):
    first, second = sealed[0], sealed[1]
    tamper(f"UPDATE {TABLE} SET actor = 'x' WHERE id = %s", first.pk)
    tamper(f"UPDATE {TABLE} SET actor = %s WHERE id = %s", first.actor, second.pk)
    assert check().findings == [f"segment 1: {name(record)} was changed" for record in (first, second)]


def test_more_than_ten_are_counted(monkeypatch):
    for _ in range(25):
        make_record()
    access_log.seal(NOW)
    tamper(f"UPDATE {TABLE} SET actor = 'nobody'")
    findings = check().findings
    assert len(findings) == 11
    assert findings[-1] == "segment 1: and 15 more records"


def test_without_marks_the_segment_is_named(sealed):
    AccessLogSeal.objects.update(marks=None)
    tamper(f"DELETE FROM {TABLE} WHERE id = %s", sealed[4].pk)
    tamper(f"UPDATE {TABLE} SET granted = false WHERE id = %s", sealed[8].pk)
    words = "its records are not those that were sealed"
    assert check().findings == [f"segment 2: {words}", f"segment 3: {words}"]


# --- the seals themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    ["count = 2", "content = previous", "last = last - 1", "after = 1", "week = week - 7", "sealed_at = now()"],
)
def test_a_changed_seal_is_found(sealed, change):
    tamper(f"UPDATE access_log_seals SET {change} WHERE segment = 2")
    assert "segment 2: its seal was changed" in check().findings


def test_a_seal_that_was_made_anew_does_not_fit_the_next(sealed):
    tamper(f"UPDATE {TABLE} SET actor = 'nobody' WHERE id = %s", sealed[4].pk)
    seal = AccessLogSeal.objects.get(segment=2)
    rows = access_log.read_week(seal.week, seal.after, seal.last)
    seal.content = access_log.content_of([access_log.digest(row) for row in rows])
    tamper(
        "UPDATE access_log_seals SET content = %s, head = %s WHERE segment = 2",
        *(seal.content, access_log.head_of(seal)),
    )
    assert check().findings == ["segment 3 does not follow segment 2: one of them was changed"]


def test_a_removed_seal_is_found_and_the_others_are_still_checked(sealed):
    tamper("DELETE FROM access_log_seals WHERE segment = 2")
    tamper(f"UPDATE {TABLE} SET actor = 'nobody' WHERE id = %s", sealed[8].pk)
    assert check().findings == [
        "segment 2: its seal is missing",
        f"segment 3: {name(sealed[8])} was changed",
    ]


def test_several_removed_seals_are_one_finding(sealed):
    tamper("DELETE FROM access_log_seals WHERE segment < 3")
    assert check().findings == ["segments 1 to 2: their seals are missing"]


# --- heads in the log -----------------------------------------------------------------------------------------------


@pytest.fixture
def logged(sealed):
    """The log of a sealing of nine records, as the sweeper writes it."""
    lines = [access_log.line_of(seal) for seal in AccessLogSeal.objects.order_by("segment")]
    return [f"2026-11-22 03:25:01,000 INFO workspaces.vault.access_log {line}" for line in lines]


def test_heads_are_read_from_a_log(logged):
    heads = {seal.segment: {seal.head} for seal in AccessLogSeal.objects.all()}
    read = verifying.read_heads([["something else", *logged, ""]])
    assert read == (heads, [])
    assert check(read).findings == []


def test_a_chain_that_was_made_anew_as_a_whole_is_found_by_the_log(sealed, logged):
    tamper(f"UPDATE {TABLE} SET actor = 'nobody' WHERE id = %s", sealed[4].pk)
    tamper("DELETE FROM access_log_seals")
    access_log.seal(NOW)
    heads = verifying.read_heads([logged])
    assert check().findings == []
    assert check(heads).findings == [f"segment {number}: its head is not the one that was logged" for number in (2, 3)]


def test_seals_that_were_cut_off_are_found_by_the_log(sealed, logged):
    tamper("DELETE FROM access_log_seals WHERE segment > 1")
    assert check().findings == []
    assert check(verifying.read_heads([logged])).findings == [
        "segment 2 was logged, and its seal is missing",
        "segment 3 was logged, and its seal is missing",
    ]


# --- retention ------------------------------------------------------------------------------------------------------


def test_weeks_past_their_retention_are_known_by_their_count(sealed):
    for days in (400, 390):
        make_record(at=NOW - timedelta(days=days))
    access_log.seal(NOW)
    retention.expire(NOW)
    report = check()
    assert (report.findings, report.expired_segments, report.expired_records) == ([], 2, 2)
    assert (report.segments, report.records) == (3, 9)


def test_a_week_that_went_before_its_time_is_found_once(sealed):
    for _ in range(4):
        make_record(at=NOW - timedelta(days=50))
    access_log.seal(NOW)
    week = partitions.Partition(TABLE, partitions.week_of(NOW - timedelta(days=50)))
    tamper(f"DROP TABLE {week.name}")
    assert check().findings == [
        f"segment 4: the whole week of {week.start} is gone before its time (MESHES_RETENTION_ACCESS_DAYS)"
    ]


def test_a_seal_of_an_expired_week_is_still_a_link_of_the_chain():
    make_record(at=NOW - timedelta(days=400))
    access_log.seal(NOW)
    retention.expire(NOW)
    tamper("UPDATE access_log_seals SET count = 7")
    assert check().findings == ["segment 1: its seal was changed"]


# --- the command ----------------------------------------------------------------------------------------------------


def run(**options):
    out = StringIO()
    try:
        call_command("verify_access_log", stdout=out, no_color=True, **options)
    except CommandError as error:
        return f"{out.getvalue()}{error}", error.returncode
    return out.getvalue(), 0


def test_the_command_says_what_is_whole_and_what_it_cannot_see(sealed):
    make_record()
    told, code = run()
    assert code == 0
    assert told.splitlines() == [
        "As they were sealed: 3 segments, 9 records.",
        "Not sealed yet: 1 records. The sweeper seals every minute; until then a change or a removal is not seen.",
        "The sealed access log is whole.",
    ]


def test_the_command_ends_with_one_and_names_what_it_found(sealed):
    tamper(f"DELETE FROM {TABLE} WHERE id = %s", sealed[4].pk)
    told, code = run()
    assert code == 1
    assert f"segment 2: the record with number {sealed[4].number} was removed" in told
    assert told.endswith("The access log is not whole. Findings: 1")


def test_the_command_shows_its_progress(sealed, monkeypatch):
    monkeypatch.setattr("workspaces.management.commands.verify_access_log.PROGRESS_SECONDS", -1)
    told, _ = run()
    assert "1 of 3 segments, 3 records\n2 of 3 segments, 6 records\n" in told


def test_the_command_compares_with_a_log(sealed, logged, tmp_path):
    path = tmp_path / "sweep.log"
    path.write_text("\n".join(logged))
    assert "heads in the log: 3" in run(log=[str(path)])[0]
    tamper("DELETE FROM access_log_seals WHERE segment = 3")
    assert run(log=[str(path)])[1] == 1


def test_a_log_that_is_not_there_is_an_error(tmp_path):
    told, code = run(log=[str(tmp_path / "nothing")])
    assert (code, told.endswith("cannot be read: No such file or directory")) == (1, True)
