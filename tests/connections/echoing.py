"""A vendor for tests that is careless with the token: it fails with it, and its server says it back."""

from connections.messages import Request, Response
from connections.providers.answers import text_at
from connections.providers.base import Action, Field, Shipment
from connections.providers.vendor import Vendor, json_request, revealed
from connections.providers.verdicts import Verdict


class Echoing(Vendor):
    slug = "echoing"
    name = "Echoing"
    auth = "bearer"
    config_fields = (Field("url", "URL", type="url", required=True),)
    credential_fields = (Field("access_token", "Token", sensitive=True, required=True),)
    actions = (
        Action("send", "Send", idempotent=True),
        Action("fail_before", "Fail before it is sent", idempotent=True),
        Action("fail_after", "Fail when it was answered", idempotent=True),
    )

    def build_request(self, shipment: Shipment) -> Request:
        if shipment.action == "fail_before":
            raise ValueError(f"cannot send with {revealed(shipment, 'access_token')}")
        return json_request("POST", shipment.config["url"], {"sent": True}, *self.authorized(shipment))

    def build_test(self, shipment: Shipment) -> Request:
        if "fail" in shipment.config["url"]:
            raise ValueError(f"cannot test with {revealed(shipment, 'access_token')}")
        return self.build_request(shipment)

    def error_of(self, response: Response) -> tuple[str, str]:
        return text_at(response, "code"), text_at(response, "message")

    def classify(self, answer, action: str) -> Verdict:
        if action == "fail_after":
            raise ValueError(f"cannot read {answer.body.decode()}")
        return super().classify(answer, action)


PROVIDER = Echoing()
