"""The private methods of kombu that lanes override or call, as they are in the version that is pinned.

A failure here after an upgrade means: read kombu's new code before the pin is moved.
"""

import inspect

import kombu
import pytest
from kombu import transport as kombu_transport
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.client import Pipeline

from delivery.lanes.lease import QoS
from delivery.lanes.transport import Channel, Poller, Transport

SIGNATURES = [
    (kombu_redis.Channel._put, "(self, queue, message, **kwargs)"),
    (kombu_redis.Channel._queue_bind, "(self, exchange, routing_key, pattern, queue)"),
    (kombu_redis.Channel._size, "(self, queue)"),
    (kombu_redis.Channel._purge, "(self, queue)"),
    (kombu_redis.Channel._brpop_start, "(self, timeout=None)"),
    (kombu_redis.Channel._brpop_read, "(self, **options)"),
    (kombu_redis.Channel._flush_brpop_reauth, "(self)"),
    (kombu_redis.Channel._q_for_pri, "(self, queue, pri)"),
    (kombu_redis.Channel._create_client, "(self, asynchronous=False)"),
    (kombu_redis.Channel.conn_or_acquire, "(self, client=None)"),
    (kombu_redis.Channel.basic_consume, "(self, queue, *args, **kwargs)"),
    (kombu_redis.Channel.close, "(self)"),
    (kombu_redis.QoS.append, "(self, message, delivery_tag)"),
    (kombu_redis.QoS.ack, "(self, delivery_tag)"),
    (kombu_redis.QoS.reject, "(self, delivery_tag, requeue=False)"),
    (kombu_redis.QoS.restore_unacked, "(self, client=None)"),
    (kombu_redis.QoS.restore_visible, "(self, start=0, num=10, interval=10)"),
    (virtual.QoS.restore_unacked_once, "(self, stderr=None)"),
    (virtual.QoS.can_consume_max_estimate, "(self)"),
    (virtual.QoS.can_consume, "(self)"),
    (virtual.QoS._flush, "(self)"),
    (kombu_redis.MultiChannelPoller.on_poll_start, "(self)"),
    (kombu_redis.PublishBatch.add, "(self, name, *args)"),
    (virtual.Transport._deliver, "(self, message, queue)"),
    (kombu_redis.Transport.register_with_event_loop, "(self, connection, loop)"),
    (kombu_redis.GlobalKeyPrefixMixin._prefix_args, "(self, args)"),
]

SOURCES = [
    (kombu_redis.MultiChannelPoller._register_BRPOP, "channel._brpop_start()"),
    (kombu_redis.MultiChannelPoller.maybe_restore_messages, "channel.qos.restore_visible("),
    (kombu_redis.MultiChannelPoller._update_brpop_polling, "channel._in_poll"),
    (kombu_redis.MultiChannelPoller.get, "self.on_poll_start()"),
    (kombu_redis.Transport.register_with_event_loop, "cycle_poll_start = cycle.on_poll_start"),
    (kombu_redis.Channel.__init__, "'BRPOP': self._brpop_read"),
    (kombu_redis.Channel._brpop_start, "self._in_poll = self.client.connection"),
    (kombu_redis.Channel.close, "self._brpop_read()"),
    (virtual.Channel.close, "restore_unacked_once()"),
    (virtual.Channel.basic_consume, "self.qos.append(message, message.delivery_tag)"),
    (virtual.Message.__init__, "delivery_tag=properties['delivery_tag']"),
    (kombu_redis.PublishBatch.publish, "getattr(self.pipeline, name)(*args)"),
    (Pipeline.execute, "self.load_scripts()"),
]


def test_the_version_is_the_one_that_was_read() -> None:
    assert kombu.VERSION[:2] == (5, 7)


@pytest.mark.parametrize(("method", "signature"), SIGNATURES, ids=lambda value: getattr(value, "__qualname__", None))
def test_signatures(method, signature: str) -> None:
    assert str(inspect.signature(method)) == signature


@pytest.mark.parametrize(("method", "words"), SOURCES, ids=lambda value: getattr(value, "__qualname__", None))
def test_what_the_overridden_code_is_called_by(method, words: str) -> None:
    assert words in inspect.getsource(method)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(Channel, kombu_redis.Channel), (QoS, kombu_redis.QoS), (Poller, kombu_redis.MultiChannelPoller)],
)
def test_every_private_method_of_ours_that_kombu_knows_is_listed(ours: type, theirs: type) -> None:
    pinned = {method.__name__ for method, _ in SIGNATURES}
    overridden = {name for name, value in vars(ours).items() if callable(value) and hasattr(theirs, name)}
    assert overridden - pinned <= {"__init__", "QoS"}


def test_attributes_that_are_relied_on() -> None:
    assert kombu_redis.Channel._in_poll is False
    assert kombu_redis.Channel._brpop_sent_at is None
    assert kombu_redis.Channel._closing is False
    assert kombu_redis.Channel.global_keyprefix == ""
    assert Transport.brpop_timeout == 1
    assert isinstance(kombu_transport._transport_cache, dict)
    assert set(kombu_transport.TRANSPORT_ALIASES) >= {"redis", "rediss"}
