"""What vendors of messages have in common: a text for people, in which nothing that a payload holds becomes markup."""

from collections.abc import Callable
from typing import Any

from connections.providers.fields import Field, Unsendable

SUMMARY = (
    "join(': ', [event.type, join(', ', [payload.name || payload.first_name, payload.email, payload.company]"
    "[?type(@) == 'string' && @ != ''])][?@ != ''])"
)
"""The default text of a message, in JMESPath: `lead.created: Ada, ada@example.com`. No event is without one."""


def webhook_url(label: str, pattern: str, example: str, help: str, *, required: bool = True) -> Field:
    """The credential of one channel: a URL that is itself the secret."""
    return Field(
        "webhook_url", label, type="url", required=required, sensitive=True, pattern=pattern, example=example, help=help
    )


def escaped(text: str, escape: Callable[[str], str], longest: int, vendor: str, advice: str = "") -> str:
    """The text as the vendor shows it; one that is too long without that is refused before. Raises Unsendable."""
    shown = escape(text) if len(text) <= longest else text
    if len(shown) > longest:
        raise Unsendable(f"The text has {len(shown):,} characters; {vendor} takes at most {longest:,}.{advice}")
    return shown


def few(name: str, items: list[Any], most: int, vendor: str) -> list[Any]:
    """The parts of a message, if the vendor takes so many. Raises Unsendable."""
    if len(items) > most:
        raise Unsendable(f"The message has {len(items)} {name}; {vendor} takes at most {most}.")
    return items
