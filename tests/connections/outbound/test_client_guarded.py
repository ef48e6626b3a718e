"""What the client does not do: go elsewhere than where it has looked."""

import logging
import time
from ipaddress import ip_address

import pycurl
import pytest

from connections.messages import Request, ResponseReader, parse_url
from connections.outbound import Policy, check_url, client, send
from tests.connections.outbound.receivers import LOOPBACK, OK, answering, loopback_named, raises, receiver

PUBLIC = "93.184.215.14"


def test_a_redirect_is_an_answer_and_nobody_follows_it():
    with receiver(answering(OK)) as inside:
        found = b"HTTP/1.1 302 Found\r\nLocation: %s/\r\nContent-Length: 0\r\n\r\n" % inside.url.encode()
        with receiver(answering(found)) as server:
            response = send(Request("GET", server.url), policy=LOOPBACK)
    assert (response.status, dict(response.headers)["Location"]) == (302, f"{inside.url}/")
    assert inside.accepted == 0


def test_proxies_of_the_environment_are_ignored(monkeypatch):
    with receiver(answering(OK)) as server, receiver(answering(OK)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("no_proxy", "")
        assert send(Request("GET", f"http://a.test:{server.port}/"), policy=loopback_named("127.0.0.1")).status == 200
    assert (server.accepted, proxy.accepted) == (1, 0)


def test_netrc_is_ignored(monkeypatch, tmp_path):
    for name in (".netrc", "_netrc"):
        (tmp_path / name).write_text("machine a.test login u password s3cret\ndefault login u password s3cret\n")
        (tmp_path / name).chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with receiver(answering(b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")) as server:
        response = send(Request("GET", f"http://a.test:{server.port}/"), policy=loopback_named("127.0.0.1"))
    assert response.status == 401
    assert len(server.requests) == 1
    assert b"authorization" not in server.requests[0].lower()


def test_a_name_that_turns_inward_after_it_was_saved_is_refused_when_dialled():
    with receiver(answering(OK)) as server:
        policy = Policy(allow_http=True, ports=None, lookup=lambda host: ["127.0.0.1"])
        url = f"http://rebind.test:{server.port}/"
        check_url(url, policy=policy)
        with raises("address_refused") as caught:
            send(Request("POST", url), policy=policy)
    assert (caught.value.message, server.accepted) == ("This address is not allowed.", 0)


def test_a_name_is_looked_up_once_a_dial_and_what_was_checked_is_dialled():
    """The second answer leads inward; it is never asked for."""
    asked: list[str] = []

    def find(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    with receiver(answering(OK)) as server:
        send(Request("POST", f"http://rebind.test:{server.port}/"), policy=loopback_named(lookup=find))
    assert asked == ["rebind.test"]
    assert server.accepted == 1


def test_each_dial_goes_by_its_own_lookup():
    """Pins stay in libcurl's cache for ever, so the next dial of the name must replace them."""
    with receiver(answering(OK)) as first, receiver(answering(OK), address="127.0.0.2") as second:
        send(Request("GET", f"http://a.test:{first.port}/"), policy=loopback_named("127.0.0.1"))
        send(Request("GET", f"http://a.test:{second.port}/"), policy=loopback_named("127.0.0.2"))
        with raises("address_refused"):
            send(Request("GET", f"http://a.test:{first.port}/"), policy=loopback_named("10.0.0.1"))
    assert (first.accepted, second.accepted) == (1, 1)


def test_the_pins_of_past_dials_are_taken_back():
    """Else a handle would keep every name that it has ever dialled."""
    with receiver(answering(OK)) as server:
        for host in ("a.test", "b.test", "127.0.0.1"):
            send(Request("GET", f"http://{host}:{server.port}/"), policy=loopback_named("127.0.0.1"))
        curl = client._pool.take().curl  # for good: below it may start a resolver of its own
        for host in ("a.test", "b.test"):
            curl.setopt(pycurl.URL, f"http://{host}:{server.port}/")
            curl.setopt(pycurl.TIMEOUT_MS, 500)
            curl.setopt(client._QUICK_EXIT, 1)
            with pytest.raises(pycurl.error):
                curl.perform()
        curl.close()
    assert server.accepted == 3


def test_a_mixed_answer_is_refused_whole():
    with receiver(answering(OK)) as server:
        policy = loopback_named("127.0.0.1", "10.0.0.1")
        with raises("address_refused"):
            send(Request("POST", f"http://a.test:{server.port}/"), policy=policy)
    assert server.accepted == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "a.test"])
def test_the_socket_itself_is_checked_again(host):
    """As if the first check had been passed by: the address is pinned, and the policy refuses it."""
    with receiver(answering(OK)) as server:
        strict = Policy(allow_http=True, ports=None)
        pins = (ip_address("127.0.0.1"),)

        def dial(host, policy, pins):
            target, request = parse_url(f"http://{host}:{server.port}/"), Request("POST", "")
            client.Transfer(request, target, policy, time.monotonic() + 5, ResponseReader(100), None).run(
                client._pool.take(), pins
            )

        with raises("address_refused") as caught:
            dial(host, strict, pins)
        assert (caught.value.detail, server.accepted) == (f"{host}: loopback", 0)
        with raises("address_refused", match="not allowed"):
            dial("127.0.0.1", LOOPBACK, ())
    assert server.accepted == 0


def test_only_the_refusal_of_this_dial_counts():
    with receiver(answering(OK)) as server:
        with raises("address_refused"):
            send(Request("GET", f"http://10.0.0.1:{server.port}/"), policy=LOOPBACK)
        assert send(Request("GET", server.url), policy=LOOPBACK).status == 200


def test_a_refusal_is_logged_for_the_operator_without_the_url(caplog):
    with caplog.at_level(logging.INFO, logger="meshes.outbound"), raises("address_refused"):
        send(Request("GET", "https://a.test/s3cret?k=s3cret"), policy=Policy(lookup=lambda host: ["10.0.0.1"]))
    assert caplog.messages == ["refused: a.test: 10.0.0.1 (private)"]


def test_cookies_are_not_kept():
    with receiver(answering(b"HTTP/1.1 200 OK\r\nSet-Cookie: id=1; Path=/\r\nContent-Length: 0\r\n\r\n")) as server:
        for _ in range(2):
            send(Request("GET", server.url), policy=LOOPBACK)
    assert b"cookie" not in server.requests[1].lower()


def test_sockets_are_not_used_again():
    def serve_many(connection, server):
        while True:
            answering(OK)(connection, server)

    with receiver(serve_many) as server:
        for _ in range(3):
            send(Request("GET", server.url), policy=LOOPBACK)
    assert server.accepted == 3
