from ipaddress import ip_address, ip_network

import pytest

from connections.messages import Request, RequestRefusedError
from connections.outbound import Policy, send
from tests.connections.outbound.receivers import OK, answering, raises, receiver


def _words(text: str) -> list[str]:
    return text.split()


REFUSED = _words("""
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254
168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1
192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.1 192.168.255.255 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.1
203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::808:808 64:ff9b::7f00:1 64:ff9b:1::1
64:ff9b:1:ffff::a9fe:a9fe 100::1 100:0:0:1::1 1fff:ffff::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:1::1
2001:2::1 2001:3::1 2001:4:112::1 2001:10::1 2001:20::1 2001:30::1 2001:1ff:ffff::1 2001:db8::1 2001:db8:ffff::1
2002:7f00:1::1 2002:808:808::1 2620:4f:8000::1 3ffe::1 3fff::1 3fff:fff:ffff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254
fd20:ce::254 fdff::1 fe80::1 fe80::1%1 fec0::1 ff02::1 ff0e::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
""")

ALLOWED = _words("""
1.0.0.1 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 168.63.129.15
168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.1 192.0.3.0 192.167.255.255
192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 203.0.112.255 203.0.114.0 223.255.255.255
2001:200::1 2001:4860:4860::8888 2001:db7::1 2001:db9::1 2003::1 2400:cb00::1 2606:4700:4700::1111 2a00:1450:4001::1
2a02:6b8::1 2620:4f:7fff::1 2620:4f:8001::1 2fff::1
""")


def test_the_tables_are_as_large_as_they_seem():
    assert (len(set(REFUSED)), len(set(ALLOWED))) == (len(REFUSED), len(ALLOWED))
    assert len(REFUSED) + len(ALLOWED) >= 60


@pytest.mark.parametrize("address", REFUSED)
def test_a_special_address_is_refused(address):
    assert Policy().refusal(ip_address(address)) is not None


@pytest.mark.parametrize("address", ALLOWED)
def test_a_public_address_is_allowed(address):
    assert Policy().refusal(ip_address(address)) is None


def test_allowing_a_network_changes_nothing_for_other_addresses():
    policy = Policy.of(allow_nets=["127.0.0.0/8", "10.1.0.0/16", "fd00::/8"])
    allowed = {a for a in REFUSED if policy.refusal(ip_address(a)) is None}
    assert allowed == {"127.0.0.1", "127.255.255.254", "fd00:ec2::254", "fd20:ce::254", "fdff::1"}
    assert policy.refusal(ip_address("10.1.2.3")) is None
    assert policy.refusal(ip_address("10.2.0.0")) == "private"
    assert all(policy.refusal(ip_address(a)) is None for a in ALLOWED)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("::ffff:127.0.0.1", "IPv4-mapped"),
        ("::ffff:0:127.0.0.1", "IPv4-translated"),
        ("64:ff9b::7f00:1", "NAT64"),
        ("64:ff9b:1::1", "NAT64, local use"),
        ("2001::1", "Teredo"),
        ("2002:7f00:1::1", "6to4"),
        ("fe80::1%eth0", "scoped"),
    ],
)
def test_no_setting_allows_a_form_that_embeds_another_address(address, reason):
    policy = Policy.of(allow_nets=["::/0", "0.0.0.0/0"])
    assert policy.refusal(ip_address(address)) == reason


def test_allowing_everything_allows_the_rest():
    policy = Policy.of(allow_nets=["0.0.0.0/0"])
    assert policy.refusal(ip_address("169.254.169.254")) is None
    assert policy.refusal(ip_address("::1")) == "outside 2000::/3"


@pytest.mark.parametrize("address", REFUSED)
def test_nothing_is_dialled_at_a_refused_literal(address):
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(RequestRefusedError):  # a zone is already against the form of URLs
        send(Request("POST", f"https://{host}/hook"), policy=Policy())


def test_a_refusal_tells_the_tenant_nothing_and_reaches_nobody():
    with receiver(answering(OK)) as server:
        policy = Policy.of(allow_http=True, ports="*")
        with raises("address_refused") as caught:
            send(Request("POST", server.url), policy=policy)
    assert str(caught.value) == caught.value.message == "This address is not allowed."
    assert caught.value.detail == "127.0.0.1: 127.0.0.1 (loopback)"
    assert server.accepted == 0


def test_every_refused_network_has_its_edges_right():
    """Both ends of each range, and the addresses just outside, by the ranges of the registry."""
    for text in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15", "2001:db8::/32"):
        net = ip_network(text)
        assert Policy().refusal(net[0])
        assert Policy().refusal(net[-1])
        assert Policy().refusal(net[0] - 1) is None
        assert Policy().refusal(net[-1] + 1) is None
