"""Where a request comes from, and who can say another address: trusted proxies, and nobody else."""

import pytest

from workspaces import security_log

TRUSTED = ["10.0.0.0/8", "fd00::/8"]
ZONE = "fe80::1%eth0\nlogin_succeeded"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address", "network"),
    [
        ("203.0.113.7", "", "203.0.113.7", "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.0.0.2", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1,198.51.100.1,\t10.0.0.2 ", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, unknown, 10.0.0.2", "10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.1, , ", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1:99999999", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1/32", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "3325256705", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.01", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1\n", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "[2001:db8::5]:443", "2001:db8::5", "2001:db8::/64"),
        ("10.0.0.1", "[2001:db8::5]", "2001:db8::5", "2001:db8::/64"),
        ("10.0.0.1", "[198.51.100.1", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", ZONE, "fe80::1", "fe80::/64"),
        ("::ffff:10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1", "198.51.100.1"),
        ("::ffff:203.0.113.7", "198.51.100.1", "203.0.113.7", "203.0.113.7"),
        ("fd00::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fd00::1%eth0", "2001:0DB8::0001", "2001:db8::1", "2001:db8::/64"),
        ("2001:db8::1", "198.51.100.1", "2001:db8::1", "2001:db8::/64"),
        ("", "198.51.100.1", "", ""),
        ("nonsense", "198.51.100.1", "", ""),
    ],
)
def test_where_a_request_comes_from(settings, peer, forwarded, address, network):
    settings.MESHES_TRUSTED_PROXIES = TRUSTED
    meta = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}
    assert (security_log.client_address(meta), security_log.client_network(meta)) == (address, network)


@pytest.mark.parametrize("header", ["X_FORWARDED_FOR", "FORWARDED", "X_REAL_IP", "TRUE_CLIENT_IP", "CLIENT_IP"])
@pytest.mark.parametrize("trusted", [[], TRUSTED])
def test_nobody_says_another_address_than_by_that_header_and_that_setting(settings, header, trusted):
    settings.MESHES_TRUSTED_PROXIES = trusted
    meta = {"REMOTE_ADDR": "203.0.113.7", f"HTTP_{header}": "198.51.100.1"}
    assert security_log.client_address(meta) == "203.0.113.7"
