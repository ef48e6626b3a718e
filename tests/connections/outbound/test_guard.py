import os
import time
from ipaddress import IPv4Address

import certifi
import pytest
from django.core.checks import Tags, run_checks
from django.core.exceptions import ImproperlyConfigured

from connections.messages import Request, parse_url
from connections.outbound import Policy, check_url, send
from connections.outbound.guard import locate
from tests.connections.outbound.receivers import LOOPBACK, loopback_named, raises


def ids(**options) -> list[str]:
    found = run_checks(tags=[Tags.security], **options)
    return sorted(str(each.id) for each in found if str(each.id).startswith("connections."))


@pytest.fixture
def defaults(settings):
    settings.MESHES_OUTBOUND_ALLOW_NETS = []
    settings.MESHES_OUTBOUND_ALLOW_HTTP = False
    settings.MESHES_OUTBOUND_PORTS = [443]
    return settings


def test_the_default_is_https_on_443_to_public_addresses(defaults):
    policy = Policy.from_settings()
    assert (policy.allow_nets, policy.allow_http, policy.ports) == ((), False, frozenset({443}))


def test_settings_widen_it(defaults):
    defaults.MESHES_OUTBOUND_ALLOW_NETS = ["127.0.0.0/8", "fd00::/8"]
    defaults.MESHES_OUTBOUND_ALLOW_HTTP = True
    defaults.MESHES_OUTBOUND_PORTS = "*"
    policy = Policy.from_settings()
    assert [str(net) for net in policy.allow_nets] == ["127.0.0.0/8", "fd00::/8"]
    assert (policy.allow_http, policy.ports) == (True, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MESHES_OUTBOUND_ALLOW_NETS", ["127.0.0.1/8"]),
        ("MESHES_OUTBOUND_ALLOW_NETS", ["intranet"]),
        ("MESHES_OUTBOUND_PORTS", [0]),
        ("MESHES_OUTBOUND_PORTS", [65536]),
        ("MESHES_OUTBOUND_PORTS", ["https"]),
    ],
)
def test_a_setting_that_cannot_be_read_fails_loudly(defaults, name, value):
    setattr(defaults, name, value)
    with pytest.raises(ImproperlyConfigured, match="MESHES_OUTBOUND"):
        Policy.from_settings()
    assert ids() == ["connections.E001"]
    assert ids(include_deployment_checks=True) == ["connections.E001"]


def test_the_authorities_are_certifis(monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert Policy.from_settings().ca_file == certifi.where()


def test_an_operators_own_authorities_replace_them(monkeypatch, tmp_path):
    file = tmp_path / "own.pem"
    file.write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert Policy.from_settings().ca_file == str(file)


def test_a_file_of_authorities_that_cannot_be_read_fails_loudly(defaults, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(ImproperlyConfigured, match=r"^SSL_CERT_FILE: cannot read /nowhere/ca\.pem$"):
        Policy.from_settings()
    assert ids() == ["connections.E001"]


def test_the_deployment_check_is_silent_by_default(defaults):
    assert ids(include_deployment_checks=True) == []


def test_the_deployment_check_lists_what_is_widened(defaults):
    defaults.MESHES_OUTBOUND_ALLOW_NETS = ["10.0.0.0/8"]
    defaults.MESHES_OUTBOUND_ALLOW_HTTP = True
    defaults.MESHES_OUTBOUND_PORTS = [443, 8443]
    assert ids() == []
    found = {str(check.id): check.msg for check in run_checks(tags=[Tags.security], include_deployment_checks=True)}
    assert found["connections.W001"] == "MESHES_OUTBOUND_ALLOW_NETS is widened: 10.0.0.0/8."
    assert found["connections.W002"] == "MESHES_OUTBOUND_ALLOW_HTTP is widened: on."
    assert found["connections.W003"] == "MESHES_OUTBOUND_PORTS is widened: 443, 8443."


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/", "The URL must start with https://."),
        ("http://example.com:443/", "The URL must start with https://."),
        ("https://example.com:80/", "This port is not allowed."),
        ("https://example.com:8443/", "This port is not allowed."),
        ("https://10.0.0.1/", "This address is not allowed."),
        ("https://[::1]/", "This address is not allowed."),
    ],
)
def test_the_default_refuses(url, words):
    with raises("address_refused") as caught:
        check_url(url, policy=Policy())
    assert caught.value.message == words


def test_allowing_http_allows_its_port_for_it_alone():
    policy = Policy(allow_http=True, lookup=lambda host: ["8.8.8.8"])
    check_url("http://example.com/", policy=policy)
    for url in ("https://example.com:80/", "http://example.com:8080/"):
        with raises("address_refused", match="port"):
            check_url(url, policy=policy)


def test_ports_replace_the_set_of_ports():
    policy = Policy(ports=frozenset({8443}), lookup=lambda host: ["8.8.8.8"])
    check_url("https://example.com:8443/", policy=policy)
    with raises("address_refused", match="port"):
        check_url("https://example.com/", policy=policy)


def test_the_settings_are_the_default_policy(defaults):
    with raises("address_refused"):
        check_url("https://127.0.0.1/")
    defaults.MESHES_OUTBOUND_ALLOW_NETS = ["127.0.0.0/8"]
    check_url("https://127.0.0.1/")


@pytest.mark.parametrize(
    "records",
    [
        ["10.0.0.1"],
        ["8.8.8.8", "10.0.0.1"],
        ["2a00::1", "8.8.8.8", "::ffff:8.8.8.8"],
        [*(f"8.8.8.{n}" for n in range(50)), "127.0.0.2"],
        ["fe80::1%eth0"],
        ["nonsense"],
    ],
)
def test_one_refused_record_refuses_the_name(records):
    with raises("address_refused") as caught:
        send(Request("POST", "https://example.com/"), policy=Policy(lookup=lambda host: records))
    assert caught.value.message == "This address is not allowed."


def test_the_host_is_looked_up_without_its_final_dot():
    asked: list[str] = []

    def find(host: str) -> list[str]:
        asked.append(host)
        return ["10.0.0.1"]

    with raises("address_refused"):
        send(Request("GET", "https://Example.COM./"), policy=Policy(lookup=find))
    assert asked == ["example.com"]


def test_a_literal_is_not_looked_up():
    def find(host: str) -> list[str]:
        raise AssertionError(host)

    found = locate(parse_url("https://8.8.8.8/"), Policy(lookup=find), time.monotonic() + 5)
    assert found == (IPv4Address("8.8.8.8"),)


def test_form_and_policy_are_both_refusals():
    for url, cause in (("nonsense", "invalid_url"), ("https://10.0.0.1/", "address_refused")):
        with raises(cause):
            check_url(url, policy=Policy())


def test_the_policies_of_tests_do_not_reach_further_than_loopback():
    for policy in (LOOPBACK, loopback_named("127.0.0.1")):
        with raises("address_refused"):
            check_url("http://10.0.0.1/", policy=policy)
    assert os.access(LOOPBACK.ca_file, os.R_OK)
