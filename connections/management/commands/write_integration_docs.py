"""`manage.py write_integration_docs`: docs/integrations, from what the providers declare."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from connections import providers
from connections.oauth.authorize import callback_path
from connections.providers.base import Action, Field, Limits, Provider

FOLDER = Path(__file__).parents[3] / "docs" / "integrations"


class Command(BaseCommand):
    help = "Write docs/integrations from the providers' declarations; --check only compares."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is not up to date")

    def handle(self, *args: Any, check: bool, **options: Any) -> None:
        pages = {"README.md": render_index(providers.all())}
        pages |= {f"{provider.slug}.md": render_page(provider) for provider in providers.all()}
        stale = [name for name, text in pages.items() if not _is(FOLDER / name, text)]
        stale += [path.name for path in FOLDER.glob("*.md") if path.name not in pages]
        if check and stale:
            raise CommandError(f"not up to date: {', '.join(sorted(stale))}; run manage.py write_integration_docs")
        for name in stale:
            if name in pages:
                FOLDER.mkdir(exist_ok=True)
                (FOLDER / name).write_text(pages[name])
            else:
                (FOLDER / name).unlink()
            self.stdout.write(f"{name}: {'written' if name in pages else 'removed'}")


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


# --- the pages ------------------------------------------------------------------------------------------------------

_AUTH = {
    "none": "none",
    "secret": "a signing secret that Meshes makes; whatever else the receiver asks for",
    "url": "a URL that is itself the secret",
    "api_key": "an API key",
    "basic": "a user name and a password or key",
    "bearer": "a token",
    "oauth2": "OAuth 2.0, or a token that you bring",
}


def render_index(declared: Iterable[Provider]) -> str:
    """The text of docs/integrations/README.md."""
    rows = [
        (
            f"[{provider.name}]({provider.slug}.md)",
            ", ".join(action.name for action in provider.actions),
            _AUTH[provider.auth],
        )
        for provider in declared
    ]
    return "\n".join(
        [
            "# Integrations",
            "",
            "Written by `.venv/bin/python manage.py write_integration_docs` from the declarations in "
            "`connections/providers/`.",
            "`GET /api/v1/integrations` says the same.",
            "",
            *_table(("integration", "actions", "credentials"), rows),
            "",
        ]
    )


def render_page(provider: Provider) -> str:
    """The text of docs/integrations/<slug>.md."""
    lines = [
        f"# {provider.name}",
        "",
        provider.description,
        "",
        f"Type `{provider.slug}`. The vendor's own documentation: <{provider.docs_url}>.",
        "",
    ]
    lines += [f"Credentials: {_AUTH[provider.auth]}. Test: {provider.test}", ""]
    lines += _fields("Config", provider.config_fields) + _fields("Credentials", provider.credential_fields)
    lines += _authorization(provider) + _limits(provider)
    if provider.live_options:
        rows = [(f"`{key}`", words) for key, words in provider.live_options.items()]
        lines += ["## Live options", "", "`GET /api/v1/connections/{id}/options/{field}` lists them.", ""]
        lines += [*_table(("field", "choices"), rows), ""]
    for action in provider.actions:
        lines += _action(action)
    return "\n".join(lines)


def _fields(title: str, fields: Sequence[Field]) -> list[str]:
    if not fields:
        return []
    rows = [
        (
            f"`{field.key}`",
            field.type,
            "made by Meshes" if field.generated else "yes" if field.required else "",
            _notes(field),
        )
        for field in fields
    ]
    return [f"## {title}", "", *_table(("field", "type", "required", ""), rows), ""]


def _notes(field: Field) -> str:
    notes = [field.help or field.label]
    if field.options:
        notes.append("One of " + ", ".join(f"`{option}`" for option in field.options) + ".")
    if field.default is not None:
        notes.append(f"Default `{field.default}`.")
    return " ".join(notes)


def _authorization(provider: Provider) -> list[str]:
    oauth = provider.oauth
    if oauth is None or not oauth.is_by_person:
        return []
    optional = dict(oauth.authorize_with).get("optional_scope", "").split()
    scopes = [f"`{scope}`" for scope in oauth.scopes] + [f"`{scope}` (may be refused)" for scope in optional]
    asked = f"Asks for {', '.join(scopes)}." if scopes else "The app's own settings say what it may do."
    words = "`POST /api/v1/connections/{id}/authorize`, or a connect link: see [OAuth](../oauth.md)."
    callback = f"The app's redirect URI: `<MESHES_PUBLIC_URL>{callback_path(provider.slug)}`."
    return ["## Authorization", "", f"{words} {asked}", "", callback, ""]


def _limits(provider: Provider) -> list[str]:
    own, system = _told(provider.limits), _told(provider.system_limits)
    if system:
        return ["## Limits", "", f"{own} for each connection. All connections together: {system}.", ""]
    return ["## Limits", "", f"{own}. Connections to one account share them.", ""] if own else []


def _told(limits: Limits) -> str:
    said = [
        (limits.in_flight, "{:,} requests open at once"),
        (limits.rate, "{:,g} requests a second"),
        (limits.body_bytes, "{:,} bytes a body"),
    ]
    return ", ".join(words.format(value) for value, words in said if value is not None)


def _action(action: Action) -> list[str]:
    lines = [f"## {action.name}: `{action.slug}`", ""]
    if action.help:
        lines += [action.help, ""]
    if action.steps:
        lines += [f"Calls: {', then '.join(action.steps)}; each stands in the attempt's record.", ""]
    again = "An attempt whose answer was lost is made again: twice has the effect of once."
    once = "An attempt whose answer was lost becomes a dead letter: a second one could double it."
    if action.steps:
        once = "An answer that was lost is asked for again, unless the call could double something: then a dead letter."
    lines += [again if action.idempotent else once, ""]
    if not action.fields:
        return [*lines, "Sends the event's payload, or what the rule's mapping makes of it.", ""]
    rows = [
        (
            f"`{field.key}`",
            field.type,
            "yes" if field.required else "",
            f"`{field.source}`" if field.source else "",
            field.help or field.label,
        )
        for field in action.fields
    ]
    lines += [*_table(("field", "type", "required", "default", ""), rows), ""]
    if action.is_open:
        lines += ["Further fields go by the vendor's own names.", ""]
    entries = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in action.default_mapping)
    return [
        *lines,
        "Default mapping, which a rule's overrides field by field:",
        "",
        "```json",
        f"[\n  {entries}\n]",
        "```",
        "",
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_row(head), "|---" * len(head) + "|", *(_row(row) for row in rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
