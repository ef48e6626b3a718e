"""What the access log's seals cost: `python -m bench.sealing [records]`.

Records are sealed by a process of their own, as the sweeper's, while this one claims deliveries, one at a time. The
baselines, in the same run: claims with nothing beside them, and beside a process that only reads the same records.
Then the chain is checked.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from bench import alone
from bench.due import prepare

WARM_UP, SHORTEST, LONGEST = 200, 1_000, 12_000
"""Claims: before each measurement, in the one at rest, and at most in each."""

FILL = """
INSERT INTO access_records (id, workspace_id, owner_kind, owner_id, kind, version, actor, purpose, granted, created_at)
SELECT uuidv7(), workspace_id, owner_kind, owner_id, kind, version, actor, 'delivery', granted, now()
FROM (SELECT * FROM access_records LIMIT 1) AS base CROSS JOIN generate_series(1, %s)
"""


def measure(number: int) -> dict[str, Any]:
    from django.db import connection

    from delivery.models import Delivery

    prepare(3 * LONGEST)
    Delivery.objects.update(next_attempt_at=datetime.now(UTC))
    waiting = list(Delivery.objects.values_list("pk", flat=True))
    with connection.cursor() as cursor:
        cursor.execute(FILL, [number])
        cursor.execute("VACUUM ANALYZE")
    at_rest = claim(waiting, lambda: False)
    reading, reading_seconds = beside("read", waiting)
    sealing, sealing_seconds = beside("seal", waiting)
    return {
        "records": number,
        "claim_ms": {"at_rest": at_rest, "beside_reading": reading, "beside_sealing": sealing},
        "reading_seconds": reading_seconds,
        "sealing_seconds": sealing_seconds,
        "checking_seconds": check(number),
    }


def beside(act: str, waiting: list[Any]) -> tuple[dict[str, float], float]:
    """Claims while a process of its own does this, and how long it took."""
    process = subprocess.Popen([sys.executable, "-m", "bench.sealing", act], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # it begins
    claims = claim(waiting, lambda: process.poll() is None)
    return claims, float(process.communicate()[0])


def claim(waiting: list[Any], goes_on: Callable[[], bool]) -> dict[str, float]:
    """Claim deliveries one by one while it goes on; half and 99 % took so many milliseconds at most."""
    from delivery.dispatch import claims

    taken: list[float] = []
    while waiting and len(taken) < LONGEST and (len(taken) < SHORTEST + WARM_UP or goes_on()):
        started = time.perf_counter()
        (job,) = claims.claim([waiting.pop()], "bench")
        assert job is not None
        taken.append(1000 * (time.perf_counter() - started))
    ordered = sorted(taken[WARM_UP:])
    return {
        "claims": len(ordered),
        "p50": round(ordered[len(ordered) // 2], 2),
        "p99": round(ordered[len(ordered) * 99 // 100], 2),
    }


def check(number: int) -> float:
    from workspaces.vault import verifying

    started = time.perf_counter()
    *_, report = verifying.verify(datetime.now(UTC), {}, ())
    assert report.records >= number
    assert report.findings == []
    return round(time.perf_counter() - started, 2)


def act(name: str) -> None:
    """What runs beside the claims, in a process of its own; prints its seconds."""
    alone.set_up()
    from meshes.kit import partitions
    from workspaces.vault import access_log

    print("begins", flush=True)
    started = time.perf_counter()
    if name == "seal":
        while access_log.seal(datetime.now(UTC)) >= access_log.MOST_RECORDS:
            pass
    else:
        for partition in partitions.existing(access_log.TABLE):
            last = 0
            while rows := access_log.read_week(partition.start, last, last + access_log.MOST_RECORDS):
                last = rows[-1][0]
    print(round(time.perf_counter() - started, 2))


if __name__ == "__main__":
    argument = sys.argv[1] if len(sys.argv) > 1 else "1000000"
    if argument.isdecimal():
        alone.run("sealing", partial(measure, int(argument)), MESHES_LEASE_SECONDS="3600")
    else:
        act(argument)
