"""The scripts of one ring in the words of the tests."""

from typing import Any, NamedTuple

from redis import Redis

from delivery.lanes.control import CAPACITY, IN_FLIGHT, Scripts, key_prefix
from delivery.lanes.lease import Lease, end_leases

Report = tuple[float, bool]
"""The seconds that a message took, and whether it failed."""
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
        in_flight: int = IN_FLIGHT,
        first_window: int = CAPACITY,
    ) -> None:
        self.client, self.name, self.prefix, self.in_flight = client, name, key_prefix(name), in_flight
        self.scripts = Scripts(client, in_flight, first_window)

    def put(
        self, lane: str, message_id: str, body: str = "{}", *, capacity: int = CAPACITY, workspace: str = ""
    ) -> int:
        return int(self.scripts.run("put", self.name, capacity, lane, workspace, message_id, body)[0])

    def take(self, most: int, *, lease_micros: int = HOUR, slow: int = 1000, owner: str = "") -> list[Lease]:
        """At most `slow` of the messages are of lanes in trouble. Keeps the time to the next wake in `next_wake`."""
        reply = self.scripts.run("take", self.name, lease_micros, most, slow, owner)
        ends_at, self.next_wake = reply[0].decode(), int(reply[1])
        return [
            Lease(self.name, lane.decode(), message_id.decode(), ends_at, bool(is_slow))
            for lane, message_id, is_slow in zip(reply[2::4], reply[3::4], reply[5::4], strict=True)
        ]

    def wake(self) -> int:
        return int(self.scripts.run("wake", self.name))

    def settle(self, leases: list[Lease], *reports: Report) -> int:
        """Reports are of the first leases."""
        told: list[tuple[float | str, int]] = [(seconds, int(is_failure)) for seconds, is_failure in reports]
        told += [("", 0)] * (len(leases) - len(told))
        return end_leases(self.scripts, "settle", ((lease, *said) for lease, said in zip(leases, told, strict=True)))

    def hand_back(self, leases: list[Lease]) -> int:
        return end_leases(self.scripts, "hand_back", ((lease,) for lease in leases))

    def repair(self, most: int = 200) -> Repaired:
        return Repaired(*self.scripts.run("repair", self.name, most, "0", HOUR))

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
