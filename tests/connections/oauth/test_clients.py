"""The installation's apps, as the environment names them."""

import pytest

from connections.oauth.clients import Client, read_clients
from connections.secret import Secret


def test_a_list_of_pairs():
    clients = read_clients("hubspot=app-1:s3cret, salesforce=3MVG9.x:a:b=c,")
    assert clients == {"hubspot": Client("app-1", Secret("s3cret")), "salesforce": Client("3MVG9.x", Secret("a:b=c"))}


def test_a_json_object():
    assert read_clients(' {"slack": {"id": "1.2", "secret": "a,b"}}') == {"slack": Client("1.2", Secret("a,b"))}


def test_nothing():
    assert read_clients("") == {}


@pytest.mark.parametrize(
    "text",
    ["hubspot", "hubspot=app", "=app:canary", "hubspot=:canary", "hubspot=app:", '{"a": "canary"}', '{"a": {"id": 1}}'],
)
def test_what_is_not_whole_is_refused_and_not_quoted(text):
    with pytest.raises(ValueError, match="each integration needs") as caught:
        read_clients(text)
    assert "canary" not in str(caught.value)


def test_what_is_no_json_is_refused_and_not_quoted():
    with pytest.raises(ValueError, match="it is not JSON") as caught:
        read_clients('{"canary":')
    assert "canary" not in repr(caught.value)
    assert caught.value.__suppress_context__


def test_a_secret_does_not_show():
    assert "s3cret" not in repr(read_clients("hubspot=app:s3cret"))
