"""The scripts of one ring in the words of the tests."""

from itertools import zip_longest
from typing import Any, NamedTuple

from redis import Redis

from delivery.lanes import options
from delivery.lanes.lease import Lease, Report, hand_back_all, settle_all
from delivery.lanes.names import key_prefix
from delivery.lanes.scripts import Scripts

HOUR = 3_600_000_000


class Repaired(NamedTuple):
    lapsed: int
    woken: int
    fallen: int
    cursor: bytes


class Ring:
    """Lanes start at their caps, unless `first_window` says otherwise."""

    def __init__(
        self,
        client: Redis,
        name: str = "deliver",
        *,
        in_flight: int = options.IN_FLIGHT,
        first_window: int = options.CAPACITY,
    ) -> None:
        self.client, self.name, self.prefix, self.in_flight = client, name, key_prefix(name), in_flight
        self.caps = f"{in_flight} {first_window}"
        self.scripts = Scripts.of(client)

    def put(
        self, lane: str, message_id: str, body: str = "{}", *, capacity: int = options.CAPACITY, workspace: str = ""
    ) -> int:
        args = (self.caps, capacity, lane, workspace, message_id, body)
        return int(self.scripts.put(keys=[self.prefix], args=args)[0])

    def take(self, most: int, *, lease_micros: int = HOUR, slow: int = 1000, owner: str = "") -> list[Lease]:
        """At most `slow` of the messages are of lanes in trouble. Keeps the time to the next wake in `next_wake`."""
        reply = self.scripts.take(keys=[self.prefix], args=(self.caps, lease_micros, most, slow, owner))
        ends_at, self.next_wake = reply[0].decode(), int(reply[1])
        return [
            Lease(self.name, lane.decode(), message_id.decode(), ends_at, bool(is_slow))
            for lane, message_id, is_slow in zip(reply[2::4], reply[3::4], reply[5::4], strict=True)
        ]

    def wake(self) -> int:
        return int(self.scripts.wake(keys=[self.prefix], args=(self.caps,)))

    def settle(self, leases: list[Lease], *reports: Report) -> int:
        """Reports are of the first leases."""
        return settle_all(self.scripts.settle, self.caps, zip_longest(leases, reports))

    def hand_back(self, leases: list[Lease]) -> int:
        return hand_back_all(self.scripts.hand_back, self.caps, leases)

    def repair(self, most: int = 200) -> Repaired:
        return Repaired(*self.scripts.repair(keys=[self.prefix], args=(self.caps, most, "0", HOUR)))

    def existing_keys(self) -> set[str]:
        """The keys that exist now, without their prefix."""
        return {text(key).removeprefix(self.prefix) for key in self.client.keys("*")}

    def waiting(self, lane: str) -> list[str]:
        return [text(message_id) for message_id in self.client.lrange(f"{self.prefix}waiting:{lane}", 0, -1)]

    def order(self, name: str = "ring") -> list[str]:
        """The members of the ring, or of a workspace in it (`ring:<workspace>`), the next first."""
        return [text(member) for member in self.client.zrange(f"{self.prefix}{name}", 0, -1)]


def text(value: Any) -> str:
    return bytes(value).decode()


def ids(leases: list[Lease]) -> list[str]:
    return [lease.message_id for lease in leases]
