"""What a stack decides before it starts anything."""

import json
import os
import socket
import subprocess
import sys

import pytest

from meshes.dev import stack
from meshes.dev.embedded import free_port
from meshes.dev.stack import Stack, StackError
from meshes.dev.stack_folder import StackFolder
from meshes.environment import PROJECT


def new_stack(tmp_path, environment=None, **options):
    return Stack(StackFolder(tmp_path), environment or {}, port=0, durable=False, report=print, **options)


def test_it_needs_no_settings():
    """Benchmarks start stacks too."""
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    subprocess.run([sys.executable, "-c", "import meshes.dev.stack"], check=True, env=environment, cwd=PROJECT)


def test_flower_has_its_usual_port_where_that_is_free(tmp_path, monkeypatch):
    assert stack.FLOWER_PORT == 5555
    monkeypatch.setattr(stack, "FLOWER_PORT", free_port())  # somebody may have the real one on this machine
    begun = new_stack(tmp_path, flower_port=None)
    begun._choose_ports()
    assert begun.flower_url == f"http://127.0.0.1:{stack.FLOWER_PORT}"


def test_flower_has_any_free_port_where_the_usual_one_is_taken(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(stack, "FLOWER_PORT", taken.getsockname()[1])
        begun = new_stack(tmp_path, flower_port=None)
        begun._choose_ports()
        assert begun.flower_port not in {0, stack.FLOWER_PORT, begun.port}
        assert str(begun.flower_port) in begun.flower_url


def test_flower_has_any_free_port_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(stack, "FLOWER_PORT", free_port())
    begun = new_stack(tmp_path, flower_port=0)
    begun._choose_ports()
    assert begun.flower_port not in {0, stack.FLOWER_PORT}


@pytest.mark.parametrize("password", ["pw-4242,x", "pw-4242ü"])
def test_a_password_that_flower_could_not_compare_is_refused(tmp_path, password):
    with pytest.raises(StackError, match=r"^MESHES_FLOWER_PASSWORD must be of ASCII characters, without a comma\.$"):
        new_stack(tmp_path, {"MESHES_FLOWER_PASSWORD": password})._start_flower()


RUNS = {"database": "ok", "migrations": "ok", "partitions": "ok", "keys": "ok"}
MISSING = "sealed documents need keys that are not among FERNET_KEYS: ab"


@pytest.mark.parametrize(
    ("status", "checks", "words"),
    [
        (200, RUNS, ""),
        (503, RUNS | {"keys": MISSING, "sweeps": "due never"}, MISSING),
        (503, RUNS | {"keys": MISSING, "partitions": "events has no partition"}, ""),
        (503, RUNS | {"database": "unreachable", "keys": "unreachable"}, ""),
    ],
)
def test_missing_keys_alone_do_not_keep_it_from_running(status, checks, words):
    assert stack.missing_keys(status, json.dumps({"checks": checks}).encode()) == words


@pytest.mark.parametrize("body", [b"", b"Service Unavailable", b"{}"])
def test_an_answer_of_another_kind_tells_of_no_keys(body):
    assert stack.missing_keys(503, body) == ""
