"""A WSGI application that tells what reached it, for tests of the server in front of it."""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

import meshes.wsgi  # noqa: F401  (sets Django up, as the server expects)

LARGE = 8 * 1024 * 1024
"""More than the sockets between server and client hold."""


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/large":
        start_response("200 OK", [("Content-Length", str(LARGE))])
        return [bytes(LARGE)]
    body = environ["wsgi.input"].read()
    told = {
        "method": environ["REQUEST_METHOD"],
        "target": environ["RAW_URI"],
        "length": len(body),
        "digest": hashlib.sha256(body).hexdigest(),
    }
    answer = json.dumps(told).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
