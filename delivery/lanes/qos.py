# mypy: disallow-untyped-calls=False
# (kombu's methods have no types)
"""Acknowledgements: those of lanes are gathered and settled many at once, all others are kombu's own."""

from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from delivery.lanes.lease import Lease, is_taking


class QoS(kombu_redis.QoS):
    """kombu's bookkeeping of unacknowledged messages, in which a lane's message carries its lease as its delivery tag.

    kombu writes two keys when a message is taken and removes them when it is acknowledged. A lane's message was already
    leased by the script that took it, so only the count of open messages (the prefetch limit) is kept here.
    """

    def append(self, message: Any, delivery_tag: Any) -> None:
        if isinstance(delivery_tag, Lease):
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: Any) -> None:
        if isinstance(delivery_tag, Lease):
            self.channel.settler.add(delivery_tag)
            virtual.QoS.ack(self, delivery_tag)
        else:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        if not isinstance(delivery_tag, Lease):
            super().reject(delivery_tag, requeue=requeue)
        elif requeue:
            self.channel.hand_back([delivery_tag])
            virtual.QoS.ack(self, delivery_tag)
        else:
            self.ack(delivery_tag)

    def can_consume(self) -> bool:
        if not is_taking() and self.channel.active_rings():
            return False
        room = self.can_consume_max_estimate()
        return room is None or room > 0

    def can_consume_max_estimate(self) -> int | None:
        """The free slots of the worker; None if it set no limit. Tasks that outlived their channel fill slots too."""
        room: int | None = super().can_consume_max_estimate()
        return None if room is None else max(0, room - self.channel.settler.orphans())

    def open_leases(self) -> list[Lease]:
        """The leases of this channel that were neither acknowledged nor rejected, in the order of taking."""
        self._flush()
        return [tag for tag in self._delivered if isinstance(tag, Lease)]

    def forget(self, leases: list[Lease]) -> None:
        for lease in leases:
            self._delivered.pop(lease, None)

    def restore_unacked(self, client: Any = None) -> None:
        """A consumer asks for its open messages to be delivered again."""
        leases = self.open_leases()
        self.channel.hand_back(leases)
        self.forget(leases)
        if self._delivered:
            super().restore_unacked(client)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """A channel closes, perhaps because its connection broke while its tasks run: their leases stay theirs."""
        leases = self.open_leases()
        self.channel.settler.adopt(leases, self.channel.lane_lease_seconds)
        self.forget(leases)
        super().restore_unacked_once(stderr)

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """kombu's periodic hook, every ``unacked_restore_interval`` seconds."""
        self.channel.repair()
        if self.channel.has_stock_queues():
            super().restore_visible(start, num, interval)
