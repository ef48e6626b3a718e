"""What a delivery tells its lane."""

from datetime import UTC, datetime

import pytest

from connections.providers.base import Outcome, Verdict
from delivery import dispatch, tasks
from delivery.lanes import lease
from tests.factories import make_connection, make_deliveries, make_workspace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]


@pytest.mark.parametrize(
    ("verdict", "reported"),
    [
        (Verdict(Outcome.DELIVERED), lease.Report(1.5, False)),
        (Verdict(Outcome.REJECTED, "refused"), lease.Report(1.5, False)),
        (Verdict(Outcome.RETRY, "server_error"), lease.Report(1.5, True)),
        (Verdict(Outcome.UNCERTAIN, "timeout"), lease.Report(1.5, True)),
        (Verdict(Outcome.RETRY, "too_many_requests", throttled=True), lease.Report(1.5, False)),
        (Verdict(Outcome.RETRY, "our_fault", is_ours=True), None),
    ],
    ids=lambda value: getattr(value, "error_class", None),
)
def test_a_lane_hears_how_its_endpoint_does(verdict, reported):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    (job,) = dispatch.claim([delivery.pk], "worker")
    tasks.tell_lane(dispatch.Result(job, verdict, datetime.now(UTC), duration_ms=1500))
    assert lease._reports.pop(str(delivery.pk), None) == reported
