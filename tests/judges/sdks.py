"""Judging by the vendor's official SDK: it is asked to send the same, and its request, recorded on loopback, is held
against ours. Differences that are the SDK's own (its name and version, batching, when it sent) do not count."""

import base64
import gzip
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.judges.sending import Sent


class Recorder:
    """A server on loopback that takes everything and remembers the requests."""

    def __init__(self) -> None:
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _record(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                raw = gzip.decompress(raw) if self.headers.get("content-encoding") == "gzip" else raw
                headers = {name.lower(): value for name, value in self.headers.items()}
                recorder.requests.append(Sent(self.command, recorder.url + self.path, headers, raw))
                answer = b'{"ok":true,"status":"Ok","success":true,"code":200}'
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_PUT = do_PATCH = do_GET = _record  # noqa: N815  (the server's names)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.requests: list[Sent] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def of(self, send: Callable[[], object]) -> Sent:
        self.requests.clear()
        send()
        return self.requests[-1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def recording() -> Iterator[Recorder]:
    recorder = Recorder()
    try:
        yield recorder
    finally:
        recorder.close()


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], pointer: str = "") -> Iterator[str]:
    """What we send that the SDK does not, what it sends that we do not, and where both differ in value or type."""
    for key in [*ours, *(each for each in theirs if each not in ours)]:
        place = f"{pointer}/{key}"
        if key not in theirs:
            yield f"{place} is not sent by the SDK"
        elif key not in ours:
            yield f"{place} is missing: the SDK sends {json.dumps(theirs[key], default=str)[:80]}"
        elif isinstance(ours[key], dict) and isinstance(theirs[key], dict):
            yield from differences(ours[key], theirs[key], place)
        elif type(ours[key]) is not type(theirs[key]) or ours[key] != theirs[key]:
            yield f"{place} is {json.dumps(ours[key])[:80]}, the SDK sends {json.dumps(theirs[key], default=str)[:80]}"


def _without_nulls(value: Any) -> Any:
    """Without members that are null, of which one SDK leaves some out: they say nothing."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _authorization(sent: Sent) -> str:
    """Basic credentials in plain, anything else as it is."""
    scheme, _, value = sent.headers.get("authorization", "").partition(" ")
    return base64.b64decode(value).decode() if scheme == "Basic" else value


def segment(recorder: Recorder) -> Callable[[Sent], list[str] | None]:
    from segment import analytics

    def judge(sent: Sent) -> list[str] | None:
        ours, kind = sent.document, sent.path.rpartition("/")[2]
        write_key = _authorization(sent).removesuffix(":")
        client = analytics.Client(write_key, host=recorder.url, sync_mode=True, max_retries=0, gzip=False)
        who = {"user_id": ours.get("userId"), "anonymous_id": ours.get("anonymousId")}
        moment = datetime.fromisoformat(ours["timestamp"])
        if kind == "track":
            what = {"event": ours["event"], "properties": ours["properties"]}
            theirs = recorder.of(lambda: client.track(timestamp=moment, **what, **who))
        else:
            theirs = recorder.of(lambda: client.identify(traits=ours["traits"], timestamp=moment, **who))
        (message,) = theirs.document["batch"]
        own = ("context", "integrations", "type", "messageId")
        message = {key: value for key, value in message.items() if key not in own and value is not None}
        message["timestamp"], told = _instant(message["timestamp"]), {**ours, "timestamp": _instant(ours["timestamp"])}
        if not isinstance(told.pop("messageId", None), str):
            return ["/messageId is missing"]
        found = list(differences(told, message))
        if _authorization(theirs) != _authorization(sent):
            found.append("the write key stands elsewhere")
        return found

    return judge


def posthog(recorder: Recorder) -> Callable[[Sent], list[str] | None]:
    from posthog import Posthog
    from posthog.request import EU_INGESTION_ENDPOINT, US_INGESTION_ENDPOINT

    hosts = {"us": US_INGESTION_ENDPOINT, "eu": EU_INGESTION_ENDPOINT}

    def judge(sent: Sent) -> list[str]:
        ours = sent.document
        client = Posthog(ours["api_key"], host=recorder.url, sync_mode=True)
        own = {key: value for key, value in ours["properties"].items() if key != "$geoip_disable"}
        theirs = recorder.of(
            lambda: client.capture(
                ours["event"], distinct_id=ours["distinct_id"], properties=own,
                timestamp=datetime.fromisoformat(ours["timestamp"]), uuid=ours["uuid"],
            )
        )  # fmt: skip
        (event,) = theirs.document["batch"]
        message = {key: event[key] for key in ("event", "distinct_id", "properties", "uuid")}
        wanted = {*own, "$geoip_disable"}
        message["properties"] = {key: value for key, value in message["properties"].items() if key in wanted}
        if "$ip" in own:
            message["properties"].pop("$geoip_disable")
        told = {key: ours[key] for key in message}
        found = list(differences(told, message))
        if _instant(ours["timestamp"]) != _instant(event["timestamp"]):
            found.append("/timestamp is another moment")
        if theirs.document["api_key"] != ours["api_key"]:
            found.append("/api_key is another")
        if f"https://{sent.host}" != hosts[sent.wanted.get("region", "us")]:
            found.append(f"the host is {sent.host}")
        return found

    return judge


def amplitude(recorder: Recorder) -> Callable[[Sent], list[str] | None]:
    from amplitude import Amplitude, BaseEvent, Config
    from amplitude.constants import HTTP_V2
    from amplitude.constants import SERVER_URL as SERVERS

    hosts = {"us": SERVERS["US"][HTTP_V2], "eu": SERVERS["EU"][HTTP_V2]}

    def judge(sent: Sent) -> list[str]:
        ours = sent.document
        (event,) = ours["events"]
        longest = (ours.get("options") or {}).get("min_id_length")
        client = Amplitude(ours["api_key"], Config(server_url=recorder.url, flush_queue_size=1, min_id_length=longest))

        def send() -> None:
            client.track(BaseEvent(**event))
            for waiting in client.flush():
                waiting.result(30)

        theirs = recorder.of(send)
        client.shutdown()
        (message,) = theirs.document["events"]
        message = {key: value for key, value in message.items() if key != "library"}
        found = list(differences(_without_nulls(event), _without_nulls(message)))
        found += differences({"options": ours.get("options")}, {"options": theirs.document.get("options")})
        if sent.url != hosts[sent.wanted.get("region", "us")]:
            found.append(f"the address is {sent.url}")
        return found

    return judge


def customerio(recorder: Recorder) -> Callable[[Sent], list[str] | None]:
    from customerio import CustomerIO, Regions

    hosts = {"us": Regions.US.track_host, "eu": Regions.EU.track_host}

    def judge(sent: Sent) -> list[str]:
        site, _, key = _authorization(sent).partition(":")
        client = CustomerIO(site, key, retries=0)
        client.base_url = f"{recorder.url}/api/v1"
        person, ours = unquote(sent.path.split("/")[4]), sent.document
        if sent.path.endswith("/events"):
            extra = {"id": ours.get("id"), "timestamp": ours.get("timestamp")}
            theirs = recorder.of(lambda: client.track(person, ours["name"], ours.get("data"), **extra))
        else:
            theirs = recorder.of(lambda: client.identify(person, **ours))
        found = list(differences(ours, theirs.document))
        if (theirs.method, theirs.path) != (sent.method, sent.path):
            found.append(f"{sent.method} {sent.path}, the SDK {theirs.method} {theirs.path}")
        if _authorization(theirs) != _authorization(sent):
            found.append("the credentials stand elsewhere")
        if sent.host != hosts[sent.wanted.get("region", "us")]:
            found.append(f"the host is {sent.host}")
        return found

    return judge


def slack(recorder: Recorder) -> Callable[[Sent], list[str] | None]:
    from slack_sdk import WebClient, WebhookClient

    def judge(sent: Sent) -> list[str]:
        ours = sent.document
        if sent.host == "hooks.slack.com":
            theirs = recorder.of(lambda: WebhookClient(recorder.url + sent.path).send_dict(ours))
            told = ours
        else:
            client = WebClient(sent.headers["authorization"].removeprefix("Bearer "), base_url=f"{recorder.url}/api/")
            theirs = recorder.of(lambda: client.chat_postMessage(**ours))
            told = {key: value for key, value in ours.items() if value is not None}
        found = list(differences(told, theirs.document))
        if theirs.path != sent.path:
            found.append(f"the path is {sent.path}, the SDK's {theirs.path}")
        if sent.host != "hooks.slack.com" and sent.headers["authorization"] != theirs.headers["authorization"]:
            found.append("the token stands elsewhere")
        if sent.host not in ("hooks.slack.com", WebClient.BASE_URL.split("/")[2].removeprefix("www.")):
            found.append(f"the host is {sent.host}")
        return found

    return judge


def mailchimp(recorder: Recorder) -> Callable[[Sent], list[str] | None]:
    import mailchimp_marketing

    def judge(sent: Sent) -> list[str] | None:
        client = mailchimp_marketing.Client()
        name, _, key = _authorization(sent).partition(":")
        server = sent.host.partition(".")[0]
        client.set_config({"api_key": key, "server": server} if key else {"access_token": name, "server": server})
        host = client.api_client.host.replace("server", client.api_client.server)
        client.api_client.host = f"{recorder.url}/3.0"
        parts = sent.path.split("/")  # /3.0/lists/{list}/members/{hash}[/events | /tags]
        call = {6: client.lists.set_list_member}.get(len(parts)) or {
            "events": client.lists.create_list_member_event,
            "tags": client.lists.update_list_member_tags,
        }.get(parts[-1])
        if call is None:
            return None
        theirs = recorder.of(lambda: call(parts[3], parts[5], sent.document))
        found = list(differences(sent.document, theirs.document))
        if (theirs.method, theirs.path) != (sent.method, sent.path):
            found.append(f"{sent.method} {sent.path}, the SDK {theirs.method} {theirs.path}")
        if not sent.url.startswith(host + "/"):
            found.append(f"the address is {sent.url}, the SDK's {host}")
        return found

    return judge
