"""A claim brings the config and the credentials of one moment, however often the connection is moved meanwhile."""

import threading

import pytest
from django.db import connections as database_connections

from connections import lifecycle
from connections.models import Connection
from delivery.dispatch import attempts, claims
from delivery.models import Delivery
from tests.factories import create_connection, make_deliveries, make_workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_client", "loopback")]

ROUNDS = 150


def move_to_and_fro(connection_id, stop, made):
    """Each host has a token of its own, named like it."""
    try:
        while not stop.is_set():
            for name in ("a", "b"):
                current = Connection.objects.get(pk=connection_id)
                config = {"url": f"http://127.0.0.1:9/{name}" if name == "a" else f"http://127.0.0.2:9/{name}"}
                lifecycle.edit(current, actor="a test", config=config, credentials={"token": f"token-{name}"})
                made.append(name)
    finally:
        database_connections.close_all()


def test_no_claim_has_the_credentials_of_another_host():
    change = create_connection(
        make_workspace().pk, "webhook", "Hook", {"url": "http://127.0.0.2:9/b"}, {"token": "token-b"}
    )
    (delivery,) = make_deliveries(change.connection)
    stop, made, seen = threading.Event(), [], []
    mover = threading.Thread(target=move_to_and_fro, args=(change.connection.pk, stop, made))
    mover.start()
    try:
        while (len(seen) < ROUNDS or len(made) < 10) and mover.is_alive():
            (job,) = claims.claim([delivery.pk], "worker-7")
            assert job is not None
            token = attempts.open_credentials(job)["token"].reveal()
            seen.append((job.config["url"][-1], token[-1]))
            Delivery.objects.filter(pk=delivery.pk).update(lease_id=None, lease_until=None)
    finally:
        stop.set()
        mover.join()
    assert {pair for pair in seen if pair[0] != pair[1]} == set()
    assert len(seen) >= ROUNDS
    assert len(made) >= 10
