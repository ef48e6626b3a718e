"""Where a connection's credentials are sent, by its config, and what an edit must bring when that changes. Pure.

Whoever may edit the config may not read the credentials, so the config must not be a way to have them sent elsewhere:
an edit that changes the scheme, host or port of anywhere that they go brings them again. Paths are free.
"""

from collections.abc import Mapping
from typing import Any

from connections.messages import RequestRefusedError, parse_url
from connections.providers.base import Field, Provider


class CredentialsRequired(Exception):  # noqa: N818 - names what is missing
    """An edit that moves a connection, without these of its stored credentials: `.config` moves it."""

    def __init__(self, config: list[str], credentials: list[str]) -> None:
        super().__init__(f"{', '.join(config)} changes without {', '.join(credentials)}")
        self.config, self.credentials = config, credentials


def moved(provider: Provider, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The config fields through which requests go to another origin after the edit than before."""
    return [field.key for field in provider.host_fields if _origin(field, before) != _origin(field, after)]


def check_move(
    provider: Provider,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    stored: Mapping[str, Any],
    changed: Mapping[str, Any],
) -> list[str]:
    """`moved`, with everything brought again that is `stored` and sent. Raises CredentialsRequired.

    `changed` are the credentials that the edit sets, or removes: None. What Meshes makes itself is never sent.
    """
    fields = moved(provider, before, after)
    sent = [field.key for field in provider.credential_fields if not field.generated and field.key in stored]
    missing = [key for key in sent if key not in changed]
    if fields and missing:
        raise CredentialsRequired(fields, missing)
    return fields


def _origin(field: Field, config: Mapping[str, Any]) -> str:
    """Scheme, host and port of a URL, whichever way they are written; of any other field its value."""
    value = config.get(field.key, field.default)
    if not isinstance(value, str):
        return repr(value)
    try:
        target = parse_url(value)
    except RequestRefusedError:
        return value.lower()
    return f"{target.scheme}://{target.host}:{target.port}"
