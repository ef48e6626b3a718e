"""Who judges the requests to each vendor."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.judges import sdks
from tests.judges.described import Interfaces, Judge, OpenApi, json_schema
from tests.judges.sdks import Recorder
from tests.judges.sending import Sent
from tests.judges.words import Rule, host_is, judging, texts_at


@dataclass(frozen=True, slots=True)
class Row:
    """A vendor's judges. `kind`: `description`, `sdk` or `words`. A request is refused where one of them refuses it,
    and covered where one of them speaks of it; of `words` alone `sought` says what was looked for."""

    slug: str
    kind: str
    name: str
    judges: tuple[Judge, ...]
    rules: tuple[Rule, ...] = ()
    sought: str = ""

    def judge(self, sent: Sent) -> list[str] | None:
        """What is wrong with a request; None where nobody speaks of it."""
        told = [found for judge in self.judges if (found := judge(sent)) is not None]
        if not told and self.judges:
            return None
        return [problem for found in [*told, judging(*self.rules)(sent)] for problem in found]


E164 = re.compile(r"\+[1-9]\d{6,14}")
LINK = re.compile(r"(?<!\\)\[[^\]]*(?<!\\)\]\(https?://")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _no_blank(pattern: str) -> Callable[[Sent], Iterator[str]]:
    """Wrong is a blank text that no entry of the rule's own made."""
    blanks = texts_at(pattern, lambda value: value is None or str(value).strip() != "", "a blank clears the field")
    return lambda sent: blanks(sent) if sent.wanted.get("mapping") != "own" else iter(())


def _hubspot_key(sent: Sent) -> Iterator[str]:
    for row in sent.document.get("inputs", ()) if sent.path.endswith("/batch/upsert") else ():
        kept = row["properties"].get(row["idProperty"])
        if kept != row["id"]:
            yield f"the record is sought by {json.dumps(row['id'])} and keeps {json.dumps(kept)}"


def _discord_agent(sent: Sent) -> Iterator[str]:
    if not re.match(r"DiscordBot \(https?://[^\s,]+, [\w.]+\)", sent.headers.get("user-agent", "")):
        yield f"the user agent is {sent.headers.get('user-agent')}"


def _discord_version(sent: Sent) -> Iterator[str]:
    if not re.match(r"/api/v\d+/webhooks/", sent.path):
        yield f"the path {sent.path[:20]} names no version"


def _no_link(pattern: str) -> Callable[[Sent], Iterator[str]]:
    return texts_at(pattern, lambda value: not LINK.search(str(value)), "a value of the lead's becomes a link")


def _event_name(sent: Sent) -> Iterator[str]:
    if sent.path.endswith("/events") and not 2 <= len(sent.document["name"]) <= 30:
        yield f"/name has {len(sent.document['name'])} characters"


RESERVED = {
    "app_remove", "app_store_refund", "app_store_subscription_cancel", "app_store_subscription_renew", "click", "error",
    "file_download", "first_open", "first_visit", "form_start", "form_submit", "in_app_purchase", "page_view", "scroll",
    "session_start", "user_engagement", "view_complete", "video_progress", "video_start", "view_search_results",
}  # fmt: skip


def _reserved(sent: Sent) -> Iterator[str]:
    for event in sent.document["events"]:
        if event["name"] in RESERVED:
            yield f"the event name {event['name']} is reserved"


def _salesforce_call(sent: Sent) -> Iterator[str]:
    if sent.method != "PATCH" or not re.fullmatch(r"/services/data/v\d+\.\d/sobjects/\w+/\w+/[^/]+", sent.path):
        yield f"{sent.method} {sent.path} is no upsert by an external id"


def _salesforce_array(sent: Sent) -> Iterator[str]:
    for key, value in sent.document.items():
        if isinstance(value, list):
            yield f"/{key} is an array"


SALESFORCE_TEXTS = r"/(FirstName|LastName|Email|Phone|Company|Title|MobilePhone)"


def _pipedrive(folder: Path) -> Judge:
    models = Interfaces(folder / "client-nodejs/src/versions/v2/models")

    def judge(sent: Sent) -> list[str] | None:
        if sent.method == "GET":
            return [] if sent.path.endswith("/api/v2/persons/search") else None
        return list(models.problems("AddPersonRequest", _declared(sent.document)))  # of updatePerson too

    return judge


def _declared(document: dict[str, Any]) -> dict[str, Any]:
    """Without the customer's own field of these tests, by whatever name."""
    return {key: value for key, value in document.items() if key != "custom"}


def _first(*judges: OpenApi) -> Judge:
    """The first of several descriptions that speaks of the request; a wrong host is none of theirs to excuse."""
    return lambda sent: next((found for each in judges if (found := each(sent)) is not None), None)


def _zoho(folder: Path) -> Judge:
    hosts = {end: f"https://www.zohoapis.{end}" for end in ("com", "eu", "in", "com.au", "jp", "sa", "com.cn", "ca")}
    return OpenApi(folder / "crm-oas/v8.0/record.json", hosts)


def rows(folder: Path, recorder: Recorder) -> list[Row]:
    """All seventeen. Raises OSError for a description that the folder lacks."""
    hubspot = folder / "HubSpot-public-api-spec-collection/PublicApiSpecs/CRM"
    card = json_schema(
        folder / "AdaptiveCards/schemas/1.4.0/adaptive-card.json",
        lambda sent: sent.document["attachments"][0]["content"],
    )
    return [
        Row(
            "hubspot",
            "description",
            "OpenAPI contacts and notes 2026-09, lists v3",
            (
                _first(
                    OpenApi(hubspot / "Contacts/Rollouts/424/2026-09/contacts.json"),
                    OpenApi(hubspot / "Notes/Rollouts/424/2026-09/notes.json"),
                    OpenApi(hubspot / "Lists/Rollouts/144891/v3/lists.json"),
                ),
            ),
            (
                Rule(
                    "can be cleared by passing an empty string",
                    "HubSpot's OpenAPI of contacts",
                    _no_blank(r"/inputs/\d+/properties/.*|/properties/.*"),
                    "HubSpot-public-api-spec-collection/PublicApiSpecs/CRM/Contacts/Rollouts/424/2026-09/contacts.json",
                ),
                Rule(
                    "The name of a property whose values are unique for this object",
                    "HubSpot's OpenAPI of contacts",
                    _hubspot_key,
                    "HubSpot-public-api-spec-collection/PublicApiSpecs/CRM/Contacts/Rollouts/424/2026-09/contacts.json",
                ),
            ),
        ),
        Row(
            "salesforce",
            "words",
            "REST API developer guide, API v68",
            (),
            (
                Rule(
                    "You can use the sObject Rows by External ID resource to create records or update existing records (upsert)",
                    "https://developer.salesforce.com/docs/platform/api-rest/guide/dome-upsert.html",
                    _salesforce_call,
                ),
                Rule(
                    "Cannot deserialize instance of multipicklist from START_ARRAY value",
                    "https://salesforce.stackexchange.com/questions/54882, the API's own answer",
                    _salesforce_array,
                ),
                Rule(
                    "Phone numbers. Values can include alphabetic characters.",
                    "https://developer.salesforce.com/docs/platform/apex-ref/references/apex-ref/apex-enum-schema-displaytype.html",
                    texts_at(
                        SALESFORCE_TEXTS, lambda value: value is None or _is_text(value), "the field's type is a text"
                    ),
                ),
                Rule(
                    "If the external ID is matched one time, then the record is updated according to the request body.",
                    "https://developer.salesforce.com/docs/platform/api-rest/guide/dome-upsert.html",
                    _no_blank(SALESFORCE_TEXTS),
                ),
            ),
            sought="an OpenAPI description (only one generated in each org, in beta) and an official SDK for servers; neither is public",
        ),
        Row(
            "mailchimp",
            "sdk",
            f"mailchimp-marketing {version('mailchimp-marketing')}",
            (sdks.mailchimp(recorder),),
            (
                Rule(
                    "Must be 2-30 characters in length",
                    "https://mailchimp.com/developer/marketing/api/list-member-events/",
                    _event_name,
                ),
            ),
        ),
        Row(
            "intercom",
            "description",
            "OpenAPI 2.16",
            (
                OpenApi(
                    folder / "Intercom-OpenAPI/descriptions/2.16/api.intercom.io.yaml",
                    {
                        "us": "https://api.intercom.io",
                        "eu": "https://api.eu.intercom.io",
                        "au": "https://api.au.intercom.io",
                    },
                    open_at=("/custom_attributes", "/metadata"),
                ),
            ),
        ),
        Row("slack", "sdk", f"slack_sdk {version('slack_sdk')}", (sdks.slack(recorder),)),
        Row(
            "segment",
            "sdk",
            f"segment-analytics-python {version('segment-analytics-python')}",
            (sdks.segment(recorder),),
            (
                Rule(
                    "HTTP API sources in EU workspaces should use the events.eu1.segmentapis.com endpoint",
                    "segment-docs, HTTP API",
                    host_is("events.eu1.segmentapis.com", region="eu"),
                    "segment-docs/src/connections/sources/catalog/libraries/server/http-api/index.md",
                ),
                Rule(
                    "Oregon (Default) — api.segment.io/",
                    "segment-docs, regional configuration",
                    host_is("api.segment.io", region="us"),
                    "segment-docs/src/_includes/content/regional-config.md",
                ),
            ),
        ),
        Row(
            "mixpanel",
            "description",
            "OpenAPI of ingestion",
            (
                OpenApi(
                    folder / "mixpanel-docs/openapi/ingestion.openapi.yaml",
                    {
                        "us": "https://api.mixpanel.com",
                        "eu": "https://api-eu.mixpanel.com",
                        "in": "https://api-in.mixpanel.com",
                    },
                ),
            ),
        ),
        Row("amplitude", "sdk", f"amplitude-analytics {version('amplitude-analytics')}", (sdks.amplitude(recorder),)),
        Row("posthog", "sdk", f"posthog {version('posthog')}", (sdks.posthog(recorder),)),
        Row(
            "ga4",
            "description",
            "Google's JSON Schema of the Event Builder",
            # What the schema requires of recommended events is "typically required for meaningful reporting", says the
            # reference of events: Analytics takes a lead without a value.
            (
                json_schema(
                    folder / "ga-dev-tools/base-content.schema.json", lambda sent: sent.document, r"/events/\d+/params"
                ),
            ),
            (
                Rule(
                    "The following event names are reserved and cannot be used",
                    "https://support.google.com/analytics/answer/13316687",
                    _reserved,
                ),
                Rule(
                    "https://www.google-analytics.com/mp/collect",
                    "https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference",
                    host_is(r"(www|region1)\.google-analytics\.com"),
                ),
            ),
        ),
        Row("customerio", "sdk", f"customerio {version('customerio')}", (sdks.customerio(recorder),)),
        Row(
            "klaviyo",
            "description",
            "OpenAPI, stable",
            (OpenApi(folder / "klaviyo-openapi/openapi/stable.json"),),
            (
                Rule(
                    "Individual's phone number in E.164 format",
                    "Klaviyo's OpenAPI",
                    texts_at(
                        r".*/phone_number", lambda value: value is None or bool(E164.fullmatch(str(value))), "not E.164"
                    ),
                    "klaviyo-openapi/openapi/stable.json",
                ),
            ),
        ),
        Row("pipedrive", "description", "the v2 models of client-nodejs", (_pipedrive(folder),)),
        Row("resend", "description", "OpenAPI", (OpenApi(folder / "resend-openapi/resend.yaml"),)),
        Row(
            "discord",
            "description",
            "OpenAPI v10",
            (OpenApi(folder / "discord-api-spec/specs/openapi.json"),),
            (
                Rule(
                    "User-Agent: DiscordBot ($url, $versionNumber)",
                    "discord-api-docs, reference",
                    _discord_agent,
                    "discord-api-docs/developers/reference.mdx",
                ),
                Rule(
                    "You should specify which version to use by including it in the request path",
                    "discord-api-docs, reference",
                    _discord_version,
                    "discord-api-docs/developers/reference.mdx",
                ),
                Rule(
                    "Discord utilizes a subset of markdown for rendering message content on its clients",
                    "discord-api-docs, reference",
                    _no_link("/content"),
                    "discord-api-docs/developers/reference.mdx",
                ),
            ),
        ),
        Row(
            "teams",
            "description",
            "JSON Schema of adaptive cards 1.4",
            (card,),
            (
                Rule(
                    "A subset of markdown is supported (https://aka.ms/ACTextFeatures)",
                    "the schema of adaptive cards",
                    _no_link(r".*/text"),
                    "AdaptiveCards/schemas/1.4.0/adaptive-card.json",
                ),
                Rule(
                    "If you require newlines elsewhere in the TextBlock, use \\n\\n.",
                    "https://learn.microsoft.com/microsoftteams/platform/task-modules-and-cards/cards/cards-format",
                    texts_at(
                        r".*/text",
                        lambda value: not re.search(r"(?<!\n)\n(?!\n)", str(value)),
                        "a single line feed is no line break",
                    ),
                ),
            ),
        ),
        Row(
            "zoho",
            "description",
            "crm-oas v8, records",
            (_zoho(folder),),
            (
                Rule(
                    "If a matching record exists, it gets updated.",
                    "https://zoho.com/crm/developer/docs/api/v8/upsert-records.html",
                    _no_blank(r"/data/\d+/.*"),
                ),
            ),
        ),
    ]
