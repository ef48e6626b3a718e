"""Without a place for a call to the vendor, an authorization is neither ended nor completed, and nothing is lost."""

from contextlib import ExitStack

import pytest

from connections import outside
from connections.models import Connection
from tests.connections.oauth.making import authorized
from tests.connections.oauth.test_authorizing import come_back, make, start
from tests.workspaces.callers import caller, post


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["disconnect", "delete"])
def test_what_revokes_changes_nothing_without_a_place(vendor, way):
    connection, key = authorized(vendor), caller()
    path = f"/api/v1/connections/{connection.public_id}"

    def ask():
        return key.delete(path) if way == "delete" else post(key, f"{path}/disconnect", {})

    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(outside.place())
        answer = ask()
        assert (answer.status_code, int(answer["Retry-After"])) == (503, 5)
        connection.refresh_from_db()
        assert (connection.status, vendor.revoked) == (Connection.Status.ACTIVE, [])
    assert ask().status_code == (204 if way == "delete" else 200)
    assert len(vendor.revoked) == 1


@pytest.mark.django_db(transaction=True)
def test_an_authorization_that_comes_back_without_a_place_can_be_completed_later(client, vendor):
    connection = make()
    back = vendor.consent(start(caller(), connection))
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(outside.place())
        answer = come_back(back, client)
        assert answer.status_code == 503
        assert int(answer["Retry-After"]) >= 1
        assert b"reload this page" in answer.content
    assert come_back(back, client).status_code == 200
    connection.refresh_from_db()
    assert connection.status == Connection.Status.ACTIVE
