"""The second baseline: a WSGI application whose request handler sends to all destinations itself, then answers.

Destinations are in the file that BENCH_DESTINATIONS names: a JSON object, workspace → URLs. No rows, no retries.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import requests

TIMEOUT_SECONDS = 15
_of_thread = threading.local()
_destinations: dict[str, list[str]] = {}

Start = Callable[[str, list[tuple[str, str]]], object]


def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    event = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    body = json.dumps(event["payload"])
    for url in _urls(event["workspace"]):
        try:
            _session().post(url, data=body, headers={"Content-Type": "application/json"}, timeout=TIMEOUT_SECONDS)
        except requests.RequestException:
            continue  # it has nobody to tell
    start_response("202 Accepted", [("Content-Type", "application/json"), ("Content-Length", "2")])
    return [b"{}"]


def _urls(workspace: str) -> list[str]:
    if workspace not in _destinations:
        _destinations.update(json.loads(Path(os.environ["BENCH_DESTINATIONS"]).read_text()))
    return _destinations[workspace]


def _session() -> requests.Session:
    if not hasattr(_of_thread, "session"):
        _of_thread.session = requests.Session()
    session: requests.Session = _of_thread.session
    return session
