"""What all tests share: property tests that try the same examples in every run, a database that can be emptied,
receivers on loopback, a caller of the API, other encryption keys."""

import base64
import gc
import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.conf import settings as project
from django.db.backends.postgresql.operations import DatabaseOperations
from django.test import Client
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, settings
from rest_framework.serializers import BaseSerializer

from meshes.kit import clock
from meshes.kit.clock import Reading
from tests.receivers import Receiver, receiver
from tests.workspaces.callers import caller
from workspaces import security_log
from workspaces.vault.models import SealedDocument

project.STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # WhiteNoise warns where it is missing

# So that a change is judged by itself, and not by how busy the machine is.
settings.register_profile(
    "same every time", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
if not os.environ.get("MESHES_FAULT_ROUNDS"):  # `make faults` varies
    settings.load_profile("same every time")


@pytest.fixture(autouse=True, scope="session")
def _clock_is_read() -> Iterator[None]:
    """PostgreSQL runs on this machine, so its clock need not be asked for what is shown: tests count queries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "_kept", Reading(datetime.now(UTC)))
        patch.setattr(clock, "KEPT_SECONDS", float("inf"))
        yield


@pytest.fixture(autouse=True, scope="session")
def _refusals_are_written_while_there_is_a_log() -> Iterator[None]:
    """What is gathered by the minute is written at a process's end, when pytest has closed what it captures."""
    yield
    security_log.write_refusals()


@pytest.fixture(autouse=True, scope="session")
def _append_only_tables_are_emptied_between_tests() -> Iterator[None]:
    """After a test that commits, Django truncates all tables. As the superuser of a test's own database it does so in
    the role of a replica, in which triggers rest."""
    stock = DatabaseOperations.sql_flush

    def sql_flush(self: DatabaseOperations, *args: Any, **kwargs: Any) -> list[str]:
        statements = stock(self, *args, **kwargs)
        return ["SET LOCAL session_replication_role = replica", *statements] if statements else []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseOperations, "sql_flush", sql_flush)
        yield


@pytest.fixture
def loopback(settings):
    """Requests may go to 127.0.0.1 over plain HTTP."""
    settings.MESHES_OUTBOUND_ALLOW_NETS = ["127.0.0.0/8"]
    settings.MESHES_OUTBOUND_ALLOW_HTTP = True
    settings.MESHES_OUTBOUND_PORTS = "*"


@pytest.fixture
def endpoint(loopback) -> Iterator[Receiver]:
    """A receiver that answers 200."""
    with receiver() as here:
        yield here


@pytest.fixture
def schemas() -> Iterator[Callable[[], Any]]:
    """The schemas of the API's document, of the fields that there are now.

    A view declares its answer once, and that serializer keeps the fields with which it was first described.
    """

    def forget() -> None:
        gc.unfreeze()  # a process that serves has frozen what it had loaded
        for each in gc.get_objects():
            if issubclass(type(each), BaseSerializer):
                vars(each).pop("fields", None)

    def generate() -> Any:
        forget()
        return SchemaGenerator().get_schema(public=True)["components"]["schemas"]

    yield generate
    forget()


@pytest.fixture
def api(db) -> Client:
    """A caller with all rights over all workspaces."""
    return caller()


def key_named(name: str) -> str:
    """A key as `FERNET_KEYS` has it, the same for the same name."""
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode()


@pytest.fixture
def use_keys(settings) -> Iterator[Callable[..., None]]:
    """Give the process other encryption keys, as a restart with another FERNET_KEYS would: `use_keys("new", "old")`."""

    def use(*names: str) -> None:
        settings.FERNET_KEYS = [key_named(name) for name in names]
        _forget_keys()

    yield use
    _forget_keys()


def _forget_keys() -> None:
    """The field reads the setting once; what it made of it goes."""
    field = SealedDocument._meta.get_field("document")
    for made in ("keys", "fernet_keys", "fernet"):
        field.__dict__.pop(made, None)
