"""What the demo's second act claims, reckoned from what the vendors' servers hold and what the API says."""

from collections import Counter
from dataclasses import dataclass

from meshes.dev.demo.act import ACME, GLOBEX
from meshes.dev.demo.copied import Copied
from meshes.dev.demo.proof import Claim
from meshes.dev.demo.second_act import LEADS, Outlet, SecondAct


@dataclass(frozen=True, slots=True)
class OutletRow:
    """A tenant's destination: numbers of deliveries, which statuses the vendor answered instead of taking them and how
    often, and how many of the leads wanted there are in the tenant's own account."""

    tenant: str
    vendor: str
    wanted: int
    delivered: int
    refusals: Counter[int]
    waited: int
    at_vendor: int


def rows(act: SecondAct) -> list[OutletRow]:
    return [_row(act, outlet) for outlet in sorted(act.outlets, key=lambda each: each.workspace)]


def _row(act: SecondAct, outlet: Outlet) -> OutletRow:
    deliveries, holdings = act.deliveries(outlet), act.holdings(outlet)
    return OutletRow(
        tenant=outlet.workspace.removeprefix("ws_tenant_"),
        vendor=outlet.vendor,
        wanted=len(act.wanted(outlet)),
        delivered=sum(delivery["status"] == "succeeded" for delivery in deliveries),
        refusals=act.refusals(outlet),
        waited=outlet.waited,
        at_vendor=sum(lead.email in holdings for lead in act.wanted(outlet)),
    )


def claims(act: SecondAct, made: list[OutletRow], copied: Copied) -> list[Claim]:
    throttled = sum(row.refusals[429] for row in made if row.vendor == "intercom")
    return [
        Claim(
            "Every lead is at every destination that its tenant's rules lead it to",
            all(row.wanted == row.delivered == row.at_vendor > 0 for row in made),
        ),
        Claim("No tenant's lead is in another's account, and none where a filter keeps it out", _is_apart(act)),
        Claim("Globex's mapping shaped its HubSpot contacts, and only those", _is_mapped(act)),
        Claim("While HubSpot was revoked Acme's connection said so, and its leads waited", _waited(act)),
        Claim("Intercom's 429 were tried again", throttled == 2),
        Claim(
            "Slack got nothing by a credential copied from another tenant, and the alarm sounded", copied.did_nothing
        ),
    ]


def _is_apart(act: SecondAct) -> bool:
    return not any(
        lead.email in act.holdings(outlet) for outlet in act.outlets for lead in act.leads if not outlet.wants(lead)
    )


def _is_mapped(act: SecondAct) -> bool:
    hubspot = {outlet.workspace: act.holdings(outlet) for outlet in act.outlets if outlet.vendor == "hubspot"}
    return "LOVELACE" in hubspot[GLOBEX] and "LOVELACE" not in hubspot[ACME] and "Lovelace" in hubspot[ACME]


def _waited(act: SecondAct) -> bool:
    return act.status_while_revoked == "needs_reauth" and act.acme_hubspot.waited == LEADS // 2
