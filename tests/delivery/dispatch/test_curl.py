"""A request as a command for a shell: run by one, it sends the very bytes again."""

import base64
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delivery import serializers
from delivery.dispatch import attempts, replays
from delivery.models import Attempt, Delivery, Payload
from tests.factories import deliver, make_connection, make_deliveries, make_workspace
from tests.operators import superuser
from tests.receivers import receiver

AWKWARD = [
    b"",
    b"{}",
    b"-n",
    b"-\x00",
    b"@/etc/passwd",
    b"%s%d%%\\n\\x41\\",
    b'it\'s "quoted" `id` $(id) $HOME !! \\ \n\n',
    "déjà vu ☃ 𝄞".encode(),
    "turned \u202e around".encode(),
    b"a\r\nb\tc\x1b[31m\x00\x03\x7f",
    bytes(range(256)),
    b"\xff\xfe not text",
    b"'" * 3,
    b"x" * (serializers.MOST_IN_ARGUMENT + 1),
    ("ä'" * 100_000).encode(),
    bytes(range(256)) * 1000,
]


@pytest.fixture(scope="module")
def here():
    with receiver() as found:
        yield found


def run(text):
    """Through a shell that reads it from its standard input, as from a terminal."""
    done = subprocess.run(["sh"], input=text.encode(), capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("body", AWKWARD, ids=range(len(AWKWARD)))
def test_a_shell_sends_the_very_bytes(here, body):
    assert run(serializers.curl_command("POST", here.url, [["content-type", "application/json"]], body)) == b"ok"
    assert here.got[-1].body == body
    assert here.got[-1].headers["content-type"] == "application/json"
    assert here.got[-1].headers["content-length"] == str(len(body))


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_a_shell_sends_whatever_bytes(here, body):
    run(serializers.curl_command("PUT", here.url, [], body))
    assert here.got[-1].body == body
    assert "content-type" not in here.got[-1].headers


def test_method_url_and_headers_are_quoted_too(here):
    headers = [["x-a", 'it\'s `$(id)` "q"'], ["x-empty", ""], ["authorization", "Bearer ••••"], ["user-agent", "M/1"]]
    run(serializers.curl_command("PATCH", f"{here.url}/$(id)?a=[1-3]&b={{x,y}}&c='", headers, b"{}"))
    got = here.got[-1]
    assert (got.method, got.path.split("/", 2)[-1]) == ("PATCH", "$(id)?a=[1-3]&b={x,y}&c='")
    assert (got.headers["x-a"], got.headers["x-empty"]) == ('it\'s `$(id)` "q"', "")
    assert got.headers["authorization"].encode("latin-1").decode() == "Bearer ••••"
    assert got.headers["user-agent"] == "M/1"


def test_a_request_without_a_body_has_none_in_the_command(here):
    run(serializers.curl_command("GET", here.url, [], b""))
    assert here.got[-1].method == "GET"
    assert "content-length" not in here.got[-1].headers


def test_control_characters_are_never_pasted():
    text = serializers.curl_command("POST", "https://example.com/", [], b"a\x1b[2J\x03\r")
    assert text.isascii()
    assert all(character.isprintable() or character == "\n" for character in text)


# --- of an attempt --------------------------------------------------------------------------------------------------


def request_of(api, delivery):
    return api.get(f"/deliveries/{delivery.public_id}").json()["attempts"][-1]["request"]


def with_token(endpoint, token="tok_live_abcdefgh"):
    secret = {"signing_secret": "whsec_" + base64.b64encode(b"s" * 32).decode(), "previous": [], "token": token}
    return make_connection(make_workspace(), url=endpoint.url + "?key=abcdefgh", secret=secret)


@pytest.mark.django_db
def test_an_attempt_shows_the_body_that_was_sent_and_the_command(api, endpoint):
    (delivery,) = make_deliveries(with_token(endpoint))
    assert deliver(delivery) == 1
    (first,) = endpoint.got
    shown = request_of(api, delivery)
    assert shown["body"] == {"encoding": "utf-8", "content": first.body.decode(), "truncated": False}
    assert "tok_live_abcdefgh" not in shown["curl"]
    assert "abcdefgh" not in shown["url"]
    assert "authorization: Bearer ••••" in shown["curl"]
    run(shown["curl"])
    _, second = endpoint.got
    assert (second.method, second.body) == (first.method, first.body)
    assert second.headers["webhook-id"] == delivery.public_id
    assert second.headers["meshes-attempt"] == "1"


@pytest.mark.django_db
def test_secrets_in_a_body_are_masked(api, endpoint):
    target = with_token(endpoint)
    (delivery,) = make_deliveries(target)
    Delivery.objects.filter(pk=delivery.pk).update(body='{"echoed":"tok_live_abcdefgh"}')
    assert deliver(delivery) == 1
    assert b"tok_live_abcdefgh" in endpoint.got[0].body
    shown = request_of(api, delivery)
    assert "tok_live_abcdefgh" not in str(shown)
    assert '{"echoed":"••••"}' in shown["body"]["content"]


@pytest.mark.django_db
def test_each_attempt_keeps_its_own_body(api, endpoint):
    endpoint.answer(422)
    (delivery,) = make_deliveries(make_connection(make_workspace(), url=endpoint.url))
    assert deliver(delivery) == 1
    Delivery.objects.filter(pk=delivery.pk).update(body='{"n":2}')
    replays.send_again([delivery.pk], replays.Terms("original"))
    assert deliver(delivery) == 1
    made = api.get(f"/deliveries/{delivery.public_id}").json()["attempts"]
    assert [one["request"]["body"]["content"] for one in made] == [got.body.decode() for got in endpoint.got]
    assert '"data":{"n":2}' in made[1]["request"]["body"]["content"]


@pytest.mark.django_db
def test_a_body_that_was_too_long_to_keep_has_no_command(api, endpoint, monkeypatch):
    monkeypatch.setattr(attempts, "SENT_BODY_BYTES", 10)
    (delivery,) = make_deliveries(make_connection(make_workspace(), url=endpoint.url))
    assert deliver(delivery) == 1
    shown = request_of(api, delivery)
    assert shown["body"] == {"encoding": "utf-8", "content": '{"type":"l', "truncated": True}
    assert shown["curl"] is None


@pytest.mark.django_db
def test_an_attempt_from_before_has_neither(api, endpoint):
    (delivery,) = make_deliveries(make_connection(make_workspace(), url=endpoint.url))
    assert deliver(delivery) == 1
    Attempt.objects.update(request_body=None)
    assert (request_of(api, delivery)["body"], request_of(api, delivery)["curl"]) == (None, None)


@pytest.mark.django_db
def test_an_erasure_empties_what_was_sent(api, endpoint):
    (delivery,) = make_deliveries(make_connection(make_workspace(), url=endpoint.url))
    assert deliver(delivery) == 1
    answer = api.post(
        f"/workspaces/{delivery.workspace.public_id}/erasures", {"match": {"payload.email": "ada@example.com"}}
    )
    assert answer.json()["erased"] == 1
    assert not Payload.objects.filter(erased_at=None).exists()
    assert Attempt.objects.get().request_body is None
    assert "ada@example.com" not in str(api.get(f"/deliveries/{delivery.public_id}").json())


@pytest.mark.django_db
def test_the_admin_shows_body_and_command(endpoint):
    (delivery,) = make_deliveries(with_token(endpoint))
    assert deliver(delivery) == 1
    attempt = Attempt.objects.get(delivery=delivery)
    root = superuser()
    page = root.page("delivery_attempt", attempt.pk).content.decode()
    assert "Copy as curl" in page
    assert "ada@example.com" in page
    assert "tok_live_abcdefgh" not in page
    assert "--data-raw &#x27;{&quot;type&quot;" in page
    assert "ada@example.com" in root.page("delivery_delivery", delivery.pk).content.decode()
