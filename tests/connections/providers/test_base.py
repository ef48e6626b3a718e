import pytest

from connections import providers
from connections.messages import Request
from connections.providers.base import Limits, Provider, Unsendable
from tests.connections.providers.shipments import shipment


def test_a_body_over_the_vendor_s_limit_is_not_sent():
    class Small(Provider):
        name = "Small"
        limits = Limits(body_bytes=3)

        def build_request(self, shipment):
            return Request("POST", "https://example.com", (), shipment.body.encode())

    assert Small().prepare(shipment(body="123")).body == b"123"
    with pytest.raises(Unsendable, match="has 4 bytes; Small takes at most 3"):
        Small().prepare(shipment(body="1234"))


@pytest.mark.parametrize(
    ("provider", "config", "document", "expected"),
    [
        ("webhook", {}, {"signing_secret": "s"}, False),
        (
            "webhook",
            {"oauth_token_url": "https://a.example"},
            {"oauth_client_id": "i", "oauth_client_secret": "s"},
            True,
        ),
        ("webhook", {}, {"oauth_client_id": "i", "oauth_client_secret": "s"}, False),
        ("webhook", {"oauth_token_url": "https://a.example"}, {"oauth_client_id": "i"}, False),
        ("hubspot", {}, {"access_token": "typed in"}, False),
        ("hubspot", {}, {"access_token": "t", "issued_at": "2026-11-28T00:00:00+00:00"}, True),
    ],
)
def test_tokens_come_from_an_endpoint_or_a_person(provider, config, document, expected):
    oauth = providers.get(provider).oauth
    assert oauth.gives_tokens(config, document) is expected
