"""What events carry stands in no log line of an attempt, whatever destinations quote of it."""

import json

import pytest

from delivery.models import Delivery
from tests.connections.oauth.conftest import integrations, vendor  # noqa: F401  (fixtures)
from tests.connections.oauth.making import authorized
from tests.connections.oauth.vendor import Reply
from tests.factories import deliver, make_connection, make_deliveries, make_rule, make_workspace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

CANARY = "canary-of-a-payload-77aa"


@pytest.fixture
def log(caplog):
    caplog.set_level("DEBUG")
    return caplog


@pytest.mark.parametrize("status", [200, 400, 401, 410, 422, 429, 500])
def test_a_delivery_whose_answer_quotes_it(endpoint, log, status):
    endpoint.answer(status, {"x-quoted": CANARY}, CANARY.encode())
    (delivery,) = make_deliveries(make_connection(make_workspace(), url=f"{endpoint.url}/{CANARY}"))
    Delivery.objects.filter(pk=delivery.pk).update(body=json.dumps({"name": CANARY}))
    assert deliver(delivery) == 1
    assert CANARY in endpoint.got[0].body.decode()
    assert CANARY not in log.text


def test_a_vendor_s_words_that_hold_a_connection(vendor, log):  # noqa: F811
    """They are shown to the workspace, and quoted in no line."""
    vendor.api = lambda asked: Reply(403, {"category": "MISSING_SCOPES", "message": f"not for {CANARY}"})
    target = authorized(vendor)
    make_rule(target, action="upsert_contact")
    (delivery,) = make_deliveries(target)
    assert deliver(delivery) == 1
    target.refresh_from_db()
    assert (target.status, CANARY in target.status_reason) == ("needs_reauth", True)
    assert f"connection {target.public_id} is held: needs_reauth" in log.text
    assert CANARY not in log.text
