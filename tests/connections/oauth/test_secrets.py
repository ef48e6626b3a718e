"""A canary in every code, token and secret of the vendor's: it is in no answer, page, log line or row."""

import json

import pytest
from django.db import connection as database
from django.test import Client as Browser

from connections import lifecycle
from connections.models import OAuthGrant
from connections.oauth.refresh import DIRECT, renew
from connections.oauth.tokens import NoTokenError
from tests.connections.canaries import dump
from tests.connections.oauth.making import need_of
from tests.connections.oauth.test_authorize import CALLBACK, make, start
from tests.connections.oauth.test_pages import follow, link_of, path_of, vendor_url_on
from tests.connections.oauth.vendor import CANARY, Reply
from tests.workspaces.callers import caller, post

pytestmark = pytest.mark.django_db(transaction=True)


class Listening(Browser):
    """A client that keeps all that it was answered."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.heard: list[str] = []

    def request(self, **request):
        answer = super().request(**request)
        self.heard.append(f"{answer.headers}{answer.cookies}{answer.content.decode()}")
        return answer


def rows() -> str:
    with database.cursor() as cursor:
        return dump(cursor)


def test_nothing_shows_a_secret(vendor, clean_log):
    vendor.extra |= {"hub_id": 62515}
    key = caller()
    api = Listening(headers=key.defaults and {"authorization": key.defaults["HTTP_AUTHORIZATION"]})
    browser = Listening()
    connection = make()
    path = f"/api/v1/connections/{connection.public_id}"
    app = {"client_id": "app-1", "client_secret": f"{CANARY}client-secret"}
    workspace = connection.workspace.public_id
    api.put(f"/api/v1/workspaces/{workspace}/oauth-apps/hubspot", json.dumps(app), content_type="application/json")
    api.get(f"/api/v1/workspaces/{workspace}/oauth-apps/hubspot")

    browser.get(CALLBACK, vendor.consent(start(api, connection, browser)), follow=True)
    leaving = follow(browser, path_of(link_of(api, connection)))
    browser.get(CALLBACK, vendor.consent(vendor_url_on(leaving)), follow=True)
    browser.get(CALLBACK, vendor.consent(start(api, connection, browser)) | {"code": f"{CANARY}code"}, follow=True)
    api.get(path)
    post(api, f"{path}/test", {})
    renew(need_of(connection, 3), DIRECT, float("inf"))
    for failure in (Reply(503, {"error": CANARY}), Reply(400, {"error": "invalid_grant", "error_description": CANARY})):
        vendor.before_reply = lambda asked, failure=failure: failure
        OAuthGrant.objects.update(not_before=None)
        with pytest.raises(NoTokenError) as caught:
            renew(need_of(connection, 4), DIRECT, float("inf"))
        assert CANARY not in f"{caught.value!r}{caught.value.verdict!r}"
    post(api, f"{path}/test", {})
    api.get(path)
    kept = rows()
    post(api, f"{path}/disconnect", {})
    lifecycle.delete(connection)

    assert len(vendor.token_requests) >= 5
    assert (len(api.heard) > 8, len(browser.heard) > 4) == (True, True)
    assert CANARY not in "".join(api.heard)
    assert CANARY not in "".join(browser.heard)
    assert CANARY not in kept
    assert CANARY not in rows()
