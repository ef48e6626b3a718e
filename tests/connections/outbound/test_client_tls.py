import ssl
from ipaddress import ip_address

import pytest
from cryptography import x509

from connections.messages import NetworkError, OutboundError, Request
from connections.outbound import Policy, send
from tests.connections.outbound.receivers import (
    OK,
    Authority,
    Receiver,
    answering,
    hanging,
    loopback_named,
    raises,
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


def fail(server: Receiver, policy: Policy, host: str = HOST) -> NetworkError:
    with raises("tls") as caught:
        post(server, policy, host)
    assert caught.value.sent is False
    assert server.requests == []
    assert isinstance(caught.value, NetworkError)
    return caught.value


def test_a_trusted_certificate_for_the_name_is_accepted(authority, trusting):
    with receiver(answering(OK), authority.server(HOST)) as server:
        assert [post(server, trusting).body for _ in range(3)] == [b"ok"] * 3
    assert len(server.requests) == 3


def test_a_certificate_for_another_name_is_refused(authority, trusting):
    with receiver(answering(OK), authority.server("other.example.test")) as server:
        error = fail(server, trusting)
    assert error.message == "The certificate of the server is not valid for this host name."


def test_a_certificate_for_a_name_is_no_good_for_an_address(authority, trusting):
    with receiver(answering(OK), authority.server(HOST)) as server:
        fail(server, trusting, "127.0.0.1")


UNNAMED = "The certificate of the server names no host: it has no subject alternative name (RFC 9525)."


@pytest.mark.parametrize("names", [[], [x509.RFC822Name(f"admin@{HOST}")]], ids=["none", "an address of mail"])
@pytest.mark.parametrize("pool_key", [None, "acme"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_whose_common_name_alone_names_the_host_is_refused(authority, trusting, names, pool_key, version):
    """Again and again: what the first handshake left must not be resumed."""
    context = authority.server(HOST, names=names)
    context.maximum_version = version
    with receiver(answering(OK), context) as server:
        for _ in range(3):
            with raises("tls", match="names no host") as caught:
                post(server, trusting, pool_key=pool_key)
            assert (caught.value.message, caught.value.sent) == (UNNAMED, False)
    assert server.requests == []


def test_an_address_needs_an_alternative_name_too(authority, trusting):
    loopback = [x509.IPAddress(ip_address("127.0.0.1"))]
    with receiver(answering(OK), authority.server("127.0.0.1", names=[])) as server:
        assert fail(server, trusting, "127.0.0.1").message == UNNAMED
    with receiver(answering(OK), authority.server("127.0.0.1", days=8, names=loopback)) as server:
        assert post(server, trusting, "127.0.0.1").status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_resumed_session_passes(authority, trusting, version):
    """It shows no certificate: that was shown when it began."""
    context = authority.server(HOST)
    context.maximum_version = version
    closing = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    with receiver(closing, context) as server:
        assert [post(server, trusting, pool_key="resumed").status for _ in range(3)] == [200] * 3
    assert server.accepted == 3


def test_an_expired_certificate_is_refused(authority, trusting):
    with receiver(answering(OK), authority.server(HOST, days=-2)) as server:
        error = fail(server, trusting)
    assert error.message == "The certificate of the server has expired."


def test_an_unknown_authority_is_refused(authority):
    with receiver(answering(OK), authority.server(HOST)) as server:
        error = fail(server, loopback_named("127.0.0.1"))
    assert error.message.startswith("The certificate of the server is signed by an authority that is not trusted")


def test_trust_is_by_policy_and_not_left_in_the_handle(authority, trusting):
    """The handle keeps parsed authorities between requests; another file must not find those."""
    with receiver(answering(OK), authority.server(HOST)) as server:
        assert post(server, trusting).status == 200
        with raises("tls"):
            post(server, loopback_named("127.0.0.1"))
        assert post(server, trusting).status == 200


def test_a_server_that_speaks_plain_http_is_refused(trusting):
    def plain(connection, server):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.recv(65536)

    with receiver(plain) as server:
        error = fail(server, trusting)
    assert error.message == "No secure connection could be made: the TLS handshake failed."


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_versions_of_tls_are_refused(authority, trusting):
    context = authority.server(HOST)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with receiver(answering(OK), context) as server:
        fail(server, trusting)


def test_a_handshake_that_hangs_ends_at_the_deadline_unsent(trusting):
    with receiver(hanging) as server, raises("timeout") as caught:
        post(server, trusting, deadline_seconds=0.3)
    assert caught.value.sent is False


def test_a_connection_that_breaks_after_the_handshake_was_sent(authority, trusting):
    with receiver(answering(), authority.server(HOST)) as server, raises("connection_lost") as caught:
        post(server, trusting)
    assert caught.value.sent is True


def test_a_server_that_does_not_close_costs_no_time(authority, trusting):
    def handle(connection, server):
        read_request(connection, server)
        connection.sendall(OK)
        server.stopping.wait(30)

    with receiver(handle, authority.server(HOST)) as server:
        assert post(server, trusting, deadline_seconds=10).duration_ms < 2000


def offered_ciphers(hello: bytes) -> set[int]:
    """The cipher suites of a ClientHello: RFC 8446, section 4.1.2, in a record of 5 bytes and a message of 4."""
    session = 5 + 4 + 2 + 32
    suites = session + 1 + hello[session]
    length = int.from_bytes(hello[suites : suites + 2])
    listed = hello[suites + 2 : suites + 2 + length]
    return {int.from_bytes(listed[at : at + 2]) for at in range(0, length, 2)}


def test_only_suites_with_forward_secrecy_and_authenticated_encryption_are_offered():
    hellos = []

    def keep_hello(connection, server):
        hellos.append(connection.recv(4096))

    with receiver(keep_hello) as server, pytest.raises(OutboundError):
        post(server, loopback_named("127.0.0.1"))
    every = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    every.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    known = {cipher["id"] & 0xFFFF: cipher["name"] for cipher in every.get_ciphers()}
    no_renegotiation = 0x00FF
    names = {known[suite] for suite in offered_ciphers(hellos[0]) - {no_renegotiation}}
    assert {"TLS_AES_256_GCM_SHA384", "ECDHE-RSA-AES128-GCM-SHA256"} <= names
    assert [name for name in names if "GCM" not in name and "CHACHA20" not in name] == []
    assert [name for name in names if not name.startswith(("TLS_", "ECDHE-", "DHE-"))] == []


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"])
def test_a_server_that_has_only_cbc_is_refused(authority, trusting, cipher):
    context = authority.server(HOST)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with receiver(answering(OK), context) as server:
        fail(server, trusting)
