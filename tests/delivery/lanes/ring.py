"""The scripts of one ring in the words of the tests."""

from typing import Any, NamedTuple

from redis import Redis

from delivery.lanes import options
from delivery.lanes.lease import Lease, call_by_ring
from delivery.lanes.names import key_prefix
from delivery.lanes.scripts import Scripts

HOUR = 3_600_000_000


class Repaired(NamedTuple):
    lapsed: int
    woken: int
    fallen: int
    cursor: bytes


class Ring:
    def __init__(self, client: Redis, name: str = "deliver", *, in_flight: int = options.IN_FLIGHT) -> None:
        self.client, self.name, self.prefix, self.in_flight = client, name, key_prefix(name), in_flight
        self.scripts = Scripts.of(client)

    def put(self, lane: str, message_id: str, body: str = "{}", *, capacity: int = options.CAPACITY) -> int:
        args = (self.in_flight, capacity, lane, message_id, body)
        return int(self.scripts.put(keys=[self.prefix], args=args))

    def take(self, most: int, *, lease_micros: int = HOUR) -> list[Lease]:
        reply = self.scripts.take(keys=[self.prefix], args=(self.in_flight, lease_micros, most))
        ends_at = reply[0].decode()
        return [
            Lease(self.name, lane.decode(), message_id.decode(), ends_at)
            for lane, message_id in zip(reply[1::3], reply[2::3], strict=True)
        ]

    def settle(self, leases: list[Lease]) -> int:
        return call_by_ring(self.scripts.settle, self.in_flight, leases)

    def hand_back(self, leases: list[Lease]) -> int:
        return call_by_ring(self.scripts.hand_back, self.in_flight, leases)

    def repair(self, most: int = 200) -> Repaired:
        return Repaired(*self.scripts.repair(keys=[self.prefix], args=(self.in_flight, most, "0")))

    def existing_keys(self) -> set[str]:
        """The keys that exist now, without their prefix."""
        return {text(key).removeprefix(self.prefix) for key in self.client.keys("*")}

    def waiting(self, lane: str) -> list[str]:
        return [text(message_id) for message_id in self.client.lrange(f"{self.prefix}waiting:{lane}", 0, -1)]

    def order(self) -> list[str]:
        """The lanes in the ring, the next first."""
        return [text(lane) for lane in self.client.zrange(f"{self.prefix}ring", 0, -1)]


def text(value: Any) -> str:
    return bytes(value).decode()


def ids(leases: list[Lease]) -> list[str]:
    return [lease.message_id for lease in leases]
