"""Live choices for a field, such as a Mailchimp account's audiences: asked of the vendor, and kept for five minutes."""

import hashlib
from functools import partial

from django.core.cache import cache

from connections import credentials as keeping
from connections import outside, providers
from connections.conversation import ask
from connections.messages import Response
from connections.models import Connection
from connections.oauth.tokens import NoTokenError
from connections.providers.base import Choice, NotAuthorized, Outcome, Unsendable
from workspaces.vault import vault

KEPT_SECONDS = 300
MOST_CHOICES = 1000
MOST_PAGES = 5
"""Calls of one question; a vendor's page may hold fewer than was asked for."""


class UnknownField(LookupError):  # noqa: N818 - names what was looked up
    """The integration cannot list choices for this field."""


class NotReady(Exception):  # noqa: N818 - names what happened
    """The connection has no credentials to ask with; `str()` says why, in words for the tenant."""


class NoChoices(Exception):  # noqa: N818 - names what happened
    """The vendor did not list them; `str()` says why, in words for the tenant."""


def choices(connection: Connection, field: str, *, actor: str) -> list[Choice]:
    """At most 1,000 choices, in the vendor's order. Raises UnknownField, NotReady, NoChoices, OutsideBusyError.

    What is kept goes by the connection's version: an edit of it, or of its credentials, asks anew.
    """
    provider = providers.get(connection.type)
    if field not in provider.live_options:
        raise UnknownField(field)
    key = _key(connection, field)
    kept = cache.get(key)
    if kept is not None:
        return [Choice(*pair) for pair in kept]
    with outside.place_of(connection.workspace_id, "options", "Two lists of choices are being asked for. Try again."):
        found = _ask(connection, field, actor)[:MOST_CHOICES]
    cache.set(key, [(choice.value, choice.label) for choice in found], KEPT_SECONDS)
    return found


def _ask(connection: Connection, field: str, actor: str) -> list[Choice]:
    found: list[Choice] = []
    cursor = ""
    for _ in range(MOST_PAGES):
        page, cursor = _ask_page(connection, field, cursor, actor)
        found += page
        if not cursor or len(found) >= MOST_CHOICES:
            break
    return found


def _ask_page(connection: Connection, field: str, cursor: str, actor: str) -> tuple[list[Choice], str]:
    """One page of the choices, and where the next begins."""
    provider = providers.get(connection.type)
    build = partial(provider.build_options, field, cursor=cursor)
    try:
        asked = ask(connection, build, actor=actor, purpose="options")
        if asked is None:
            raise UnknownField(field)
        with asked.redactor.guarding():
            verdict = provider.classify_options(asked.answer)
            if verdict.outcome != Outcome.DELIVERED or not isinstance(asked.answer, Response):
                raise NoChoices(asked.redactor.text(verdict.words))
            return provider.read_options(field, asked.answer), provider.options_cursor(field, asked.answer)
    except vault.KeyMissing:
        raise NotReady(keeping.KEY_MISSING_WORDS) from None
    except vault.CredentialRefused:
        raise NotReady(keeping.REFUSED_WORDS) from None
    except NoTokenError as error:
        raise NoChoices(str(error)) from None
    except NotAuthorized as error:
        raise NotReady(error.words) from None
    except Unsendable as error:
        raise NoChoices(error.words) from None


def _key(connection: Connection, field: str) -> str:
    text = f"{connection.pk}:{connection.version}:{field}"
    return "options:" + hashlib.sha256(text.encode()).hexdigest()
