"""Vendors: spoken to by key and token, and authorized by OAuth."""

import html
import re
from urllib.parse import urljoin

import requests

from tests.frozen.world import AT_ONCE, World


def a_vendor_is_spoken_to(world: World) -> None:
    """Slack by a token, Mailchimp by a key with its choices, and what they answer."""
    workspace = world.workspace()
    world.tell("slack", "open_account", account="T0FROZEN", token="xoxb-frozen")
    body = {"workspace": workspace, "type": "slack", "name": "Slack", "credentials": {"access_token": "xoxb-frozen"}}
    slack = world.ask("POST /connections", body | AT_ONCE, 201)
    assert world.ask(f"POST /connections/{slack['id']}/test", {})["account"]["id"] == "T0FROZEN"
    world.ask(f"GET /connections/{slack['id']}")
    world.ask(f"GET /connections/{slack['id']}/options/channel", status=None)
    mapping = [{"to": "channel", "value": "C0LEADS"}, {"to": "text", "from": "payload.text"}]
    rule = world.rule(workspace, slack["id"], action="post_message", mapping=mapping)
    world.ask(f"POST /rules/{rule['id']}/test", {"event": "lead.created", "payload": {"text": "Hello"}})
    seen = world.settled(world.post(workspace, {"text": "Hello"}), "succeeded")
    world.ask(f"GET /deliveries/{seen['deliveries'][0]['id']}")
    world.ask("POST /rules", {"workspace": workspace, "connection": slack["id"], "event": "*", "action": "sing"}, 422)
    world.tell("mailchimp", "open_account", account="frozen-list", token="f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0-us21")
    body = {"workspace": workspace, "type": "mailchimp", "name": "Mailchimp", "config": {"list_id": "a1b2c3d4e5"}}
    secret = {"credentials": {"api_key": "f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0-us21"}}
    mailchimp = world.ask("POST /connections", body | secret | AT_ONCE, 201)
    world.ask(f"GET /connections/{mailchimp['id']}/options/list_id")
    tags = [{"to": "tags", "from": "payload.tags"}]
    world.rule(workspace, mailchimp["id"], action="add_tags", event="member.*", mapping=tags)
    tagged = world.post(workspace, {"email": "ada@example.com", "tags": ["a"]}, "member.changed")
    (delivery,) = world.settled(tagged, "succeeded")["deliveries"]
    assert len(world.ask(f"GET /deliveries/{delivery['id']}")["attempts"][0]["steps"]) == 2
    world.tell("amplitude", "open_account", account="frozen", token="f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0")
    body = {"workspace": workspace, "type": "amplitude", "name": "Amplitude"}
    secret = {"credentials": {"api_key": "f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0"}}
    amplitude = world.ask("POST /connections", body | secret | AT_ONCE, 201)
    world.rule(workspace, amplitude["id"], action="track", event="page.*")
    recorded = world.post(workspace, {"user_id": "user-1", "taken": 1, "not_taken": [[1]]}, "page.seen")
    (delivery,) = world.settled(recorded, "succeeded")["deliveries"]
    (attempt,) = world.ask(f"GET /deliveries/{delivery['id']}")["attempts"]
    assert [each["field"] for each in attempt["omitted_fields"]] == ["event_properties.not_taken"]
    world.ask(f"POST /connections/{slack['id']}/rotate-secret", {}, 409)
    world.tell("slack", "revoke", token="xoxb-frozen")
    world.ask(f"PATCH /connections/{slack['id']}", {"name": "Slack again"})
    world.ask(f"GET /connections/{slack['id']}/options/channel", status=502)


def a_customer_authorizes(world: World) -> None:
    """HubSpot by OAuth: from `authorize`, then by a connect link; disconnected in between."""
    workspace = world.workspace()
    app = f"/workspaces/{workspace}/oauth-apps/hubspot"
    world.ask(f"GET {app}", status=404)
    world.ask(f"PUT {app}", {"client_id": "", "client_secret": "not ascii: é"}, 422)
    world.ask(f"PUT {app}", {"client_id": "hubspot-client-id", "client_secret": "hubspot-client-secret"})
    world.ask(f"GET {app}")
    log = f"GET /workspaces/{workspace}/access-log?kind=client"
    assert world.until(log, lambda it: it["data"], keep=False)["data"][0]["oauth_app"]
    world.ask(f"DELETE {app}", status=204)
    connection = world.ask("POST /connections", {"workspace": workspace, "type": "hubspot", "name": "CRM"}, 201)
    assert connection["status"] == "needs_reauth"
    at = f"/connections/{connection['id']}"
    world.ask(f"GET {at}/options/list_id", status=None)
    world.tell("hubspot", "sign_in", account="4711")
    url = world.once(f"POST {at}/authorize", {}, 200)["url"]
    with requests.Session() as browser:
        walk(browser, url)
    authorized = world.ask(f"GET {at}")
    assert (authorized["status"], authorized["account"]["id"]) == ("active", "4711")
    world.rule(workspace, connection["id"], action="upsert_contact", event="contact.*")
    event = world.post(workspace, {"email": "ada@example.com", "first_name": "Ada", "phone": "x"}, "contact.created")
    world.ask(f"GET /deliveries/{world.settled(event, 'succeeded')['deliveries'][0]['id']}")
    assert world.once(f"POST {at}/disconnect", {}, 200)["status"] == "needs_reauth"
    link = world.once(f"POST {at}/connect-link", {"expires_in": 3600}, 200)["url"]
    world.ask(f"POST {at}/connect-link", {"expires_in": 59}, 422)
    with requests.Session() as browser:
        offered = browser.get(link, timeout=60).text
        proof = re.findall(r'name="proof" value="([^"]+)"', offered)
        leaving = browser.post(link, data={"proof": proof[0]}, timeout=60).text
        away = html.unescape(re.findall(r'href="(http[^"]+authorize[^"]*)"', leaving)[0])
        walk(browser, away)
    assert world.ask(f"GET {at}")["status"] == "active"
    world.page(link, 404)


def walk(browser: requests.Session, url: str) -> str:
    """Follow the redirects of an authorization to the page at which it ends."""
    for _ in range(6):
        answer = browser.get(url, allow_redirects=False, timeout=60)
        if "location" not in answer.headers:
            assert answer.status_code == 200, answer.text
            return answer.text
        url = urljoin(url, answer.headers["location"])
    raise AssertionError(f"led on and on, to {url}")
