"""The demo's second act: one `lead.created` of two tenants goes to six vendors and a webhook, each to its own accounts.

A tenant's HubSpot access is revoked while leads come in, and given back; Intercom asks for fewer requests meanwhile.
What each vendor holds in the end is asked of the vendor's server, not of Meshes.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

from connections import outbound
from connections.messages import Request, Response
from meshes.dev.demo.act import ACME, GLOBEX, QUICK, Progress, wait_for
from meshes.dev.demo.client import LOOPBACK, Api, ApiError
from meshes.dev.demo.receivers import Endpoint
from meshes.dev.demo.vendors import Vendors

LEADS = 10
"""Events of each tenant before HubSpot is revoked, and half as many after."""
HOT = 50
"""Globex sends only leads with such a score, and higher, to sales."""
ACCOUNTS = {
    ("hubspot", ACME): ("1001", ""),  # by OAuth
    ("hubspot", GLOBEX): ("2002", "pat-na1-globex-8f2c51"),
    ("salesforce", ACME): ("acme-org", "00D000000000acme!AQ8f2c51"),
    ("salesforce", GLOBEX): ("globex-org", "00D00000000globex!AQ8f2c51"),
    ("mailchimp", ACME): ("acme-list", "acedacedacedacedacedacedacedaced-us21"),
    ("mailchimp", GLOBEX): ("globex-list", "60bee60bee60bee60bee60bee60bee60-us21"),
    ("intercom", ACME): ("acmeapp", "dG9rOmFjbWU4ZjJjNTE="),
    ("intercom", GLOBEX): ("globexapp", "dG9rOmdsb2JleDhmMmM1MQ=="),
    ("slack", ACME): ("T0ACME", "xoxb-acme-8f2c51"),
    ("slack", GLOBEX): ("T0GLOBEX", "xoxb-globex-8f2c51"),
    ("segment", ACME): ("acme-source", "acmeWriteKey8f2c51"),
    ("segment", GLOBEX): ("globex-source", "globexWriteKey8f2c51"),
}
"""The tenants' accounts at the vendors, and the tokens that open them."""
CREDENTIAL = {"mailchimp": "api_key", "segment": "write_key"}
"""The name of the credential where it is not `access_token`."""
CONFIG: dict[str, dict[str, Any]] = {
    "salesforce": {"external_id_field": "LeadKey__c"},
    "mailchimp": {"list_id": "a1b2c3d4e5"},
}
CHANNEL = {"to": "channel", "value": "C0LEADS"}
RULES: dict[tuple[str, str], dict[str, Any]] = {
    ("hubspot", ACME): {"action": "upsert_contact"},
    ("salesforce", ACME): {"action": "upsert_lead"},
    ("mailchimp", ACME): {"action": "upsert_member"},
    ("intercom", ACME): {"action": "upsert_contact"},
    ("slack", ACME): {"action": "post_message", "mapping": [CHANNEL]},
    ("segment", ACME): {"action": "identify"},
    ("hubspot", GLOBEX): {
        "action": "upsert_contact",
        "mapping": [{"to": "lastname", "from": "payload.last_name", "transforms": ["upper"]}],
    },
    ("salesforce", GLOBEX): {"action": "upsert_lead", "filter": {"payload.score": {"$gte": HOT}}},
    ("mailchimp", GLOBEX): {"action": "upsert_member"},
    ("intercom", GLOBEX): {"action": "upsert_contact", "filter": {"payload.score": {"$gte": HOT}}},
    ("slack", GLOBEX): {
        "action": "post_message",
        "filter": {"payload.score": {"$gte": HOT}},
        "mapping": [CHANNEL, {"to": "text", "from": "join(' ', ['Hot lead:', payload.email])"}],
    },
    ("segment", GLOBEX): {"action": "track"},
}


@dataclass(frozen=True, slots=True)
class Lead:
    workspace: str
    email: str
    score: int


@dataclass(slots=True)
class Outlet:
    """A tenant's connection to a vendor."""

    vendor: str
    workspace: str
    connection: str
    waited: int = 0
    """Deliveries that were held while no credential opened the account."""

    @property
    def account(self) -> str:
        """The vendor's own id of the tenant's account."""
        return ACCOUNTS[self.vendor, self.workspace][0]

    def wants(self, lead: Lead) -> bool:
        """Whether the tenant's rule leads it here, reckoned here and not asked of the API."""
        is_filtered = "filter" in RULES.get((self.vendor, self.workspace), {})
        return lead.workspace == self.workspace and (not is_filtered or lead.score >= HOT)


@dataclass
class SecondAct:
    api: Api
    vendors: Vendors
    say: Callable[[str], None]
    progress: Progress
    endpoints: Mapping[str, Endpoint]
    """Each tenant's own endpoint."""
    outlets: list[Outlet] = field(default_factory=list)
    leads: list[Lead] = field(default_factory=list)
    status_while_revoked: str = ""

    def play(self) -> None:
        self.set_up()
        self.post_leads(LEADS)
        self.revoke_and_reconnect()

    def set_up(self) -> None:
        """Accounts at the vendors, connections to them, and rules; Acme's HubSpot is authorized by OAuth."""
        self.say("Act two: both tenants connect HubSpot, Salesforce, Mailchimp, Intercom, Slack and Segment")
        for (vendor, workspace), (account, token) in ACCOUNTS.items():
            if token:
                self.vendors.tell(vendor, "open_account", account=account, token=token)
            connection = self._connect(vendor, workspace, token)
            self.outlets.append(Outlet(vendor, workspace, connection))
            rule = {"workspace": workspace, "connection": connection, "event": "lead.created", "enabled": True}
            self.api.post("/rules", rule | RULES[vendor, workspace])
        for workspace, endpoint in self.endpoints.items():
            self._connect_webhook(workspace, endpoint)
        self.vendors.tell("hubspot", "sign_in", account=self.acme_hubspot.account)
        self._authorize(self.acme_hubspot)

    def post_leads(self, number: int) -> None:
        """Post leads of both tenants, and wait until every rule is served. Intercom answers 429 at first."""
        self.say(f"{number} leads of each; Intercom asks for fewer requests")
        self.vendors.tell("intercom", "fail_next", what=429, headers={"retry-after": "1"}, times=2)
        self._post(number)
        self._wait_for_all(self.outlets)

    def revoke_and_reconnect(self) -> None:
        """Acme's people remove the app from HubSpot; what waits goes out when they have authorized it again."""
        self.say("Acme's HubSpot is revoked; more leads come; then it is connected again")
        self.vendors.tell("hubspot", "uninstall", account=self.acme_hubspot.account)
        before = self.count(self.acme_hubspot, "succeeded")
        self._post(LEADS // 2)
        self._wait_for_all([outlet for outlet in self.outlets if outlet is not self.acme_hubspot])
        self.wait("held", lambda: self.count(self.acme_hubspot, "held"), LEADS // 2)
        self.acme_hubspot.waited = self.count(self.acme_hubspot, "held")
        self.status_while_revoked = self.api.get(f"/connections/{self.acme_hubspot.connection}")["status"]
        if self.count(self.acme_hubspot, "succeeded") != before:
            raise ApiError("HubSpot took leads after its access was revoked")
        self._authorize(self.acme_hubspot)
        self._wait_for_all([self.acme_hubspot])

    def post_hot_lead(self, workspace: str) -> None:
        """One more lead, which every rule of the tenant wants."""
        self._post_lead(Lead(workspace, f"lead-{len(self.leads):03}@hot.example", HOT))

    def wait(self, what: str, count: Callable[[], int], goal: int) -> None:
        wait_for(self.progress, what, count, goal)

    # --- what the claims are reckoned from

    def outlet(self, vendor: str, workspace: str) -> Outlet:
        return next(each for each in self.outlets if (each.vendor, each.workspace) == (vendor, workspace))

    @property
    def acme_hubspot(self) -> Outlet:
        return self.outlet("hubspot", ACME)

    def wanted(self, outlet: Outlet) -> list[Lead]:
        return [lead for lead in self.leads if outlet.wants(lead)]

    def deliveries(self, outlet: Outlet) -> list[Any]:
        """What the API knows of the deliveries to an outlet."""
        return self.api.all(f"/deliveries?connection={outlet.connection}")

    def refusals(self, outlet: Outlet) -> Counter[int]:
        """How often the vendor answered an attempt with which status instead of taking it."""
        retried = [each["id"] for each in self.deliveries(outlet) if each["attempt_count"] > 1]
        attempts = [each for key in retried for each in self.api.get(f"/deliveries/{key}")["attempts"]]
        return Counter(
            each["status_code"] for each in attempts if each["status_code"] and each["outcome"] != "delivered"
        )

    def count(self, outlet: Outlet, status: str) -> int:
        return sum(delivery["status"] == status for delivery in self.deliveries(outlet))

    def holdings(self, outlet: Outlet) -> str:
        """Everything that the vendor's account, or the tenant's own endpoint, has got, as text."""
        if outlet.vendor == "webhook":
            receipts = self.endpoints[outlet.workspace].receipts
            return "".join(receipt.body.decode() for receipt in receipts if receipt.status == 200)
        return json.dumps(self.vendors.state(outlet.vendor).get(outlet.account, {}), ensure_ascii=False)

    # --- how

    def _connect(self, vendor: str, workspace: str, token: str) -> str:
        document = {
            "workspace": workspace,
            "type": vendor,
            "name": vendor,
            "config": CONFIG.get(vendor, {}),
            "credentials": {CREDENTIAL.get(vendor, "access_token"): token} if token else {},
            "retry": {"schedule": QUICK},
        }
        connection: str = self.api.post("/connections", document)["id"]
        return connection

    def _connect_webhook(self, workspace: str, endpoint: Endpoint) -> None:
        document = {"workspace": workspace, "type": "webhook", "name": "leads", "config": {"url": endpoint.url}}
        made = self.api.post("/connections", document)
        endpoint.secrets.append(made["signing_secret"])
        rule = {"workspace": workspace, "connection": made["id"], "event": "lead.created", "enabled": True}
        self.api.post("/rules", rule)
        self.outlets.append(Outlet("webhook", workspace, made["id"]))

    def _authorize(self, outlet: Outlet) -> None:
        """What a person's browser does: by our address to the vendor's page, and back with a code."""
        url = self.api.post(f"/connections/{outlet.connection}/authorize")["url"]
        opened = _browse(url)
        cookie = _header(opened, "set-cookie").partition(";")[0]
        agreed = _browse(_header(opened, "location"))
        location = _header(agreed, "location")
        if agreed.status != 302 or not location:
            raise ApiError(f"The vendor's page answered {agreed.status}")
        back = _browse(urljoin(location, _header(_browse(location, cookie), "location")))
        if back.status != 200:
            raise ApiError(f"The authorization ended with {back.status}: {back.body[:500].decode(errors='replace')}")

    def _post(self, number: int) -> None:
        for index in range(len(self.leads) // 2, len(self.leads) // 2 + number):
            for workspace, tenant in ((ACME, "acme"), (GLOBEX, "globex")):
                self._post_lead(Lead(workspace, f"lead-{index:03}@{tenant}.example", 90 if index % 2 else 20))

    def _post_lead(self, lead: Lead) -> None:
        payload = {
            "email": lead.email,
            "first_name": "Ada",
            "last_name": "Lovelace",
            "company": "Analytical Engines",
            "phone": "+15550100",
            "score": lead.score,
        }
        self.api.post("/events", {"workspace": lead.workspace, "event": "lead.created", "payload": payload})
        self.leads.append(lead)

    def _wait_for_all(self, outlets: list[Outlet]) -> None:
        goal = sum(len(self.wanted(outlet)) for outlet in outlets)
        self.wait("delivered", lambda: sum(self.count(outlet, "succeeded") for outlet in outlets), goal)


def _browse(url: str, cookie: str = "") -> Response:
    headers = (("accept", "text/html"), *((("cookie", cookie),) if cookie else ()))
    request = Request("GET", url, headers)
    return outbound.send(request, deadline_seconds=10, body_limit=1024 * 1024, policy=LOOPBACK)


def _header(response: Response, name: str) -> str:
    return next((value for key, value in response.headers if key.lower() == name), "")
