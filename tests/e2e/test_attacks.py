"""What an attacker tries against the running stack, which is spoken to over HTTP alone."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from meshes.answers import SHOWN_SETTINGS
from meshes.environment import parse_variables
from tests.e2e.running import RunningUp
from tests.meshes.test_monitor_secrets import paths_of
from tests.polling import eventually, patient
from tests.receivers import Receiver, receiver

LOOPBACK = {
    "MESHES_OUTBOUND_ALLOW_NETS": "127.0.0.0/8",
    "MESHES_OUTBOUND_ALLOW_HTTP": "1",
    "MESHES_OUTBOUND_PORTS": "*",
}
TOKEN = "canary-token-that-stays-where-it-is"
CLIENT = {"oauth_client_id": "canary-client", "oauth_client_secret": "canary-client-secret"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUp]:
    with RunningUp(tmp_path_factory.mktemp("attacks") / "data", LOOPBACK) as up:
        yield up


@pytest.fixture
def owner() -> Iterator[Receiver]:
    with receiver() as here:
        yield here


@pytest.fixture
def mine() -> Iterator[Receiver]:
    """The attacker's own host."""
    with receiver() as here:
        yield here


def make(up: RunningUp, path: str, **body: Any) -> dict[str, Any]:
    answer = up.call("POST", f"/api/v1/{path}", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


class Attacker:
    """Somebody who has a key of a workspace with the scope `config`, and no more."""

    def __init__(self, up: RunningUp) -> None:
        self.workspace = make(up, "workspaces", name="Attacked")["id"]
        key = make(up, "api-keys", name="K", kind="workspace", workspace=self.workspace, scopes=["config"])
        self.url, self.headers = f"{up.state['api_url']}/api/v1", {"Authorization": f"Bearer {key['key']}"}
        self.key = key["id"]

    def call(self, method: str, path: str, **body: Any) -> requests.Response:
        url = f"{self.url}/{path}"
        return requests.request(method, url, headers=self.headers, json=body, timeout=patient(60))


# --- stored credentials that are sent elsewhere ---------------------------------------------------------------------


def seen_by(host: Receiver) -> str:
    return "".join(f"{got.path} {got.headers} {got.body!r}" for got in host.got)


def test_a_moved_url_and_the_test_button_bring_no_token_to_another_host(up, owner, mine):
    attacker = Attacker(up)
    config = {"url": owner.url}
    made = make(
        up, "connections", workspace=attacker.workspace, type="webhook", name="C", config=config,
        credentials={"token": TOKEN},
    )["id"]  # fmt: skip
    moved = attacker.call("PATCH", f"connections/{made}", config={"url": mine.url})
    assert (moved.status_code, moved.json()["type"]) == (422, "urn:meshes:problem:credentials_required")
    assert [error["pointer"] for error in moved.json()["errors"]] == ["/credentials/token"]
    attacker.call("POST", f"connections/{made}/test")
    assert TOKEN in seen_by(owner)
    assert mine.got == []
    taken = attacker.call("PATCH", f"connections/{made}", config={"url": mine.url}, credentials={"token": None})
    assert taken.status_code == 200
    attacker.call("POST", f"connections/{made}/test")
    assert len(mine.got) == 1
    assert TOKEN not in seen_by(mine)
    (record,) = up.get(f"/api/v1/workspaces/{attacker.workspace}/access-log?kind=action").json()["data"]
    assert (record["purpose"], record["actor"], record["connection"]) == ("moved", attacker.key, made)


@pytest.mark.parametrize("field", ["url", "oauth_token_url"])
def test_a_moved_token_url_brings_no_client_s_secret_to_another_host(up, owner, mine, field):
    attacker = Attacker(up)
    owner.answer(200, {"content-type": "application/json"}, b'{"access_token": "canary-given", "expires_in": 3600}')
    config = {"url": owner.url, "oauth_token_url": owner.url}
    made = make(
        up, "connections", workspace=attacker.workspace, type="webhook", name="C", config=config, credentials=CLIENT
    )["id"]
    moved = attacker.call("PATCH", f"connections/{made}", config={field: mine.url})
    assert (moved.status_code, len(moved.json()["errors"])) == (422, 2)
    attacker.call("POST", f"connections/{made}/test")
    assert len(owner.got) == 2  # for the token, and with it
    assert mine.got == []


def test_no_other_way_of_naming_a_host_brings_it_there(up, owner, mine):
    attacker = Attacker(up)
    made = make(
        up, "connections", workspace=attacker.workspace, type="webhook", name="C", config={"url": owner.url},
        credentials={"token": TOKEN},
    )["id"]  # fmt: skip
    port = owner.url.removesuffix("/hook").split(":")[2]
    host = mine.url.removeprefix("http://").removesuffix("/hook")
    for url in (
        f"http://127.0.0.1:{port}@{host}/", f"http://{host}#@127.0.0.1:{port}/", f"http://{host}\\@127.0.0.1:{port}/",
        f"http://localhost:{port}/hook", f"//{host}/", f"http://127.0.0.1:{port}\t@{host}/",
    ):  # fmt: skip
        assert attacker.call("PATCH", f"connections/{made}", config={"url": url}).status_code == 422, url
    tried = attacker.call("POST", f"connections/{made}/test", config={"url": mine.url})
    assert tried.status_code == 422
    assert attacker.call("PATCH", f"connections/{made}", type="hubspot").status_code == 422
    owner.answer(307, {"location": mine.url})
    attacker.call("POST", f"connections/{made}/test")
    assert mine.got == []


# --- what Flower tells and does ---------------------------------------------------------------------------------------


def test_no_page_of_flower_tells_a_secret_and_nothing_acts(up):
    login = (up.state["flower_user"], up.state["flower_password"])

    def ask(path: str, method: str = "GET") -> requests.Response:
        url = up.state["flower_url"] + path
        return requests.request(method, url, auth=login, timeout=patient(60), allow_redirects=False)

    def told() -> dict[str, Any]:
        workers: dict[str, Any] = ask("/api/workers?refresh=1").json()
        return workers if len(workers) == 2 and all("conf" in each for each in workers.values()) else {}

    workers = eventually(told, 60)
    kept = parse_variables((up.folder / "stack.env").read_text())
    broker = urlsplit(up.state["redis_url"]).password
    secrets = [broker, login[1], kept["SECRET_KEY"], kept["FERNET_KEYS"], up.state["account_key"]]
    assert all(len(secret) > 15 for secret in secrets)
    pages = {path: ask(path) for path in paths_of(next(iter(workers)))}
    assert [path for path, page in pages.items() if [each for each in secrets if each in page.text]] == []
    assert {200, 404} <= {page.status_code for page in pages.values()}
    for worker, facts in workers.items():
        assert facts["conf"].keys() <= set(SHOWN_SETTINGS)
        assert ask(f"/api/worker/shutdown/{worker}", "POST").status_code == 403
    assert ask("/api/task/send-task/delivery.deliver", "POST").status_code == 403
    assert eventually(told, 60).keys() == workers.keys()
