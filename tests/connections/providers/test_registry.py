import pytest

from connections import providers
from connections.providers.base import Limits, Provider, Request, Unsendable
from tests.connections.providers.shipments import shipment


def test_a_provider_is_found_by_its_slug():
    assert providers.get("webhook") in providers.all()


def test_an_unknown_slug_is_refused():
    with pytest.raises(providers.UnknownProvider):
        providers.get("carrier-pigeon")


def test_a_body_over_the_vendor_s_limit_is_not_sent():
    class Small(Provider):
        name = "Small"
        limits = Limits(body_bytes=3)

        def build_request(self, shipment):
            return Request("POST", "https://example.com", (), shipment.body.encode())

    assert Small().prepare(shipment(body="123")).body == b"123"
    with pytest.raises(Unsendable, match="has 4 bytes; Small takes at most 3"):
        Small().prepare(shipment(body="1234"))
