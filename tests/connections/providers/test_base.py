import pytest

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
