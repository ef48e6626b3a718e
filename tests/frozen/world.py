"""The client of a running stack, which keeps every answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.frozen.documents import FORMER, RENAMES, Description, Names, renamed, renamed_texts
from tests.frozen.servers import PATIENCE, Receiver, eventually

API = "/api/v1"
AT_ONCE = {"retry": {"schedule": [0]}}
"""One attempt, so that whatever fails is a dead letter."""
LEAD = {"email": " Ada@Example.com", "score": 90}
PAST, FUTURE = "2026-01-01T00:00:00Z", "2099-01-01T00:00:00Z"
NOT_HELD = {"date", "content-length", "connection", "set-cookie", "server"}
"""Headers of answers."""


@dataclass
class Answer:
    operation: str
    status: int
    headers: dict[str, str]
    document: Any
    is_repetition: bool


class World:
    """`answers` has every answer; `kept`, by story, those that the golden file holds. Stories and golden file speak the
    names of old: what is sent is renamed, and what is answered is led back."""

    def __init__(self, folder: Path, vendors: dict[str, str]) -> None:
        stack = json.loads((folder / "stack.json").read_text())
        self.url, self.key, self.vendors = stack["api_url"], stack["account_key"], vendors
        self.session = requests.Session()
        self.answers: list[Answer] = []
        self.kept: dict[str, list[Any]] = {}
        self.names = Names()
        self.story = ""
        schema = renamed_texts(self.send("GET", "/api/schema").json(), FORMER["schemas"])
        self.description = Description(renamed(schema, FORMER["fields"]))
        self._made = 0

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        url = path if path.startswith("http") else self.url + path
        return self.session.request(method, url, timeout=30 * PATIENCE, allow_redirects=False, **options)

    def ask(
        self,
        call: str,
        body: Any = None,
        status: int | None = 200,
        *,
        key: str | None = None,
        keep: bool = True,
        repetition: bool = False,
        **headers: str,
    ) -> Any:
        """`ask("POST /rules", {…}, 201)`: the document of the answer, which must have this status.

        `body` is JSON, or bytes to send as they are; `key` another than the account's, "" for none; `keep` says whether
        the answer is constant enough for the golden file.
        """
        method, _, path = call.partition(" ")
        sent = {"authorization": f"Bearer {self.key if key is None else key}"} if key != "" else {}
        if body is not None:
            sent["content-type"] = "application/json"
            body = body if isinstance(body, bytes) else json.dumps(renamed(body, RENAMES["fields"])).encode()
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        response = self.send(method, API + path, data=body, headers=sent)
        document = renamed(response.json(), FORMER["fields"]) if response.content else None
        if response.status_code == 413:
            self.session.close()  # the connection ends where a body is not read to its end
        operation = self.description.operation_of(method, API + path)
        answer = Answer(operation, response.status_code, held_headers(response), document, repetition)
        self.answers.append(answer)
        assert status in (None, answer.status), f"{call} {str(body)[:1000]}: {answer.status} {response.text}"
        if keep:
            if answer.status in (201, 202):
                self.names.learn(document)
            self._keep(f"{method} {path}", answer.status, answer.headers, document)
        return document

    def once(self, call: str, body: Any, status: int, **options: Any) -> Any:
        """`ask`, and the same again under its Idempotency-Key: done once, answered alike; another body is refused."""
        self._made += 1
        options["idempotency_key"] = f"frozen-{self._made}"
        first = self.ask(call, body, status, **options)
        again = self.ask(call, body, status, repetition=True, **options)
        secrets = {"key", "signing_secret", "url"} if again.get("secret_shown") else set()
        assert {name for name in secrets & set(again) if again[name] is not None} == set()
        same = [name for name in ("id", "event", "name") if name in first]
        assert [again[name] for name in same] == [first[name] for name in same]
        self.ask(call, json.dumps(renamed(body, RENAMES["fields"])).encode() + b" ", 422, **options)
        return first

    def until(self, call: str, condition: Callable[[Any], Any], keep: bool = True) -> Any:
        """Ask until the answer is so, then once more for the golden file."""
        eventually(lambda: condition(self.ask(call, keep=False)))
        return self.ask(call, keep=keep)

    def page(self, path: str, status: int = 200, method: str = "GET", **options: Any) -> requests.Response:
        """A page for browsers, whose status and headers the golden file holds."""
        response = self.send(method, path, **options)
        assert response.status_code == status, response.text[:500]
        self._keep(f"{method} {path.removeprefix(self.url)}", status, held_headers(response))
        return response

    def _keep(self, call: str, *line: Any) -> None:
        held = [self.names.constant_text(call), *map(self.names.constant, line)]
        self.kept.setdefault(self.story, []).append(held)

    # What most stories begin with.

    def workspace(self, name: str = "Acme") -> str:
        self._made += 1
        made = self.ask("POST /workspaces", {"name": name, "external_id": f"tenant_{self._made}"}, 201, keep=False)
        self.names.learn(made)
        identity: str = made["id"]
        return identity

    def webhook(self, workspace: str, to: Receiver | str, **more: Any) -> Any:
        url = to if isinstance(to, str) else to.url
        body = {"workspace": workspace, "type": "webhook", "name": "Hook", "config": {"url": url}} | more
        return self.ask("POST /connections", body, 201)

    def rule(self, workspace: str, connection: str, event: str = "lead.*", **more: Any) -> Any:
        body = {"workspace": workspace, "connection": connection, "event": event} | more
        return self.ask("POST /rules", body, 201)

    def post(self, workspace: str, payload: Any, event: str = "lead.created", **options: Any) -> str:
        body = {"workspace": workspace, "event": event, "payload": payload}
        identity: str = self.ask("POST /events", body, 202, **options)["id"]
        return identity

    def settled(self, event: str, *statuses: str, keep: bool = True) -> Any:
        """The event when its deliveries have come to these statuses."""

        def is_settled(seen: Any) -> bool:
            return sorted(delivery["status"] for delivery in seen["deliveries"]) == sorted(statuses)

        return self.until(f"GET /events/{event}", is_settled, keep)

    def tell(self, vendor: str, control: str, **arguments: Any) -> None:
        response = self.send("POST", f"{self.vendors[vendor]}/_vendor/{control}", json=arguments)
        assert response.status_code == 204, response.text


def held_headers(response: requests.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items() if name.lower() not in NOT_HELD}
