"""What a delivery waits for, and until when. A moment that is past is nobody's next attempt."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import QuerySet

from connections.models import Connection, ConnectionHealth
from delivery.models import Delivery

RETRY, COOL_DOWN, PROBE, TURN = "retry", "cool_down", "probe", "turn"
HOLDS = ("paused", "disabled", "needs_reauth", "credential_error")
REASONS = (RETRY, COOL_DOWN, PROBE, TURN, *HOLDS)

TURN_WORDS = "It is due, and goes out in its connection's turn."
RETRY_WORDS = "Its schedule: the next attempt is made then."
PROBE_WORDS = "One delivery tries whether the destination is back; the others wait for what becomes of it."
HALF_OPEN_WORDS = "The circuit breaker is half open: the next delivery tries whether the destination is back."
COOL_DOWN_WORDS = {
    "failures": "The circuit breaker is open: attempts in a row have failed. Then one delivery tries again.",
    "throttled": "The destination has asked for a pause (429). Then one delivery tries again.",
    "no_credentials": "The credentials cannot be used for now: no token, or no key. Then one delivery tries again.",
    "": "The vendor's limit of requests is used up until then.",
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """`reason` is one of `REASONS`; `until` is None where no moment is known."""

    reason: str
    until: datetime | None
    words: str


def waiting_for(delivery: Delivery, now: datetime) -> Waiting | None:
    """What an open delivery waits for; None for one that is over or in flight."""
    connection = delivery.connection
    if delivery.status not in (Delivery.Status.PENDING, Delivery.Status.HELD):
        return None
    if delivery.status == Delivery.Status.PENDING and delivery.lease_until is not None and delivery.lease_until > now:
        return None
    if connection.status in HOLDS:
        return Waiting(connection.status, None, connection.status_reason or f"The connection is {connection.status}.")
    due = delivery.next_attempt_at if delivery.status == Delivery.Status.PENDING else None
    cool_down = cooling_down(connection, now)
    if cool_down is not None and (due is None or due <= (cool_down.until or now)):
        return cool_down
    if due is not None and due > now:
        return Waiting(RETRY, due, RETRY_WORDS)
    return Waiting(TURN, None, TURN_WORDS)


def cooling_down(connection: Connection, now: datetime) -> Waiting | None:
    """The pause that an active connection takes at this moment, if any."""
    health = health_of(connection)
    is_closed = health is None or health.breaker == ConnectionHealth.Breaker.CLOSED
    if connection.paused_until is not None and connection.paused_until > now:
        opened_by = "" if health is None or is_closed else health.opened_by or "failures"
        return Waiting(COOL_DOWN, connection.paused_until, COOL_DOWN_WORDS[opened_by])
    if health is not None and not is_closed and health.probe_until is not None and health.probe_until > now:
        return Waiting(PROBE, health.probe_until, PROBE_WORDS)
    return None


def breaker_of(connection: Connection, now: datetime) -> str:
    """The breaker as it is at this moment: where the pause of an open one is over, the next delivery is its probe."""
    health = health_of(connection)
    return ConnectionHealth.Breaker.CLOSED if health is None else health.breaker_at(connection.paused_until, now)


def health_of(connection: Connection) -> ConnectionHealth | None:
    """The counters of a connection's health; None before its first attempt."""
    found: ConnectionHealth | None = getattr(connection, "health", None)
    return found


def shown(deliveries: QuerySet[Delivery]) -> QuerySet[Delivery]:
    """The deliveries with all that lists and pages show of them, in one query, and without what those do not show."""
    unread = ("body", "frozen", "connection__config", "connection__credential_hints", "connection__retry_schedule")
    related = deliveries.select_related("workspace", "connection", "connection__health", "rule")
    return related.defer(*unread, "rule__filter", "rule__mapping")
