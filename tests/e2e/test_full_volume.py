"""`make up` on a volume that fills up: it goes on, and all that was accepted gets on when there is space again."""

import os
import signal
import subprocess

import psutil
import pytest
import requests

from tests.e2e.running import RunningUp
from tests.polling import eventually

PATIENCE_SECONDS = 300.0

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="only root mounts a volume; tests/meshes/dev/test_full_volume.py has the parts"
    ),
]


@pytest.fixture
def volume(tmp_path):
    """A volume of 256 MB."""
    path = tmp_path / "volume"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(volume):
    """Take all that is left, to the last byte."""
    with open(volume / "filler", "ab", buffering=0) as filler:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    filler.write(b"x" * size)
            except OSError:
                continue


def post(up, number):
    """The event's id, where it was accepted."""
    body = {"workspace": "tenant", "event": "lead.created", "payload": {"n": number, "text": "x" * 20_000}}
    try:
        answer = up.call("POST", "/api/v1/events", json=body)
    except requests.RequestException:
        return None
    assert answer.status_code in (202, 503), answer.text
    return answer.json()["id"] if answer.status_code == 202 else None


def prepare(up):
    """A workspace whose connection is paused: its deliveries are written, and sent nowhere."""
    for path, body in [
        ("workspaces", {"name": "Tenant", "external_id": "tenant"}),
        (
            "connections",
            {"workspace": "tenant", "type": "webhook", "name": "Hook", "config": {"url": "https://example.com"}},
        ),
    ]:
        made = up.call("POST", f"/api/v1/{path}", json=body)
        assert made.status_code == 201, made.text
    connection = made.json()["id"]
    assert up.call("POST", f"/api/v1/connections/{connection}/pause").status_code == 200
    rule = {"workspace": "tenant", "connection": connection, "event": "*"}
    assert up.call("POST", "/api/v1/rules", json=rule).status_code == 201


def is_postgres(process, parent):
    """The server itself, not one of its sessions."""
    try:
        return process.name() == "postgres" and process.ppid() == parent
    except psutil.Error:
        return False


def is_ready(up):
    try:
        return up.get("/readyz").json()["status"] == "ok"
    except (requests.RequestException, ValueError):
        return False


def test_up_survives_a_full_volume_and_loses_nothing(volume):
    up = RunningUp(volume / "data")
    try:
        up.start()
        prepare(up)
        accepted = [post(up, number) for number in range(20)]
        assert None not in accepted
        fill(volume)
        refused = 0
        for number in range(2_000):
            event = post(up, number)
            accepted += [event] if event else []
            refused += event is None
            if refused >= 5:
                break
        assert refused, "the volume is not full"
        for name in ("postgres", "web", "sweep", "fanout"):
            if psutil.pid_exists(up.state["pids"].get(name, 0)):
                os.kill(up.state["pids"][name], signal.SIGKILL)
        seen = set()

        def restarts():
            assert up.running_process.poll() is None, "up has ended"
            seen.update(process.pid for process in up.processes() if is_postgres(process, up.running_process.pid))
            return len(seen) >= 3

        eventually(restarts, PATIENCE_SECONDS)
        (volume / "filler").unlink()
        eventually(lambda: is_ready(up), PATIENCE_SECONDS)
        routed = {
            event: eventually(lambda event=event: up.get(f"/api/v1/events/{event}").json()["routing"], PATIENCE_SECONDS)
            for event in accepted
        }
        assert {entry["result"] for entries in routed.values() for entry in entries} == {"held"}
        eventually(lambda: all(psutil.pid_exists(pid) for pid in up.state["pids"].values()), PATIENCE_SECONDS)
        assert [path.name for path in up.folder.iterdir() if path.name.startswith(".")] == []
        printed = up.send(signal.SIGINT)
        assert up.running_process.returncode == 0, printed
        assert "Traceback" not in printed
    finally:
        up.end()
