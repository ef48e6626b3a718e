"""What searches that no index serves cost those who post events.

    python -m bench.searches [deliveries] [seconds] [turns]

One web process on PostgreSQL and Valkey of its own. Events are posted at a steady rate, alone and beside clients that
search all deliveries for what none has, again and again, and wait as long as a 429 asks for. The cases take turns.
Beside that: what the rate of a key costs a request, by itself.
"""

import http.client
import statistics
import sys
import threading
import time
from collections import Counter
from functools import partial
from typing import Any

from django.conf import settings

from bench import alone
from bench.cpu import load_average
from bench.filling import Filler
from bench.load import Template
from bench.rig import Options, Rig
from bench.slow_senders import make_templates, probe
from bench.spread import percentile
from meshes import services
from meshes.dev.children import Child
from meshes.dev.embedded import free_port

POSTS_A_SECOND = 30
CASES = {"alone": (0, 2), "3 searching": (3, 2), "16 searching": (16, 2), "16 searching, 1000 at a time": (16, 1000)}
"""Clients that search, and MESHES_SEARCHES. Half of the threads at most search, whatever that is."""

FILL = """
INSERT INTO deliveries (id, workspace_id, event_id, rule_id, connection_id, event_type, action, frozen, status, cause,
    detail, outcome, attempt_number, budget_used, losses, next_attempt_at, claimed_by, created_at)
SELECT id, %(workspace)s, id, %(rule)s, %(connection)s, 'a', 'send', '{}', 'succeeded', '', '', 'delivered', 1, 1, 0,
    now(), '', now()
FROM (SELECT uuidv7() AS id FROM generate_series(1, %(rows)s)) AS made
"""
SEARCH = "/api/v1/deliveries?outcome=retry"


def measure(deliveries: int, seconds: int, turns: int) -> dict[str, Any]:
    from connections.models import Connection
    from delivery.models import Rule
    from workspaces import keys
    from workspaces.models import Workspace

    searched = Workspace.objects.create(name="searched")
    connection = Connection.objects.create(workspace=searched, type="webhook", name="searched")
    rule = Rule.objects.create(workspace=searched, connection=connection, event="*", action="send")
    filler = Filler(settings.DATABASE_URL, print)
    owners = {"workspace": str(searched.pk), "connection": str(connection.pk), "rule": str(rule.pk)}
    filler.run(FILL, {"rows": deliveries, **owners})
    filler.analyze("deliveries", "workspaces", "connections", "rules")
    filler.close()
    searcher = keys.create_key(name="searching", kind="account", scopes=["events:read"]).key
    templates = make_templates()
    figures: dict[str, Any] = {"deliveries": deliveries, "load_average": load_average(), "rate_us": rate_us()}
    with Rig(Options(), print) as rig:
        for _ in range(turns):
            for name, (clients, most) in CASES.items():
                figure = measure_case(rig, templates, searcher, clients, most, seconds)
                figures.setdefault(name, []).append(figure)
                print(name, figure, flush=True)
    return figures


def rate_us() -> float:
    """The median of what one question to a key's bucket takes, in microseconds."""
    from meshes.kit import ids
    from workspaces import limits

    took, key_id = [], ids.uuid7()
    for _ in range(2000):
        began = time.perf_counter()
        limits.take_request(key_id)
        took.append(time.perf_counter() - began)
    return round(1e6 * statistics.median(took), 1)


def measure_case(
    rig: Rig, templates: list[Template], key: str, clients: int, most: int, seconds: int
) -> dict[str, Any]:
    port = free_port()
    web = rig.program("web", services.web(f"127.0.0.1:{port}"), WEB_CONCURRENCY="1", MESHES_SEARCHES=str(most))
    server = Child(web)
    ended, answered = threading.Event(), Counter[int]()
    try:
        rig.wait_for(lambda: probe(port) < 1, "the web process to answer", 60)
        searching = [threading.Thread(target=search, args=(port, key, ended, answered)) for _ in range(clients)]
        for thread in searching:
            thread.start()
        count = POSTS_A_SECOND * seconds
        schedule = [(number / POSTS_A_SECOND, number % len(templates)) for number in range(count)]
        answers, _ = rig.load(port, templates, schedule=schedule, seconds=seconds + 30)
        ended.set()
        for thread in searching:
            thread.join()
    finally:
        ended.set()
        server.kill()
    took = [answered - due for due, answered in zip(answers.due, answers.answered, strict=True)]
    return {
        "post_p50_ms": round(1000 * percentile(took, 0.5), 1),
        "post_p99_ms": round(1000 * percentile(took, 0.99), 1),
        "posts": dict(Counter(answers.status)),
        "searches": dict(answered),
    }


def search(port: int, key: str, ended: threading.Event, answered: "Counter[int]") -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while not ended.is_set():
        client.request("GET", SEARCH, headers={"Authorization": f"Bearer {key}"})
        answer = client.getresponse()
        answer.read()
        answered[answer.status] += 1
        ended.wait(float(answer.headers.get("Retry-After", 0)))
    client.close()


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    alone.run("searches", partial(measure, *(numbers + [1_000_000, 12, 2][len(numbers) :])))
