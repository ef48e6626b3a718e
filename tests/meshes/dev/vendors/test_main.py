"""The servers as a child process, as the demo runs them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from meshes.dev.vendors.registry import VENDORS

ROOT = Path(__file__).parents[4]


def start(*slugs: str, stdin: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "meshes.dev.vendors", *slugs]
    return subprocess.Popen(command, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, text=True)


def test_some_are_served_until_the_pipe_on_standard_input_closes():
    with start("hubspot", "slack") as process:
        urls = json.loads(process.stdout.readline())
        assert list(urls) == ["hubspot", "slack"]
        assert requests.get(urls["hubspot"] + "/account-info/v3/details", timeout=10).status_code == 401
        assert requests.post(urls["slack"] + "/api/auth.test", timeout=10).json()["error"] == "not_authed"
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.mark.parametrize("stdin", [subprocess.PIPE, subprocess.DEVNULL])
def test_all_are_served_until_a_sigterm(stdin):
    with start(stdin=stdin) as process:
        urls = json.loads(process.stdout.readline())
        assert list(urls) == list(VENDORS)
        assert len(set(urls.values())) == len(VENDORS)
        assert requests.get(urls["hubspot"] + "/account-info/v3/details", timeout=10).status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_an_unknown_slug_is_refused():
    command = [sys.executable, "-m", "meshes.dev.vendors", "myspace"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert "unknown: myspace" in ended.stderr
