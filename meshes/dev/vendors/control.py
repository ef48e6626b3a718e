"""How another process reads a vendor's server and tells it what to do: `make demo` runs the servers beside itself.

    GET  /_vendor/requests      every call so far
    GET  /_vendor/state         what the accounts hold, by the vendor's id of the account
    POST /_vendor/fail_next     {"what": 503, "times": 2}: the keywords of the method of this name

No vendor has such paths. What may be called is each server's `controls`; a call answers 204, or 400 with words.
"""

from dataclasses import asdict
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Malformed

PREFIX = "/_vendor/"


def control(server: Any, call: Call) -> Answer:
    """What the path asks of the server."""
    name = call.path.removeprefix(PREFIX)
    if call.method == "GET" and name in _READERS:
        with server.lock:
            return Answer.of(_READERS[name](server))
    if call.method != "POST" or name not in server.controls:
        return Answer.text(f"{server.slug} has no control {name!r}; it has {', '.join(sorted(server.controls))}.", 404)
    try:
        getattr(server, name)(**(call.fields() if call.body else {}))
    except (TypeError, ValueError, KeyError, Malformed) as error:
        return Answer.text(f"{name}: {error!r}", 400)
    return Answer(204)


def _requests(server: Any) -> list[dict[str, Any]]:
    return [{**asdict(call), "body": call.body.decode("utf-8", "replace")} for call in server.requests]


def _state(server: Any) -> dict[str, Any]:
    return {account: asdict(state) for account, state in server.accounts.items()}


_READERS = {"requests": _requests, "state": _state}
