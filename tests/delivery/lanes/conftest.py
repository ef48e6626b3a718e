from collections.abc import Iterator

import pytest
from redis import Redis

from delivery.lanes.control import CAPACITY, Lanes
from tests.delivery.lanes.valkey import PrivateValkey


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[PrivateValkey]:
    server = PrivateValkey()
    server.start()
    yield server
    server.close()


@pytest.fixture
def client(shared_valkey: PrivateValkey) -> Iterator[Redis]:
    """A client of an empty server."""
    with shared_valkey.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def lanes(client: Redis) -> Lanes:
    return Lanes(client, first_window=CAPACITY)


@pytest.fixture
def valkey() -> Iterator[PrivateValkey]:
    """A running server that the test may kill."""
    server = PrivateValkey()
    server.start()
    yield server
    server.close()
