import ssl

import pytest

from connections.outbound import ConnectionLost, DeadlineExceeded, Policy, Request, TlsFailed, send
from tests.connections.outbound_receivers import (
    OK,
    Authority,
    Receiver,
    answering,
    hanging,
    loopback_named,
    read_request,
    receiver,
)

HOST = "hooks.example.test"


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trusting(authority) -> Policy:
    return loopback_named("127.0.0.1", ca_file=authority.ca_file)


def post(server: Receiver, policy: Policy, host: str = HOST, **options):
    return send(Request("POST", f"https://{host}:{server.port}/", body=b"s3cret"), policy=policy, **options)


def fail(server: Receiver, policy: Policy, host: str = HOST) -> TlsFailed:
    with pytest.raises(TlsFailed) as caught:
        post(server, policy, host)
    assert caught.value.sent is False
    assert server.requests == []
    return caught.value


def test_a_trusted_certificate_for_the_name_is_accepted(authority, trusting):
    with receiver(answering(OK), authority.server(HOST)) as server:
        assert [post(server, trusting).body for _ in range(3)] == [b"ok"] * 3
    assert len(server.requests) == 3


def test_a_certificate_for_another_name_is_refused(authority, trusting):
    with receiver(answering(OK), authority.server("other.example.test")) as server:
        error = fail(server, trusting)
    assert error.words == "The certificate of the server is not valid for this host name."


def test_a_certificate_for_a_name_is_no_good_for_an_address(authority, trusting):
    with receiver(answering(OK), authority.server(HOST)) as server:
        fail(server, trusting, "127.0.0.1")


def test_an_expired_certificate_is_refused(authority, trusting):
    with receiver(answering(OK), authority.server(HOST, days=-2)) as server:
        error = fail(server, trusting)
    assert error.words == "The certificate of the server has expired."


def test_an_unknown_authority_is_refused(authority):
    with receiver(answering(OK), authority.server(HOST)) as server:
        error = fail(server, loopback_named("127.0.0.1"))
    assert error.words.startswith("The certificate of the server is signed by an authority that is not trusted")


def test_trust_is_by_policy_and_not_left_in_the_handle(authority, trusting):
    """The handle keeps parsed authorities between requests; another file must not find those."""
    with receiver(answering(OK), authority.server(HOST)) as server:
        assert post(server, trusting).status == 200
        with pytest.raises(TlsFailed):
            post(server, loopback_named("127.0.0.1"))
        assert post(server, trusting).status == 200


def test_a_server_that_speaks_plain_http_is_refused(trusting):
    def plain(connection, server):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.recv(65536)

    with receiver(plain) as server:
        error = fail(server, trusting)
    assert error.words == "No secure connection could be made: the TLS handshake failed."


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_versions_of_tls_are_refused(authority, trusting):
    context = authority.server(HOST)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with receiver(answering(OK), context) as server:
        fail(server, trusting)


def test_a_handshake_that_hangs_ends_at_the_deadline_unsent(trusting):
    with receiver(hanging) as server, pytest.raises(DeadlineExceeded) as caught:
        post(server, trusting, deadline_seconds=0.3)
    assert caught.value.sent is False


def test_a_connection_that_breaks_after_the_handshake_was_sent(authority, trusting):
    with receiver(answering(), authority.server(HOST)) as server, pytest.raises(ConnectionLost) as caught:
        post(server, trusting)
    assert caught.value.sent is True


def test_a_server_that_does_not_close_costs_no_time(authority, trusting):
    def handle(connection, server):
        read_request(connection, server)
        connection.sendall(OK)
        server.stopping.wait(30)

    with receiver(handle, authority.server(HOST)) as server:
        assert post(server, trusting, deadline_seconds=10).duration_ms < 2000
