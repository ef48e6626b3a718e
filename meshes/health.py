"""`/healthz`: this process answers. `/readyz`: it can do its work.

Ready needs PostgreSQL with all migrations, partitions ahead, and the keys of what is sealed. Redis is only reported:
without it the API accepts and keeps events all the same, and sweeps send them on when it is back, so taking the process
out of service would lose what the outage does not. So are events that were set aside: they wait for a person, and no
other process would route them. So is a sweeper that has stopped: retries and retention wait for it, accepting does not.
"""

from collections.abc import Callable

import redis
from django.conf import settings
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse

from delivery.dispatch import retention, sweep
from delivery.events import setting_aside
from meshes.api.problems import safe_methods_only
from meshes.kit import clock, partitions
from meshes.services import NO_BROKER_WORDS, ping
from workspaces import installation
from workspaces.models import JournalEntry
from workspaces.vault import stored_keys

MIN_PARTITIONS_AHEAD = 2
MOST_COUNTED = 1_000


class NotReadyError(Exception):
    """A check failed; the message says how, without names of hosts."""


@safe_methods_only
def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


@safe_methods_only
def readyz(request: HttpRequest) -> JsonResponse:
    needed = {name: _run(check) for name, check in _NEEDED.items()}
    runs = _last_runs()
    reported = {name: _run(check) for name, check in _REPORTED.items()} | {"sweeps": _late_words(runs)}
    status = "unavailable" if _failed(needed) else "degraded" if _failed(reported) else "ok"
    sweeps = {run.name: run.succeeded_at for run in runs or ()}
    answer = {"status": status, "checks": needed | reported, "sweeps": sweeps}
    return JsonResponse(answer, status=503 if status == "unavailable" else 200)


def check_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def check_migrations() -> None:
    executor = MigrationExecutor(connection)
    if waiting := executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise NotReadyError(f"{len(waiting)} migrations are not applied")


def check_partitions() -> None:
    """Every table has this week's partition, without which nothing is accepted, the next one, and enough ahead."""
    week = partitions.week_of(clock.database_now())
    for table in retention.TABLES:
        starts = {partition.start for partition in partitions.existing(table)}
        for needed in (week, week + partitions.WEEK):
            if needed not in starts:
                raise NotReadyError(f"{table} has no partition for the week from {needed}; is the sweeper running?")
        ahead = sum(start > week for start in starts)
        if ahead < MIN_PARTITIONS_AHEAD:
            raise NotReadyError(f"{table} has {ahead} partitions ahead; is the sweeper running?")


def check_keys() -> None:
    """Whether every stored document's key is at hand; what its key does not open tells `manage.py check --deploy`."""
    if missing := stored_keys.find_missing():
        raise NotReadyError(f"sealed documents need keys that are not among FERNET_KEYS: {', '.join(missing)}")


def check_set_aside() -> None:
    """Whether every accepted event gets on by itself; the causes of those that do not."""
    if causes := setting_aside.count_by_cause(MOST_COUNTED):
        number = sum(causes.values())
        parts = ", ".join(f"{count} {cause}" for cause, count in causes.items())
        least = "at least " if number == MOST_COUNTED else ""
        raise NotReadyError(f"{least}{number} events are set aside ({parts}): POST /api/v1/events/route sends them on")


def _last_runs() -> list[sweep.LastRun] | None:
    try:
        return sweep.last_runs()
    except Error:
        return None


def _late_words(runs: list[sweep.LastRun] | None) -> str:
    """What sweeps are late, and for how long; "ok" where none is."""
    if runs is None:
        return "unreachable"
    late = [run for run in runs if run.is_late]
    since = ", ".join(
        f"{run.name} never" if run.seconds_ago is None else f"{run.name} {run.seconds_ago:.0f} s ago" for run in late
    )
    return f"last success: {since}; is the sweeper running?" if late else "ok"


def check_journal() -> None:
    """Whether the journal has all that it should tell of."""
    if waiting := JournalEntry.objects.count():
        raise NotReadyError(f"{waiting} entries wait until MESHES_JOURNAL can be written")


def check_restore() -> None:
    if installation.is_held():
        raise NotReadyError(installation.HELD_WORDS)


def check_redis() -> None:
    try:
        ping(settings.REDIS_URL)
    except redis.RedisError:
        raise NotReadyError(f"unreachable: {NO_BROKER_WORDS}") from None


_NEEDED: dict[str, Callable[[], None]] = {
    "database": check_database,
    "migrations": check_migrations,
    "partitions": check_partitions,
    "keys": check_keys,
}


_REPORTED: dict[str, Callable[[], None]] = {
    "redis": check_redis,
    "set_aside": check_set_aside,
    "journal": check_journal,
    "restore": check_restore,
}


def _run(check: Callable[[], None]) -> str:
    try:
        check()
    except NotReadyError as error:
        return str(error)
    except (Error, redis.RedisError):
        return "unreachable"
    return "ok"


def _failed(checks: dict[str, str]) -> bool:
    return any(result != "ok" for result in checks.values())
