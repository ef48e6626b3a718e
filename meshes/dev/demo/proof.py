"""What the demo claims, each claim reckoned from what the receivers saw and what the API says."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meshes.dev.demo.act import ACME, EVENTS, Act, Part, Posted, Rescue

ISOLATION_RATIO = 2.0
"""What the healthy endpoints' p95 beside a hung one may be, times that of the slowest calm part."""
ISOLATION_SLACK_SECONDS = 0.05
"""What it may rise by besides: a full garbage collection that falls into one part and not into another."""


@dataclass(frozen=True, slots=True)
class Claim:
    words: str
    held: bool


@dataclass(frozen=True, slots=True)
class Row:
    """Event type × destination: numbers of deliveries, and seconds from the POST until the request that was answered
    200 reached the endpoint."""

    event_type: str
    destination: str
    expected: int
    delivered: int
    retried: int
    held: int
    dead: int
    waiting: int
    p50: float | None
    p99: float | None


def percentile(values: Iterable[float], share: float) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def latencies(act: Act, endpoint: str, posted: list[Posted], deliveries: Iterable[Mapping[str, Any]]) -> list[float]:
    """Seconds from handing an event in until the request came that was answered 200, of the events that arrived."""
    handed_in = {event.id: event.at for event in posted}
    arrived = act.endpoints[endpoint].arrived
    return [
        arrived[delivery["id"]] - handed_in[delivery["event"]]
        for delivery in deliveries
        if delivery["id"] in arrived and delivery["event"] in handed_in
    ]


def table(act: Act) -> list[Row]:
    """One row for each event type and endpoint that rules lead it to."""
    rows = []
    for name in act.endpoints:
        known = act.deliveries(name)
        for kind in sorted({event.type for event in act.wanted(name)}):
            wanted = [event for event in act.wanted(name) if event.type == kind]
            rows.append(_row(act, name, kind, wanted, [each for each in known if each["event_type"] == kind]))
    return rows


def _row(act: Act, name: str, kind: str, wanted: list[Posted], known: list[Mapping[str, Any]]) -> Row:
    took = latencies(act, name, wanted, known)
    tenant = act.of(name)[0].workspace.removeprefix("ws_tenant_")
    count = {status: sum(each["status"] == status for each in known) for status in ("succeeded", "held", "dead")}
    return Row(
        event_type=kind,
        destination=f"{tenant} → {name}",
        expected=len(wanted),
        delivered=count["succeeded"],
        retried=sum(each["attempt_count"] > 1 for each in known),
        held=count["held"],
        dead=count["dead"],
        waiting=sum(each["status"] in ("pending", "in_flight") for each in known),
        p50=percentile(took, 0.5),
        p99=percentile(took, 0.99),
    )


def healthy_p95(act: Act, part: Part) -> float:
    """The p95 of both healthy endpoints for the events of a part; infinite where one of those did not arrive."""
    healthy = [(name, act.deliveries(name)) for name in ("healthy-a", "healthy-b")]
    took = [seconds for name, known in healthy for seconds in latencies(act, name, part.posted, known)]
    return percentile(took, 0.95) or math.inf if len(took) == len(part.posted) else math.inf


def claims(act: Act, rows: list[Row]) -> list[Claim]:
    """What must hold before anything is mended."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.destination.split(" → ")[1], []).append(row)
    return [
        Claim(f"All {sum(EVENTS)} events were answered 202", act.answered == len(act.posted) == sum(EVENTS)),
        Claim("Every delivery is accounted for: delivered, held, dead or waiting", _accounted(rows)),
        Claim("Each healthy endpoint got every event of its own tenant once, and no other's", _healthy(act)),
        Claim(f"All {_received(act)} requests carried a valid signature", _all_verified(act)),
        Claim("A retried delivery kept its webhook-id and its bytes", _same_bytes(act)),
        Claim("The slow endpoint got everything", all(row.delivered == row.expected for row in by_name["slow"])),
        Claim("The flaky endpoint got everything, after retries", _flaky(by_name["flaky"])),
        Claim("The gone endpoint (410) was sent one event at most; all are held", _gone(act, by_name["gone"])),
        Claim("The dead endpoint left dead letters; behind the open breaker the rest wait", _dead(by_name["dead"])),
        Claim("The hung endpoint lost nothing: its deliveries wait, or are held by a pause", _hung(by_name["hung"])),
    ]


def isolation(act: Act) -> tuple[list[float], list[float], Claim]:
    """The healthy p95 of each calm and of each troubled part, in seconds, and the claim about them.

    The first part is left out: it finds processes that have done nothing yet.
    """
    calm = [healthy_p95(act, part) for part in act.parts[1:] if not part.troubled]
    troubled = [healthy_p95(act, part) for part in act.parts if part.troubled]
    words = "A hung endpoint does not slow the healthy ones beyond what this machine's calm parts show"
    return calm, troubled, Claim(words, is_isolated(calm, troubled))


def is_isolated(calm: list[float], troubled: list[float]) -> bool:
    """Whether what is healthy was as quick beside trouble as without, for a machine whose calm parts differ so.

    `calm` and `troubled` are seconds, one for each part. On a machine with other work the slowest calm part is slow,
    and so may the troubled ones be; where a hung endpoint holds the others up, they wait for its timeout besides.
    """
    if math.inf in (*calm, *troubled):
        return False
    return statistics.median(troubled) <= max(calm) * ISOLATION_RATIO + ISOLATION_SLACK_SECONDS


def rescue_claims(act: Act, rescue: Rescue | None) -> list[Claim]:
    """What must hold after the dead endpoint was mended."""
    if rescue is None:
        return [Claim("A dead letter was replayed", False)]
    letter, replayed = rescue.letter, rescue.replayed
    numbers = [attempt["number"] for attempt in replayed["attempts"]]
    arrived = letter["id"] in act.endpoints["dead"].arrived
    return [
        Claim("The replayed dead letter arrived under its old webhook-id", arrived),
        Claim("Its attempt numbers went on", numbers == list(range(1, letter["attempt_count"] + 2))),
        Claim(f"The {rescue.waiting} deliveries that waited for it arrived too", rescue.arrived == rescue.waiting),
    ]


def _accounted(rows: list[Row]) -> bool:
    return all(row.expected == row.delivered + row.held + row.dead + row.waiting for row in rows)


def _healthy(act: Act) -> bool:
    for name in ("healthy-a", "healthy-b"):
        (destination,) = act.of(name)
        known = {delivery["id"]: delivery["event"] for delivery in act.deliveries(name)}
        answered = [receipt.webhook_id for receipt in destination.endpoint.receipts if receipt.status == 200]
        own = {event.id for event in act.posted if event.workspace == destination.workspace}
        if len(answered) != len(own) or {known.get(webhook_id) for webhook_id in answered} != own:
            return False
    return ACME in {destination.workspace for destination in act.destinations}


def _received(act: Act) -> int:
    return sum(endpoint.requests for endpoint in act.endpoints.values())


def _all_verified(act: Act) -> bool:
    return all(receipt.verified for endpoint in act.endpoints.values() for receipt in endpoint.receipts)


def _same_bytes(act: Act) -> bool:
    bodies: dict[str, set[bytes]] = {}
    for receipt in act.endpoints["flaky"].receipts:
        bodies.setdefault(receipt.webhook_id, set()).add(receipt.body)
    return bool(bodies) and all(len(seen) == 1 for seen in bodies.values())


def _flaky(rows: list[Row]) -> bool:
    return all(row.delivered == row.expected for row in rows) and any(row.retried for row in rows)


def _gone(act: Act, rows: list[Row]) -> bool:
    (destination,) = act.of("gone")
    status = act.api.get(f"/connections/{destination.connection}")["status"]
    return status == "disabled" and all(row.held == row.expected for row in rows)


def _dead(rows: list[Row]) -> bool:
    return sum(row.dead for row in rows) > 0 and not sum(row.delivered + row.held for row in rows)


def _hung(rows: list[Row]) -> bool:
    return all(row.waiting + row.held == row.expected for row in rows)
