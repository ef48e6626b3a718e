import json
import time

import pytest

from connections.messages import OutboundError
from connections.outbound import Policy, session
from tests.connections.outbound.receivers import LOOPBACK, OK, answering, hanging, loopback_named, raises, receiver

JSON = b'{"access_token": "t"}'
JSON_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: %d\r\n\r\n%s"
    % (
        len(JSON),
        JSON,
    )
)


def test_a_conversation_goes_through_the_client():
    with receiver(answering(JSON_ANSWER)) as server:
        response = session(policy=LOOPBACK).post(f"{server.url}/token", data={"code": "a b"}, params={"v": "1"})
    assert (response.status_code, response.reason, response.ok) == (200, "OK", True)
    assert (response.json(), response.headers["x-a"]) == ({"access_token": "t"}, "1, 2")
    assert response.url == f"{server.url}/token?v=1"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /token?v=1 HTTP/1.1",
        b"Host: 127.0.0.1:%d" % server.port,
        b"User-Agent: Meshes/0.1",
        b"Accept: */*",
        b"Content-Type: application/x-www-form-urlencoded",
        b"Content-Length: 8",
    ]
    assert body == b"code=a+b"


def test_json_and_authorization_are_sent():
    with receiver(answering(OK)) as server:
        session(policy=LOOPBACK).put(server.url, json={"a": 1}, auth=("user", "pass"))
    assert b"Authorization: Basic dXNlcjpwYXNz\r\n" in server.requests[0]
    assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2]) == {"a": 1}


def test_a_status_of_failure_is_an_answer():
    with receiver(answering(b"HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n")) as server:
        response = session(policy=LOOPBACK).get(server.url)
    assert (response.status_code, response.reason, response.content) == (799, "", b"")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed_even_on_request(status):
    with receiver(answering(OK)) as inside:
        location = b"HTTP/1.1 %d X\r\nLocation: %s/\r\nContent-Length: 0\r\n\r\n" % (status, inside.url.encode())
        with receiver(answering(location)) as server:
            response = session(policy=LOOPBACK).get(server.url, allow_redirects=True)
    assert (response.status_code, response.history, inside.accepted) == (status, [], 0)


def test_a_refused_address_is_refused():
    with receiver(answering(OK)) as server, raises("address_refused"):
        session(policy=Policy(allow_http=True, ports=None)).get(server.url)
    assert server.accepted == 0


def test_the_settings_are_the_default_policy(settings):
    settings.MESHES_OUTBOUND_ALLOW_NETS, settings.MESHES_OUTBOUND_ALLOW_HTTP = [], False
    with raises("address_refused"):
        session().get("https://127.0.0.1/")


def test_nothing_comes_from_the_environment(monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("default login u password s3cret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with receiver(answering(OK)) as server, receiver(answering(OK)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
        session(policy=loopback_named("127.0.0.1")).get(f"http://a.test:{server.port}/")
    assert (server.accepted, proxy.accepted) == (1, 0)
    assert b"Authorization" not in server.requests[0]


def test_cookies_are_not_kept():
    with receiver(answering(b"HTTP/1.1 200 OK\r\nSet-Cookie: id=1; Path=/\r\nContent-Length: 0\r\n\r\n")) as server:
        vendor = session(policy=LOOPBACK)
        for _ in range(2):
            vendor.get(server.url)
    assert b"Cookie" not in server.requests[1]


def test_a_large_answer_is_read_whole():
    size = 4 * 1024 * 1024
    with receiver(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, b"a" * size)) as server:
        assert len(session(policy=LOOPBACK).get(server.url).content) == size


def test_a_larger_answer_is_an_error():
    size = 4 * 1024 * 1024 + 1
    with (
        receiver(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, b"a" * size)) as server,
        raises("response_too_large") as caught,
    ):
        session(policy=LOOPBACK).get(server.url)
    assert (caught.value.message, caught.value.sent, caught.value.status) == (
        "The answer is larger than 4 MB.",
        True,
        200,
    )


@pytest.mark.parametrize(("deadline", "timeout"), [(0.3, None), (15, 0.3), (0.3, 15), (0.3, (9, 9))])
def test_the_shorter_of_deadline_and_timeout_holds(deadline, timeout):
    started = time.monotonic()
    with receiver(hanging) as server, raises("timeout"):
        session(deadline, policy=LOOPBACK).get(server.url, timeout=timeout)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "options",
    [
        {"verify": False},
        {"verify": "/tmp/ca.pem"},
        {"cert": "/tmp/me.pem"},
        {"proxies": {"http": "http://10.0.0.1:3128"}},
        {"data": iter([b"a", b"b"])},
        {"headers": {"Host": "other.test"}},
        {"headers": {"X": "a\r\nEvil: 1"}},
        {"headers": {"X": 7}},
        {"headers": {"Upgrade": "h2c"}},
    ],
)
def test_what_would_change_the_connection_or_break_the_form_is_refused(options):
    with receiver(answering(OK)) as server, raises("invalid_request") as caught:
        session(policy=LOOPBACK).post(server.url, **options)
    assert server.accepted == 0
    assert "Evil" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "nonsense", "ftp://a.test/", "http://", "http://[::1", "https://user:s3cret@a.test/"]
)
def test_every_error_is_in_the_one_tree(url):
    with pytest.raises(OutboundError) as caught:
        session(policy=LOOPBACK).get(url)
    assert "s3cret" not in str(caught.value)


def test_header_values_may_be_bytes_as_requests_allows():
    with receiver(answering(OK)) as server:
        session(policy=LOOPBACK).get(server.url, headers={"X-B": b"bytes"})
    assert b"X-B: bytes\r\n" in server.requests[0]


def test_each_session_is_its_own():
    assert session().headers is not session().headers
    assert dict(session().headers) == {"User-Agent": "Meshes/0.1", "Accept": "*/*"}
    assert sorted(session().adapters) == ["", "http://", "https://"]
