"""The pytest plugin that gives every run its own PostgreSQL and Valkey.

With --fast nothing is started, and the tests that need a server are left out: `make test-fast`.

They are started once, before Django reads its settings, unless DATABASE_URL and REDIS_URL name real servers. Under
xdist the controller starts them and the workers inherit its environment; each worker has its own test database (by
pytest-django) and its own Valkey database number.
"""

import base64
import os
import secrets
import tempfile
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis

from meshes.dev.embedded import EmbeddedServers

_servers: list[EmbeddedServers] = []


NEEDS_A_SERVER = {"db", "transactional_db", "django_db_setup", "redis_client", "live_server", "admin_client", "client"}
"""Fixtures of tests that need PostgreSQL or Valkey."""
IS_SLOW = {"fault", "alone"}
SLOW_PLACES = (
    *("tests/e2e/", "tests/frozen/", "tests/delivery/lanes/", "tests/meshes/dev/", "tests/bench/"),
    "tests/connections/outbound/",
    *("tests/connections/providers/test_at_vendors", "tests/connections/oauth/test_at_vendors"),
    *("tests/meshes/test_buffering", "tests/meshes/test_environment", "tests/meshes/test_compose"),
    *("tests/meshes/test_monitor", "tests/meshes/test_wsgi", "tests/workspaces/test_limits"),
)
"""Tests that start processes or servers of their own."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only tests that need no server and no process of their own")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--fast"):
        left_out = [item for item in items if not _is_fast(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _is_fast(item)]


def _is_fast(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    marks = {mark.name for mark in item.iter_markers()}
    return not (fixtures & NEEDS_A_SERVER or marks & {"django_db", *IS_SLOW} or item.nodeid.startswith(SLOW_PLACES))


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(args: list[str]) -> Iterator[None]:
    """A wrapper, because it must come before pytest-django's own hook, which loads the settings."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if "--fast" in args:
        os.environ |= {"DATABASE_URL": "postgresql:///nowhere", "REDIS_URL": "redis://127.0.0.1:1/0"}
    if worker is None:
        _prepare_environment()
    else:
        os.environ["REDIS_URL"] = _with_database(os.environ["REDIS_URL"], 1 + int(worker.removeprefix("gw")))
    try:
        return (yield)
    except BaseException:
        pytest_unconfigure()  # which pytest calls only for a run that came further than this
        raise


def pytest_unconfigure() -> None:
    while _servers:
        _servers.pop().stop()


@pytest.fixture
def redis_client() -> Iterator[redis.Redis]:
    """A client of this worker's own Valkey database, emptied before the test."""
    client = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=10)
    client.flushdb()
    yield client
    client.close()


def _prepare_environment() -> None:
    if not {"DATABASE_URL", "REDIS_URL"} <= os.environ.keys():
        servers = EmbeddedServers()
        servers.start()
        _servers.append(servers)
        os.environ.setdefault("DATABASE_URL", servers.postgres.url)
        os.environ.setdefault("REDIS_URL", servers.valkey.url)
    os.environ.setdefault("SECRET_KEY", secrets.token_urlsafe(48))
    os.environ.setdefault("FERNET_KEYS", base64.urlsafe_b64encode(os.urandom(32)).decode())
    # Not a developer's own .meshes/, whose stack may be running.
    os.environ.setdefault("MESHES_DATA_DIR", os.path.join(tempfile.gettempdir(), "meshes-tests-have-no-stack"))


def _with_database(url: str, number: int) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))
