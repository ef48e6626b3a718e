"""`make up`: ready with everything a script needs, restarts what dies, recovers from kill -9, leaves nothing."""

import os
import re
import secrets
import signal
import socket
import stat
import subprocess
import sys

import psutil
import pytest
import requests

from meshes.dev.stack import answers_ok
from meshes.environment import PROJECT
from tests.e2e.running import RunningUp
from tests.polling import eventually, patient

SERVICES = {"postgres", "valkey", "web", "fanout", "deliver", "sweep", "flower"}


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    with RunningUp(tmp_path_factory.mktemp("up") / "data", {"MESHES_OUTBOUND_ALLOW_NETS": "127.0.0.0/8"}) as up:
        yield up


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_stack_json_has_what_scripts_need_and_nobody_else_reads_it(up):
    state = up.state
    assert stat.S_IMODE((up.folder / "stack.json").stat().st_mode) == 0o600
    assert state.keys() == {
        *("api_url", "admin_url", "flower_url", "account_key", "admin_user", "admin_password"),
        *("flower_user", "flower_password", "pids", "supervisor_pid", "redis_url", "loopback"),
        *("database_url", "administrator_url"),
    }
    assert state["pids"].keys() == SERVICES
    assert all(psutil.Process(pid).is_running() for pid in state["pids"].values())


def test_the_account_key_opens_the_api(up):
    assert up.get("/api/v1/workspaces").status_code == 200
    assert requests.get(up.state["api_url"] + "/api/v1/workspaces", timeout=patient(10)).status_code == 401


def test_docs_and_schema_are_served(up):
    assert requests.get(up.state["api_url"] + "/api/docs", timeout=patient(30)).status_code == 200
    assert requests.get(up.state["api_url"] + "/api/schema", timeout=patient(30)).status_code == 200


def test_the_admin_lets_the_user_admin_in(up):
    state = up.state
    with requests.Session() as browser:
        login = state["admin_url"] + "login/"
        browser.get(login, timeout=patient(10))
        form = {"username": state["admin_user"], "password": state["admin_password"], "next": "/admin/"}
        form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
        answer = browser.post(login, data=form, headers={"Referer": login}, timeout=patient(10))
    assert answer.status_code == 200
    assert answer.url == state["admin_url"]


def test_check_in_a_second_terminal_sees_the_settings_of_the_running_stack(up):
    """Also those that only the environment of `up` has."""
    environment = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    environment |= {"MESHES_DATA_DIR": str(up.folder), "SECRET_KEY": "", "FERNET_KEYS": ""}
    command = [sys.executable, "manage.py", "check", "--deploy"]
    checked = subprocess.run(command, check=False, capture_output=True, text=True, cwd=PROJECT, env=environment)
    assert "MESHES_OUTBOUND_ALLOW_NETS is widened: 127.0.0.0/8" in checked.stderr
    assert "meshes.E" not in checked.stderr
    assert stat.S_IMODE((up.folder / "run.env").stat().st_mode) == 0o600


def test_flower_wants_its_password(up):
    state = up.state
    assert requests.get(state["flower_url"] + "/workers", timeout=patient(10)).status_code == 401
    login = (state["flower_user"], state["flower_password"])
    assert requests.get(state["flower_url"] + "/workers", auth=login, timeout=patient(10)).status_code == 200


def test_no_password_is_on_a_command_line(up):
    state = up.state
    lines = [" ".join(process.cmdline()) for process in up.processes()]
    secrets = [state[name] for name in ("account_key", "admin_password", "flower_password", "redis_url")]
    assert not [line for line in lines for secret in secrets if secret in line]


@pytest.mark.fault
@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_killed_service_is_started_again_and_pids_say_so(up, name):
    before = up.state["pids"][name]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: up.state["pids"].get(name, before) != before, 20)
    assert psutil.Process(up.state["pids"][name]).is_running()
    eventually(lambda: answers_ok(up.port, "/readyz"), 30)


def test_a_second_up_in_the_folder_is_refused_and_disturbs_nothing(up):
    before = up.state
    second = RunningUp(up.folder).launch()
    printed, _ = second.communicate(timeout=patient(60))
    assert second.returncode == 1
    assert "Another stack is running" in printed
    assert up.state == before


@pytest.mark.fault
def test_kill_9_of_everything_then_up_again_then_ctrl_c(tmp_path):
    up = RunningUp(tmp_path / "data")
    try:
        up.start()
        key = up.state["account_key"]
        assert up.call("POST", "/api/v1/workspaces", json={"name": "Kept", "external_id": "kept"}).status_code == 201
        for victim in (psutil.Process(up.running_process.pid), *up.processes()):
            victim.kill()
        up.running_process.communicate()
        up.start()
        assert up.state["account_key"] == key
        assert up.get("/api/v1/workspaces/kept").json()["name"] == "Kept"
        running = up.processes()
        assert len(running) >= len(SERVICES)
        assert "Stopping" in up.send(signal.SIGINT)
        assert up.running_process.returncode == 0
        assert [process for process in running if not is_gone(process)] == []
        kept = {"lock", "logs", "postgres", "stack.env", "static", "valkey"}
        sealed = {"seal-heads"}  # where the sweeper has come to it
        assert {path.name for path in up.folder.iterdir()} - sealed == kept
    finally:
        up.end()


@pytest.mark.fault
def test_kill_9_of_up_alone_leaves_nothing_running(tmp_path):
    up = RunningUp(tmp_path / "data")
    try:
        up.start()
        running = up.processes()
        up.send(signal.SIGKILL)
        eventually(lambda: all(is_gone(process) for process in running), 20)
    finally:
        up.end()


def test_a_lost_stack_env_refuses_the_start_and_new_keys_are_a_word(tmp_path):
    """Nothing is changed by the refusal; the word gives up what the lost keys had sealed, and one key is its own."""
    up = RunningUp(tmp_path / "data", None, "--loopback")
    try:
        up.start()
        own = up.call("POST", "/api/v1/api-keys", json={"name": "CI", "kind": "account", "scopes": ["admin"]}).json()
        assert connect(up, "http://127.0.0.1:9/hook").status_code == 201
        up.send(signal.SIGINT)
        (up.folder / "stack.env").unlink()
        before = {path.name for path in up.folder.iterdir()}
        printed, _ = up.launch().communicate(timeout=patient(60))
        assert up.running_process.returncode == 1
        for part in (f"{up.folder}/stack.env has no FERNET_KEYS", "docs/backup.md", "make up NEW_KEYS=1"):
            assert part in printed
        assert {path.name for path in up.folder.iterdir()} == before
        up = RunningUp(up.folder, None, "--new-keys")
        up.start()
        keys = up.get("/api/v1/api-keys?limit=200").json()["data"]
        live = {key["id"] for key in keys if key["revoked_at"] is None}
        assert live == {key_id_of(up.state["account_key"]), own["id"]}
        assert up.get("/readyz").json()["checks"]["keys"] == "ok"
    finally:
        up.end()


def test_with_another_key_it_runs_says_so_and_goes_on_by_itself_with_the_right_one(tmp_path):
    up = RunningUp(tmp_path / "data", None, "--loopback")
    try:
        up.start()
        assert connect(up, "http://127.0.0.1:9/hook").status_code == 201
        up.send(signal.SIGINT)
        right = up.environment
        up.environment = right | {"FERNET_KEYS": secrets.token_urlsafe(32)}
        up.start()
        answer = up.get("/readyz")
        assert (answer.status_code, "not among FERNET_KEYS" in answer.json()["checks"]["keys"]) == (503, True)
        assert [row["status"] for row in up.get("/api/v1/connections").json()["data"]] == ["active"]
        assert "What needs them waits until they are back: docs/backup.md" in up.send(signal.SIGINT)
        up.environment = right
        up.start()
        assert up.get("/readyz").json()["checks"]["keys"] == "ok"
    finally:
        up.end()


def key_id_of(key):
    return "key_" + key.split("_")[2]


def printed_by_now(up):
    """What a pipe has of the output of `up` while it runs."""
    output = up.running_process.stdout.fileno()
    os.set_blocking(output, False)
    try:
        return os.read(output, 65_536).decode()
    except BlockingIOError:
        return ""
    finally:
        os.set_blocking(output, True)


def test_addresses_are_printed_at_once_also_into_a_file(up):
    seen = []
    eventually(lambda: seen.append(printed_by_now(up)) or "Ctrl-C stops it; the data stays." in "".join(seen), 10)
    for line in ("Meshes is ready.", f"  Flower    {up.state['flower_url']}  (user admin)"):
        assert line in "".join(seen)


def test_a_start_leaves_no_warning_in_the_logs_of_our_services(tmp_path):
    """What monitoring.md tells to look at must mean something. A stack of its own: others lose servers on purpose."""
    up = RunningUp(tmp_path / "data")
    try:
        up.start()
        lines = [line for name in SERVICES - {"postgres", "valkey"} for line in read_log(up, name)]
    finally:
        up.end()
    assert len(lines) > 10
    assert [line for line in lines if re.search(r" (WARNING|ERROR|CRITICAL) |Traceback", line)] == []


def read_log(up, name):
    return (up.folder / "logs" / f"{name}.log").read_text().splitlines()


def test_a_database_that_takes_no_connection_is_said_in_one_line(tmp_path):
    url = "postgresql://ada:pw-4242@127.0.0.1:1/meshes"
    refused = RunningUp(tmp_path / "data", {"DATABASE_URL": url}).launch()
    printed, _ = refused.communicate(timeout=patient(60))
    assert refused.returncode == 1
    (line,) = printed.splitlines()
    assert line.startswith(
        'CommandError: PostgreSQL cannot be reached: connection to server at "127.0.0.1", port 1 failed'
    )
    assert line.endswith("(DATABASE_URL)")
    assert "4242" not in line


def test_a_port_that_is_taken_is_said(tmp_path, up):
    second = RunningUp(tmp_path / "data", {"MESHES_PORT": str(up.port)}).launch()
    printed, _ = second.communicate(timeout=patient(60))
    assert second.returncode == 1
    assert f"Port {up.port} is taken. MESHES_PORT chooses another; 0 means any free one." in printed


def test_a_chosen_port_of_flower_that_is_taken_refuses_the_start(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = RunningUp(tmp_path / "data", {"MESHES_FLOWER_PORT": str(port)}).launch()
        printed, _ = refused.communicate(timeout=patient(60))
    assert refused.returncode == 1
    assert f"Port {port} is taken. MESHES_FLOWER_PORT chooses another; 0 means any free one." in printed


def test_the_page_at_the_root_says_what_is_where(up):
    page = requests.get(up.state["api_url"] + "/", timeout=patient(10))
    assert page.status_code == 200
    for place in ("/api/v1", 'href="/api/docs"', 'href="/admin/"', f'href="{up.state["flower_url"]}"'):
        assert place in page.text
    assert requests.post(up.state["api_url"] + "/", timeout=patient(10)).status_code == 405
    assert up.state["account_key"] not in page.text


def connect(up, url):
    """What the stack says of a connection to this URL."""
    up.call("POST", "/api/v1/workspaces", json={"name": "Local", "external_id": "local"})
    hook = {"workspace": "local", "type": "webhook", "name": "here", "config": {"url": url}}
    return up.call("POST", "/api/v1/connections", json=hook)


def test_a_stack_with_loopback_delivers_here_but_not_to_itself(tmp_path):
    up = RunningUp(tmp_path / "data", None, "--loopback")
    try:
        up.start()
        assert up.state["loopback"] is True
        assert connect(up, "http://127.0.0.1:9/hook").status_code == 201
        own = {name: up.state[name].rsplit(":", 1)[1].split("/")[0] for name in ("api_url", "flower_url", "redis_url")}
        for port in own.values():
            refused = connect(up, f"http://localhost:{port}/")
            assert (refused.status_code, "the stack's own" in refused.text) == (422, True)
        assert "LOOPBACK=1" in up.send(signal.SIGINT)
        plain = RunningUp(up.folder)
        plain.start()  # it was for that run only
        try:
            assert plain.state["loopback"] is False
            for url in ("http://127.0.0.1:9000/hook", "https://localhost/hook", "https://[::1]:8443/"):
                answer = connect(plain, url)
                assert (answer.status_code, "make up LOOPBACK=1" in answer.text) == (422, True)
        finally:
            plain.end()
    finally:
        up.end()
