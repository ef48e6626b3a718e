"""A worker on a host whose clock is wrong, as a process of its own: it delivers at once, and tries again on time."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.running import RunningUp
from tests.e2e.test_faults import QUICK, Tenant
from tests.e2e.test_lost_workers import OwnWorker, deliverer, suspended
from tests.polling import eventually
from tests.receivers import Answer, receiver

pytestmark = pytest.mark.fault

SHIFTED = """
import datetime, runpy, sys, time_machine
hours = datetime.timedelta(hours=int(sys.argv[1]))
time_machine.travel(datetime.datetime.now(datetime.UTC) + hours, tick=True).start()
sys.argv = sys.argv[3:]  # without "-m"
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    with RunningUp(tmp_path_factory.mktemp("clocks") / "data", QUICK) as up:
        yield up


def shift_of(other: OwnWorker) -> timedelta:
    """How far the clock of a worker is off, by its log."""
    told = re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", other.log.read_text())
    assert told is not None
    return datetime.fromisoformat(told[0]).astimezone() - datetime.now(UTC)


@pytest.mark.parametrize("hours", ["1", "-1"])
def test_a_worker_with_a_wrong_clock_delivers_and_tries_again_on_time(up, tmp_path, hours):
    other = OwnWorker(up, tmp_path / "worker.log", "-c", SHIFTED, hours)
    try:
        eventually(other.is_ready, 90)
        assert abs(shift_of(other) - timedelta(hours=int(hours))) < timedelta(minutes=20)
        with receiver() as here, suspended(deliverer(up)):
            here.answers = lambda got: Answer(503 if len(here.got) <= 2 else 200)
            tenant = Tenant(up, here.url)
            tenant.post_in_bulk(1)
            eventually(lambda: [each["status"] for each in tenant.deliveries()] == ["succeeded"], 60)
            assert len(here.got) == 3
    finally:
        other.end()
