"""Flower shows no secret, and acts only where a setting says so. A worker and Flower run with canaries for secrets."""

import json
import os
import re
import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import pytest
import requests
from celery import Celery
from flower.urls import handlers
from tornado.web import HTTPError

from meshes import monitor, services
from meshes.answers import SHOWN_OF_BROKER, SHOWN_SETTINGS
from meshes.dev.children import Child, stop_together
from meshes.dev.embedded import Valkey, free_port
from meshes.dev.stack import answers_ok
from tests.polling import eventually, patient

CANARY = "canary-4242"
SEALING_KEY = "Y2FuYXJ5LTQyNDItY2FuYXJ5LTQyNDItY2FuYXJ5LTQyNDI="
SECRETS = {
    "SECRET_KEY": f"{CANARY}-secret-key-abcdefghijklmnopqrstuvwxyz-0123456789",
    "FERNET_KEYS": SEALING_KEY,
    "MESHES_OAUTH_CLIENTS": f"hubspot=id:{CANARY}-client",
}
LOGIN = ("ada", "p4ssw0rd-of-ada")
TASK = "0197c2a4-0000-7000-8000-000000000001"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valkey")
    server = Valkey(folder, folder / "log")
    server.password = CANARY
    server.prepare()
    child = Child(server.program)
    server.wait_until_ready(lambda: child.exit_code() is None)
    yield server
    stop_together([child])


@pytest.fixture(scope="module")
def worker(valkey):
    """Its name."""
    database = os.environ["DATABASE_URL"].replace("meshes@", f"meshes:{CANARY}@")
    environment = os.environ | SECRETS | {"REDIS_URL": valkey.url, "DATABASE_URL": database}
    process = subprocess.Popen([sys.executable, *services.worker("deliver")], env=environment)
    with Celery(broker=valkey.url, fixups=[]) as app:
        name = eventually(lambda: next(iter(app.control.inspect(timeout=1).ping() or {}), None), 60)
    yield name
    process.terminate()
    process.wait()


def start_flower(valkey, log, **settings):
    port = free_port()
    environment = {"PATH": os.environ["PATH"], "REDIS_URL": valkey.url, "FLOWER_BASIC_AUTH": ":".join(LOGIN)}
    environment |= {"MESHES_DATA_DIR": "/nonexistent"} | settings
    process = subprocess.Popen([sys.executable, *services.flower("127.0.0.1", port)], env=environment, stderr=log)
    eventually(lambda: answers_ok(port, "/healthcheck"), 60)
    return process, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("flower") / "log"


@pytest.fixture(scope="module")
def flower(valkey, worker, log):
    """Flower that knows the worker and one task; its address."""
    with log.open("w") as file:
        process, address = start_flower(valkey, file)
    try:
        with Celery(broker=valkey.url, fixups=[]) as app, app.events.default_dispatcher(hostname=worker) as events:

            def is_known() -> bool:
                events.send("task-received", uuid=TASK, name="delivery.deliver", args="()", kwargs="{}")
                return get(address, f"/task/{TASK}").ok

            eventually(is_known, 30)
        eventually(
            lambda: {"stats", "conf"} <= get(address, "/api/workers?refresh=1").json().get(worker, {}).keys(), 30
        )
        yield address
    finally:
        process.terminate()
        process.wait()


def get(address, path, method="GET") -> requests.Response:
    return requests.request(method, address + path, auth=LOGIN, timeout=patient(60), allow_redirects=False)


def paths_of(worker: str) -> list[str]:
    """Every page of Flower's own table, of what there is and of what there is not, asked in all ways that it knows."""
    patterns = [getattr(each, "regex", None) or re.compile(each[0]) for each in handlers]
    named = [pattern.pattern.rstrip("$").removesuffix("/?") for pattern in patterns]
    pages = {re.sub(r"\(?\.[+*]\)?", each, page) for page, each in product(named, (worker, TASK, "unknown", "x%00y"))}
    rows = "draw=1&start=0&length=9&order[0][column]=0&columns[0][data]=name&order[0][dir]=asc"
    queries = ("", "?refresh=1", "?json=1", "?status=1", f"?workername={worker}&refresh=1", "?limit=abc", f"?{rows}")
    pages |= {"/tasks/datatable?draw=1&start=x", "/api/tasks?received_start=abc", "/api/tasks?sort_by=nothing"}
    return [
        page + query for page, query in product(sorted(pages), queries) if page.startswith("/") and "?" not in page
    ] + [page for page in sorted(pages) if "?" in page]


def test_no_page_of_flower_shows_a_secret(flower, worker):
    statuses = set()
    paths = paths_of(worker)
    for path in paths:
        answer = get(flower, path)
        statuses.add(answer.status_code)
        shown = answer.text + str(answer.headers)
        assert CANARY not in shown, path
        assert SEALING_KEY not in shown, path
        assert LOGIN[1] not in shown, path
        assert "Traceback" not in shown, path
    assert {f"/worker/{worker}", f"/task/{TASK}", "/metrics", f"/api/task/info/{TASK}", "/broker"} <= set(paths)
    assert {200, 400, 404} <= statuses


def test_a_worker_tells_only_settings_that_may_be_shown(flower, worker):
    told = get(flower, "/api/workers").json()[worker]
    assert told["conf"].keys() <= set(SHOWN_SETTINGS)
    assert told["conf"]["worker_prefetch_multiplier"] == 1
    assert told["stats"]["broker"].keys() == set(SHOWN_OF_BROKER)
    assert "worker_prefetch_multiplier" in get(flower, f"/worker/{worker}").text


def test_nor_does_the_worker_tell_more_to_others_on_the_broker(valkey, worker):
    with Celery(broker=valkey.url, fixups=[]) as app:
        inspect = app.control.inspect(timeout=patient(5), destination=[worker])
        answers = [
            inspect.conf(),
            inspect.conf(with_defaults=True),
            inspect.stats(),
            inspect.report(),
            inspect._request("dump_conf"),
        ]
    assert CANARY not in json.dumps(answers)
    assert answers[0][worker].keys() <= set(SHOWN_SETTINGS)


ACTIONS = (
    *(f"/api/worker/{action}/{{worker}}" for action in ("shutdown", "pool/grow", "pool/shrink", "queue/add-consumer")),
    *(f"/api/task/{action}/delivery.deliver" for action in ("send-task", "async-apply", "apply", "rate-limit")),
    *(f"/api/task/revoke/{TASK}?terminate=1", "/login", "/logout", "/", "/nowhere"),
)


def lines_of(log, least):
    """Of what was asked of Flower, once there are so many: a line is written after its answer."""
    lines = [line for line in log.read_text().splitlines() if "asked Flower to act" in line]
    return lines if len(lines) >= least else []


def test_what_would_act_is_refused_and_logged_with_who_asked(flower, worker, log, valkey):
    for path, method in product(ACTIONS, ("POST", "PUT", "PATCH", "DELETE", "OPTIONS")):
        answer = get(flower, path.format(worker=worker), method)
        assert (answer.status_code, answer.text) == (
            403, "Flower only shows here. MESHES_FLOWER_CONTROL=1 lets it act.\n",
        )  # fmt: skip
    lines = eventually(lambda: lines_of(log, len(ACTIONS) * 5))
    assert len(lines) == len(ACTIONS) * 5
    said = f"POST '/api/worker/shutdown/{worker}', from 127.0.0.1, answered 403"
    assert lines[0].endswith(f"WARNING meshes.monitor 'ada' asked Flower to act: {said}")
    with Celery(broker=valkey.url, fixups=[]) as app:
        assert app.control.inspect(timeout=patient(5)).ping() == {worker: {"ok": "pong"}}
    assert LOGIN[1] not in log.read_text()


@pytest.mark.parametrize("login", [None, ("ada", "wrong")])
def test_an_action_without_the_password_asks_for_it_first(flower, worker, login):
    address = f"{flower}/api/worker/shutdown/{worker}"
    answer = requests.post(address, auth=login, timeout=patient(60))
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="flower"')


def test_an_error_of_flowers_own_shows_no_code():
    written: list[str] = []
    handler = SimpleNamespace(_reason="Internal Server Error", set_header=lambda *header: None, finish=written.append)
    error = RuntimeError(CANARY)
    monitor.write_error(handler, 500, exc_info=(RuntimeError, error, None))
    monitor.write_error(handler, 503, exc_info=(HTTPError, HTTPError(503, CANARY), None))
    assert written == ["500 Internal Server Error\n", "503 Internal Server Error\n"]


def test_its_page_of_tasks_still_lists_them(flower):
    rows = {
        "draw": 1,
        "start": 0,
        "length": 9,
        "order[0][column]": 0,
        "columns[0][data]": "name",
        "order[0][dir]": "asc",
    }
    listed = requests.post(f"{flower}/tasks/datatable", data=rows, auth=LOGIN, timeout=patient(60)).json()
    assert [row["uuid"] for row in listed["data"]] == [TASK]


def test_no_page_offers_what_is_refused(flower, worker):
    page = get(flower, f"/worker/{worker}").text
    assert "worker-shutdown" not in page
    assert "pool-grow" not in page


def test_with_the_setting_it_acts_and_that_is_logged(valkey, worker, tmp_path):
    with (tmp_path / "log").open("w") as file:
        process, address = start_flower(valkey, file, MESHES_FLOWER_CONTROL="1")
    try:
        eventually(lambda: worker in get(address, "/api/workers?refresh=1").json(), 30)
        answer = get(address, f"/api/worker/pool/grow/{worker}?n=1", "POST")
        assert answer.status_code in {200, 403}, answer.text  # a pool of threads does not grow: the worker says so
        assert "only shows" not in answer.text
        assert get(address, "/api/task/revoke/x?terminate=0", "POST").status_code == 200
        lines = eventually(lambda: lines_of(tmp_path / "log", 2))
    finally:
        process.terminate()
        process.wait()
    assert lines[-1].endswith("'ada' asked Flower to act: POST '/api/task/revoke/x', from 127.0.0.1, answered 200")
    assert len(lines) == 2
