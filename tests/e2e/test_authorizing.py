"""Who may finish an authorization, tried on the running stack by its addresses alone, in browsers with cookies."""

import html
import re
from urllib.parse import urljoin

import pytest
import requests

from meshes.dev.vendors.hubspot import HubSpot
from tests.e2e.running import RunningUp
from tests.polling import patient

ALLOWED = {
    "MESHES_OUTBOUND_ALLOW_NETS": "127.0.0.0/8",
    "MESHES_OUTBOUND_ALLOW_HTTP": "1",
    "MESHES_OUTBOUND_PORTS": "*",
}


@pytest.fixture(scope="module")
def hubspot():
    with HubSpot() as server:
        yield server


@pytest.fixture(scope="module")
def up(tmp_path_factory, hubspot):
    vendor = {
        "MESHES_VENDOR_URLS": f"hubspot={hubspot.url}",
        "MESHES_OAUTH_CLIENTS": f"hubspot={hubspot.client_id}:{hubspot.client_secret}",
    }
    with RunningUp(tmp_path_factory.mktemp("authorizing") / "data", ALLOWED | vendor) as up:
        yield up


@pytest.fixture
def connection(up):
    """A connection that waits to be authorized."""
    workspace = make(up, "workspaces", {"name": "Acme"})["id"]
    return make(up, "connections", {"workspace": workspace, "type": "hubspot", "name": "CRM", "config": {}})


def make(up, path, body, status=201):
    answer = up.call("POST", f"/api/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


class Browser:
    """Keeps cookies, and goes where it is told only when the test says so."""

    def __init__(self) -> None:
        self.session = requests.Session()

    def get(self, url: str) -> requests.Response:
        return self.session.get(url, allow_redirects=False, timeout=patient(30))

    def goes_on(self, url: str) -> str:
        """Where the address leads."""
        answer = self.get(url)
        assert answer.status_code in (302, 303), answer.text
        return urljoin(url, answer.headers["location"])

    def reads(self, url: str) -> tuple[int, str]:
        """The page at which a callback ends."""
        page = self.get(self.goes_on(url))
        return page.status_code, html.unescape("".join(re.findall("<h1>(.*)</h1>", page.text)))


def status_of(up, connection):
    return up.get(f"/api/v1/connections/{connection['id']}").json()["status"]


def records_of(up, connection):
    rows = up.get(f"/api/v1/workspaces/{connection['workspace']}/access-log").json()["data"]
    return {(row["purpose"], row["kind"]) for row in rows}


def test_what_a_key_began_ends_in_the_browser_that_opened_it_alone(up, connection):
    begun = make(up, f"connections/{connection['id']}/authorize", {}, 200)["url"]
    assert begun.startswith(up.state["api_url"] + "/oauth/start/")
    theirs, stranger = Browser(), Browser()
    back = theirs.goes_on(theirs.goes_on(begun))
    assert f"{up.state['api_url']}/oauth/callback/hubspot?" in back
    assert stranger.reads(back) == (400, "This authorization belongs to another browser")
    assert stranger.get(begun).status_code == 404
    assert stranger.reads(back) == (400, "This authorization belongs to another browser")
    assert theirs.reads(back.replace("/callback/hubspot", "/callback/slack"))[0] == 400
    assert status_of(up, connection) == "needs_reauth"
    assert theirs.reads(back) == (200, "HubSpot is connected")
    assert status_of(up, connection) == "active"
    assert theirs.reads(back) == (400, "This authorization is no longer valid")


def test_who_has_the_vendor_s_page_of_another_s_authorization_finishes_nothing(up, connection):
    """The address that leads there is all that a log or a Referer could tell."""
    begun = make(up, f"connections/{connection['id']}/authorize", {}, 200)["url"]
    page = Browser().goes_on(begun)
    attacker = Browser()
    assert attacker.reads(attacker.goes_on(page)) == (400, "This authorization belongs to another browser")
    assert status_of(up, connection) == "needs_reauth"


def test_a_success_makes_links_void_and_links_leave_records(up, connection):
    link, spare = (make(up, f"connections/{connection['id']}/connect-link", {}, 200)["url"] for _ in range(2))
    person = Browser()
    proof = re.search(r'name="proof" value="([0-9a-f]{64})"', person.get(link).text)[1]
    leaving = person.session.post(link, data={"proof": proof}, timeout=patient(30))
    page = html.unescape(re.search(r'content="0; url=([^"]+)"', leaving.text)[1])
    assert person.reads(person.goes_on(page)) == (200, "HubSpot is connected")
    for url in (link, spare):
        assert Browser().get(url).status_code == 404
    assert {("link_made", "action"), ("link_used", "action"), ("authorized", "credentials")} <= records_of(
        up, connection
    )
