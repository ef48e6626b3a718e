"""The vendors of the demo's second act: servers on loopback that behave as HubSpot, Slack and the others do.

They are those that the tests use, in a process of their own, so the act needs the project's own tree.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from connections import outbound
from connections.messages import Request
from meshes.dev.children import Child, Program
from meshes.dev.demo.client import LOOPBACK, ApiError

SLUGS = ("hubspot", "salesforce", "mailchimp", "intercom", "slack", "segment")
START_SECONDS = 15.0


class Vendors:
    """The running servers. Start them from the main thread, and before the stack, which must know their URLs."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._log = Path(tempfile.mkdtemp(prefix="meshes-vendors-")) / "vendors.log"
        command = (sys.executable, "-m", "meshes.dev.vendors", *SLUGS)
        root = Path(__file__).parents[3]
        self._child = Child(Program(name="vendors", command=command, cwd=root, log=self._log, environment=environment))
        self.urls = self._read_urls()

    @property
    def settings(self) -> dict[str, str]:
        """By which the product finds them, and is an app of theirs."""
        return {
            "MESHES_VENDOR_URLS": ",".join(f"{slug}={url}" for slug, url in self.urls.items()),
            "MESHES_OAUTH_CLIENTS": "hubspot=hubspot-client-id:hubspot-client-secret",
        }

    def tell(self, slug: str, control: str, **arguments: Any) -> None:
        """Have a server do something: `open_account`, `limit`, `fail_next`, `revoke`."""
        self._send("POST", slug, control, arguments)

    def requests(self, slug: str) -> list[dict[str, Any]]:
        """Every call that came to the vendor."""
        calls: list[dict[str, Any]] = self._send("GET", slug, "requests")
        return calls

    def state(self, slug: str) -> dict[str, Any]:
        """What the vendor's accounts hold."""
        accounts: dict[str, Any] = self._send("GET", slug, "state")
        return accounts

    def stop(self) -> None:
        self._child.kill()
        self._log.unlink(missing_ok=True)
        self._log.parent.rmdir()

    def _read_urls(self) -> dict[str, str]:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._child.exit_code() is None:
            for document in self._documents():
                return document
            time.sleep(0.05)
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        raise ApiError(f"The vendors did not start: {text[-2000:]}")

    def _documents(self) -> Iterator[dict[str, str]]:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        for line in lines:
            if line.startswith("{") and line.endswith("}"):
                yield json.loads(line)

    def _send(self, method: str, slug: str, control: str, document: Any = None) -> Any:
        headers = (("content-type", "application/json"),) if document is not None else ()
        body = json.dumps(document).encode() if document is not None else b""
        request = Request(method, f"{self.urls[slug]}/_vendor/{control}", headers, body)
        answer = outbound.send(request, deadline_seconds=10, body_limit=8 * 1024 * 1024, policy=LOOPBACK)
        if not 200 <= answer.status < 300:
            raise ApiError(f"{slug} {control}: {answer.status} {answer.body[:2000].decode(errors='replace')}")
        return json.loads(answer.body) if answer.body else None
