"""Microsoft Teams by a flow of Power Automate (learn.microsoft.com): accepted now, run afterwards."""

from dataclasses import dataclass, field
from typing import Any

from meshes.dev.vendors.messages import Answer, Call, Reason
from meshes.dev.vendors.server import VendorServer, route

MAX_BODY = 28 * 1024
CARD = "application/vnd.microsoft.card.adaptive"
WORKFLOW = "/powerautomate/automations/direct/workflows/{flow}/triggers/manual/paths/invoke"


@dataclass
class Flow:
    """`cards` were posted; `failed` are bodies that were accepted (202) and that the flow could do nothing with."""

    cards: list[dict[str, Any]] = field(default_factory=list)
    failed: list[Any] = field(default_factory=list)


class Teams(VendorServer[Flow]):
    """An account is a flow's id, opened by the `sig` of its URL."""

    slug, account, developer_token, new_account = "teams", "0f1e2d3c4b5a", "teamsFlowSignature", Flow
    default_error = "InvalidRequest"
    error_codes = {
        Reason.MALFORMED: "InvalidRequestContent",
        Reason.NOT_FOUND: "WorkflowNotFound",
        Reason.DOWN: "InternalError",
        Reason.THROTTLED: "WorkflowRunActionRateLimitExceeded",
    }

    @property
    def webhook_url(self) -> str:
        path = WORKFLOW.replace("{flow}", self.account)
        query = f"api-version=1&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig={self.token}"
        return f"https://default1234.56.environment.api.powerplatform.com:443{path}?{query}"

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of({"error": {"code": code, "message": message}}, status)

    @route("POST", WORKFLOW, "url")
    def trigger(self, call: Call, flow: str) -> Answer:
        if flow not in self.tokens.values():
            raise self.refused(404, "WorkflowNotFound", f"The workflow '{flow}' could not be found.")
        if self.tokens.get(call.query.get("sig", "")) != flow:
            message = "The request to trigger the workflow must be authenticated: the signature does not match."
            raise self.refused(401, "DirectApiAuthorizationRequired", message)
        state = self.account_state(flow)
        self.refuse_if(len(call.body) > MAX_BODY, 413, "RequestEntityTooLarge", "The message is larger than 28 KB.")
        document = self.read_object(call)
        cards = _cards(document)
        state.cards += cards
        state.failed += [] if cards else [document]
        return Answer(202)


def _cards(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The adaptive cards of a message; none where one of them is not."""
    attachments = message.get("attachments")
    if message.get("type") != "message" or not isinstance(attachments, list):
        return []
    contents = [
        each.get("content") for each in attachments if isinstance(each, dict) and each.get("contentType") == CARD
    ]
    cards = [
        each for each in contents if isinstance(each, dict) and each.get("type") == "AdaptiveCard" and each.get("body")
    ]
    return cards if len(cards) == len(attachments) else []
