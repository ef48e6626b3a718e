"""How late wake-ups are for deliveries that become due in the same instant: `python -m bench.due [number]`.

Ten thousand deliveries of a thousand connections come due at one moment. Lateness is the time from that moment until
the wake-up of each has been put on its lane; the sweep runs on its real interval. The baseline, in the same run,
publishes the same wake-ups with Celery's `send_task` through `producer.batch()`.
"""

import sys
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from bench import alone

CONNECTIONS = 1_000


def measure(number: int) -> dict[str, Any]:
    from django.db import connection

    from delivery.dispatch import sweep
    from delivery.lanes import brokers

    lanes = prepare(number)
    sent: list[tuple[float, int]] = []
    record_sending(sent)
    due_at = datetime.now(UTC) + timedelta(seconds=3)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE deliveries SET next_attempt_at = %s", [due_at])
        cursor.execute("VACUUM ANALYZE deliveries")
    stopping = threading.Event()
    due = sweep.Sweep("due", sweep.DUE_EVERY_SECONDS, sweep.DueDeliveries())
    sweeper = threading.Thread(target=sweep.run_until, args=(due, stopping), daemon=True)
    sweeper.start()
    lateness = watch(sent, number, due_at)
    stopping.set()
    sweeper.join()
    brokers.flush()
    return (
        {"deliveries": number, "connections": CONNECTIONS}
        | lateness
        | {"classic_publishing_seconds": round(publish_classically(lanes, number), 3)}
    )


def prepare(number: int) -> list[str]:
    from django.db import connection

    from delivery.models import Delivery
    from tests.factories import make_connection, make_event, make_rule, make_workspace

    workspace = make_workspace()
    rules = [make_rule(make_connection(workspace)) for _ in range(CONNECTIONS)]
    event = make_event(workspace)
    now = datetime.now(UTC) + timedelta(hours=1)
    rows = [
        Delivery(
            id=uuid.UUID(int=(event.pk.int >> 80 << 80) | index),
            workspace=workspace,
            event=event,
            rule=rules[index % CONNECTIONS],
            connection_id=rules[index % CONNECTIONS].connection_id,
            event_type=event.type,
            action="send",
            next_attempt_at=now,
            created_at=now,
        )
        for index in range(number)
    ]
    Delivery.objects.bulk_create(rows, batch_size=2_000)
    connection.close()
    return [f"conn.{rule.connection_id}" for rule in rules]


def watch(sent: list[tuple[float, int]], number: int, due_at: datetime) -> dict[str, float]:
    """Seconds after `due_at` at which half, 99 % and all of the wake-ups were in their lanes."""
    deadline = due_at.timestamp() + 60
    while sum(count for _, count in sent) < number:
        if time.time() > deadline:
            raise SystemExit(f"only {sum(count for _, count in sent)} of {number} wake-ups after a minute")
        time.sleep(0.05)
    reached: dict[str, float] = {}
    arrived = 0
    for moment, count in sent:
        arrived += count
        for name, share in {"half": 0.5, "most": 0.99, "all": 1.0}.items():
            if arrived >= number * share:
                reached.setdefault(f"{name}_seconds_late", round(moment - due_at.timestamp(), 3))
    return reached


def record_sending(sent: list[tuple[float, int]]) -> None:
    """Note when each batch of wake-ups had reached the broker."""
    from delivery.lanes import brokers

    send = brokers.send

    def send_and_note(url: str, wake_ups: list[Any]) -> None:
        send(url, wake_ups)
        sent.append((time.time(), len(wake_ups)))

    brokers.send = send_and_note


def publish_classically(lanes: list[str], number: int) -> float:
    from celery import current_app
    from kombu import Exchange, Queue

    started = time.monotonic()
    for start in range(0, number, 256):
        with current_app.producer_pool.acquire(block=True) as producer, producer.batch():
            for index in range(start, min(start + 256, number)):
                lane = lanes[index % len(lanes)]
                row_id = str(uuid.uuid4())
                queue = Queue(lane, exchange=Exchange("", type="direct"), routing_key=lane)
                current_app.send_task("delivery.deliver", (row_id,), task_id=row_id, queue=queue, declare=[],
                                      producer=producer, ignore_result=True)  # fmt: skip
    return time.monotonic() - started


if __name__ == "__main__":
    alone.run("due", partial(measure, int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
