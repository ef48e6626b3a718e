from ipaddress import IPv4Address, IPv6Address

import pycurl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connections.messages import MAX_URL_LENGTH, RequestRefusedError, Target, parse_url, with_ascii_host
from connections.outbound import check_url
from tests.connections.outbound.receivers import loopback_named, raises

FORM = "The URL must start with https://."
CHARACTERS = "The URL must not contain spaces, control characters or backslashes."
USERINFO = "The URL must not contain a user name or password."
HOST_PORT = "The URL's host or port is not valid."
PORT = "The URL's port must be a number from 1 to 65535."
HOST = "The URL's host is not a valid name."
IPV4 = "The URL's IPv4 address must be four decimal numbers."
IPV6 = "The URL's IPv6 address is not valid."
ZONE = "The URL's IPv6 address must not have a zone."
LONG = "The URL must not be longer than 2048 characters."


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://Example.COM/A?b=C", "https://example.com/A?b=C"),
        ("https://example.com.", "https://example.com/"),
        ("https://example.com.:8443/x", "https://example.com:8443/x"),
        ("https://example.com:443/", "https://example.com/"),
        ("https://example.com:0443/", "https://example.com/"),
        ("http://example.com:80/", "http://example.com/"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("https://example.com?x=1", "https://example.com/?x=1"),
        ("https://example.com/x#fragment?y", "https://example.com/x"),
        ("https://example.com#@evil.test/", "https://example.com/"),
        ("https://example.com/a@b:c", "https://example.com/a@b:c"),
        ("https://example.com/%2e%2e/../x", "https://example.com/%2e%2e/../x"),
        ("https://example.com/ä?q=ü", "https://example.com/%C3%A4?q=%C3%BC"),
        ('https://example.com/"<>^`{|}', "https://example.com/%22%3C%3E%5E%60%7B%7C%7D"),
        ("https://hooks_1.example.com/", "https://hooks_1.example.com/"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://BÜCHER.example/", "https://xn--bcher-kva.example/"),
        ("https://bu\u0308cher.example/", "https://xn--bcher-kva.example/"),
        ("https://faß.example/", "https://xn--fa-hia.example/"),
        ("https://8.8.8.8/x", "https://8.8.8.8/x"),
        ("https://8.8.8.8./x", "https://8.8.8.8/x"),
        ("https://[2001:4860:4860:0:0::8888]:8443/", "https://[2001:4860:4860::8888]:8443/"),
        ("https://[::ffff:8.8.8.8]/", "https://[::ffff:808:808]/"),
        ("https://localhost/", "https://localhost/"),
    ],
)
def test_a_good_url_is_written_again_in_one_form(url, sent):
    assert parse_url(url).url == sent


def test_the_parts_of_a_url():
    assert parse_url("https://hooks.example.com:8443/in?k=v#f") == Target(
        scheme="https", host="hooks.example.com", port=8443, path="/in?k=v", literal=None
    )
    assert parse_url("http://8.8.4.4").literal == IPv4Address("8.8.4.4")
    assert parse_url("http://[2a00::1]").literal == IPv6Address("2a00::1")


def test_a_url_that_is_a_secret_is_not_in_the_repr_of_its_parts():
    assert "s3cret" not in repr(parse_url("https://hooks.example.com/s3cret?key=s3cret"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "The URL is missing."),
        (None, "The URL is missing."),
        (7, "The URL is missing."),
        (b"https://example.com", "The URL is missing."),
        ("example.com", FORM),
        ("//example.com/", FORM),
        ("https:example.com", FORM),
        ("https:/example.com", FORM),
        ("ftp://example.com/", FORM),
        ("file:///etc/passwd", FORM),
        ("gopher://example.com/", FORM),
        ("javascript://example.com/", FORM),
        ("http\u017f://example.com/", FORM),
        (" https://example.com/", CHARACTERS),
        ("https://example.com/ ", CHARACTERS),
        ("https://example.com/a b", CHARACTERS),
        ("https://exa\tmple.com/", CHARACTERS),
        ("https://example.com/\r\nHost: evil", CHARACTERS),
        ("https://example.com/\x00", CHARACTERS),
        ("https://example.com/\x7f", CHARACTERS),
        ("https://example.com/\u00a0", CHARACTERS),
        ("https://example.com/\u202e", CHARACTERS),
        ("https://exam\u200bple.com/", CHARACTERS),
        ("https://example.com/\ud800", CHARACTERS),
        ("https://example.com\\@evil.test/", CHARACTERS),
        ("https:\\\\example.com/", CHARACTERS),
        ("https://user@example.com/", USERINFO),
        ("https://user:pass@example.com/", USERINFO),
        ("https://@example.com/", USERINFO),
        ("https://example.com@127.0.0.1/", USERINFO),
        ("https://example.com:/", HOST_PORT),
        ("https://example.com:443:80/", HOST_PORT),
        ("https://example.com:+443/", HOST_PORT),
        ("https://example.com:४४३/", HOST_PORT),
        ("https://example.com:000443/", HOST_PORT),
        ("https://[::1/", HOST_PORT),
        ("https://::1/", HOST_PORT),
        ("https://[::1]x/", HOST_PORT),
        ("https://example.com:0/", PORT),
        ("https://example.com:65536/", PORT),
        ("https:///path", HOST),
        ("https://./", HOST),
        ("https://example.com../", HOST),
        ("https://example..com/", HOST),
        ("https://.example.com/", HOST),
        ("https://-a.example.com/", HOST),
        ("https://a-.example.com/", HOST),
        ("https://exa%6dple.com/", HOST),
        ("https://exa*mple.com/", HOST),
        ("https://a,b.com/", HOST),
        (f"https://{'a' * 64}.com/", HOST),
        (f"https://{'a.' * 127}com/", HOST),
        (f"https://{'ä' * 254}/", HOST),
        ("https://ⓔxample.com/", HOST),
        ("https://example。com/", HOST),
        ("https://\uff11\uff12\uff17.0.0.1/", HOST),
        ("https://127。0。0。1/", HOST),
        ("https://xn--ü.example/", HOST),
        ("https://127.1/", IPV4),
        ("https://2130706433/", IPV4),
        ("https://0x7f.1/", IPV4),
        ("https://0x7f000001/", IPV4),
        ("https://0X7F.0.0.1/", IPV4),
        ("https://0177.0.0.1/", IPV4),
        ("https://017700000001/", IPV4),
        ("https://127.0.0.01/", IPV4),
        ("https://1.2.3.256/", IPV4),
        ("https://1.2.3.4.5/", IPV4),
        ("https://example.com.1/", IPV4),
        ("https://example.0x/", IPV4),
        ("https://99999999999999999999/", IPV4),
        ("https://[]/", IPV6),
        ("https://[127.0.0.1]/", IPV6),
        ("https://[v1.fe80]/", IPV6),
        ("https://[::1::]/", IPV6),
        ("https://[fe80::1%eth0]/", ZONE),
        ("https://[fe80::1%25eth0]/", ZONE),
        ("https://example.com/" + "a" * 2048, LONG),
        ("https://example.com/" + "ä" * 1000, LONG),
    ],
)
def test_a_bad_url_is_refused_in_words(url, words):
    with raises("invalid_url") as caught:
        parse_url(url)
    assert caught.value.message == words


def test_a_url_of_the_greatest_length_passes():
    url = "https://example.com/".ljust(MAX_URL_LENGTH, "a")
    assert parse_url(url).url == url


def words_of(url: str) -> str:
    try:
        check_url(url, policy=loopback_named("127.0.0.1"))
    except RequestRefusedError as refusal:
        return refusal.message
    return "passed"


ANYTHING = st.text(st.characters(exclude_categories=()), max_size=60)
NEARLY = st.builds(
    "{}://{}{}".format,
    st.sampled_from(["http", "https", "HTTPS"]),
    st.lists(st.sampled_from([*"a1.-_:@[]%/?#xX0\\é。", "127", "::", "com", "xn--", "0x7f"]), max_size=12).map("".join),
    ANYTHING,
)


@given(ANYTHING | NEARLY)
@settings(max_examples=400, deadline=None)
@example("https://xn--a.example/")
@example("https://\u0130.example/")
def test_no_text_raises_anything_but_a_refusal(url):
    assert words_of(url)


@given(NEARLY)
@settings(max_examples=400, deadline=None)
def test_libcurl_reads_the_url_as_we_do(url):
    try:
        target = parse_url(url)
    except RequestRefusedError:
        return
    read = pycurl.CurlUrl(target.url, pycurl.U_PATH_AS_IS)
    port = int(read.getpart(pycurl.UPART_PORT, pycurl.U_DEFAULT_PORT))
    assert (read.scheme, read.host.strip("[]"), port, read.user) == (target.scheme, target.host, target.port, None)
    assert parse_url(target.url) == target


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://\u0430pple.com/hook?k=v#f", "https://xn--pple-43d.com/hook?k=v#f"),  # a Cyrillic letter first
        (
            "HTTPS://\u0440\u0430\u0443\u0440\u0430\u04cf.Example:8443/\u00fc",
            "HTTPS://xn--80aa0cbo65f.example:8443/\u00fc",
        ),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example"),
        ("https://b\u00fccher.example./", "https://xn--bcher-kva.example./"),
        ("https://example.com/\u0430pple.com", "https://example.com/\u0430pple.com"),
        ("https://Example.com/A", "https://Example.com/A"),
        ("https://a\u3000b.example/", "https://a\u3000b.example/"),
        ("\u0430pple.com", "\u0430pple.com"),
        ("\u00fc", "\u00fc"),
    ],
)
def test_an_international_name_is_shown_as_punycode(url, shown):
    assert with_ascii_host(url) == shown
    assert with_ascii_host(shown) == shown


@given(st.text(max_size=40) | st.builds("https://{}/".format, st.text(max_size=20)))
def test_what_is_shown_is_the_same_target(url):
    try:
        target = parse_url(url)
    except RequestRefusedError:
        return
    assert parse_url(with_ascii_host(url)) == target
