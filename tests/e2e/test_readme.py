"""The README's tour, run as it is written; only the port and the working folder are this test's own."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys

import psutil
import pytest

from meshes.dev.embedded import free_port
from tests.e2e.running import OURS, PROJECT
from tests.polling import eventually, patient

BLOCK = re.compile(r"```sh (\w+)\n(.*?)```", re.DOTALL)
CURL = """#!{python}
import sys, urllib.request
url, body, headers, words = "", None, {{}}, iter(sys.argv[1:])
for word in words:
    if word == "-H":
        name, _, value = next(words).partition(": ")
        headers[name] = value
    elif word == "-d":
        body = next(words).encode()
    elif not word.startswith("-"):
        url = word
print(urllib.request.urlopen(urllib.request.Request(url, body, headers)).read().decode(), end="")
"""
"""Stands in for curl where the machine has none: what the tour asks of it."""


def block(name, port):
    text = (PROJECT / "README.md").read_text()
    return "\n".join(code for kind, code in BLOCK.findall(text) if kind == name).replace(":9000", f":{port}").replace(
        '"127.0.0.1", 9000', f'"127.0.0.1", {port}'
    )  # fmt: skip


@pytest.fixture
def environment(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python3").symlink_to(sys.executable)
    if shutil.which("curl") is None:
        (tools / "curl").write_text(CURL.format(python=sys.executable))
        (tools / "curl").chmod(stat.S_IRWXU)
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    own = {"MESHES_DATA_DIR": str(tmp_path / ".meshes"), "MESHES_PORT": "0", "MESHES_FLOWER_PORT": "0"}
    return kept | own | {"PATH": f"{tools}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}


@pytest.fixture
def running(tmp_path, environment):
    """The README's first two terminals."""
    port = free_port()
    state = tmp_path / ".meshes" / "stack.json"
    up = subprocess.Popen(["bash", "-c", block("up", port)], cwd=PROJECT, env=environment)
    endpoint = subprocess.Popen(
        ["bash", "-c", f"exec {block('endpoint', port).strip()}"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        eventually(lambda: state.exists() or up.poll() is not None, 120)
        yield port, endpoint
    finally:
        if endpoint.poll() is None:
            endpoint.kill()
            endpoint.communicate()
        if state.exists():
            psutil.Process(json.loads(state.read_text())["supervisor_pid"]).send_signal(signal.SIGINT)
        up.wait(60)


def test_the_tour_delivers_an_event(running, tmp_path, environment):
    port, endpoint = running
    tour = "set -eu -o pipefail\n" + block("tour", port)
    told = subprocess.run(
        ["bash", "-c", tour],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=patient(60),
        check=False,
    )
    assert told.returncode == 0, told.stderr + told.stdout
    assert '"result": "matched"' in told.stdout
    assert '"status": "succeeded"' in told.stdout
    endpoint.kill()
    (line,) = endpoint.communicate()[0].splitlines()
    webhook_id, _, body = line.partition(" ")
    assert webhook_id.startswith("dlv_")
    assert json.loads(body)["data"] == {"email": "ada@example.com", "source": "meshes"}


def test_every_page_that_the_readme_names_exists():
    pages = re.findall(r"\]\((?!http)([^)#]+)\)", (PROJECT / "README.md").read_text())
    assert pages
    assert [page for page in pages if not (PROJECT / page).exists()] == []
