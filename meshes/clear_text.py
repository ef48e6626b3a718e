"""Whether what goes to PostgreSQL and to Valkey is encrypted and reaches whom it is for: `meshes.E020` to `E022`.

Payloads pass to the one and ids to the other, and with the first word of each a password. What stays on this machine
may pass in clear, and what goes to a host that MESHES_CLEAR_TEXT_HOSTS names.
"""

import os
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from itertools import zip_longest
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error

LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain", ""})
VERIFIED = "verify-full"
"""The only `sslmode` at which libpq asks who answers. https://www.postgresql.org/docs/18/libpq-ssl.html"""
NAME_IT = "or name the host in MESHES_CLEAR_TEXT_HOSTS where nobody else is on the way"


def find_clear_text() -> Iterator[CheckMessage]:
    databases = {"DATABASE_URL": settings.DATABASES["default"]}
    if settings.MESHES_DIRECT_DATABASE_URL != settings.DATABASE_URL:
        databases["MESHES_DIRECT_DATABASE_URL"] = settings.DATABASES["direct"]
    for name, database in databases.items():
        yield from _find_in_database(name, database)
    for name, url in brokers():
        yield from _find_in_broker(name, url)


def brokers() -> Iterator[tuple[str, str]]:
    """Each broker's URL, with the setting that names it."""
    yield "REDIS_URL", settings.REDIS_URL
    yield from (("MESHES_REDIS_SHARDS", url) for url in settings.MESHES_REDIS_SHARDS if url != settings.REDIS_URL)


def is_local(host: str) -> bool:
    """Whether this is surely this machine: its loopback, or a folder or name of a Unix socket."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in LOCAL_NAMES or host.startswith(("/", "@"))


def hosts_of(database: Mapping[str, Any]) -> Iterator[str]:
    """Where libpq will connect to, by Django's settings of a database and then by libpq's own variables."""
    options = database.get("OPTIONS", {})
    hosts = database.get("HOST") or options.get("host") or os.environ.get("PGHOST", "")
    addresses = options.get("hostaddr") or os.environ.get("PGHOSTADDR", "")
    service = options.get("service") or os.environ.get("PGSERVICE", "")
    if service and not hosts and not addresses:
        yield service  # whose file names the host
        return
    for host, address in zip_longest(hosts.split(","), addresses.split(","), fillvalue=""):
        yield address.strip() or host.strip()


def _find_in_database(name: str, database: Mapping[str, Any]) -> Iterator[CheckMessage]:
    mode = database.get("OPTIONS", {}).get("sslmode") or os.environ.get("PGSSLMODE", "")
    if mode == VERIFIED:
        return
    for host in hosts_of(database):
        if not _may_be_clear(host):
            words = f"{name} names a server on another host, {host}, and not sslmode={VERIFIED}: who is on the way"
            hint = f"Add ?sslmode={VERIFIED}&sslrootcert=<file, or system>, {NAME_IT}."
            yield Error(f"{words} reads and changes what passes.", hint=hint, id="meshes.E020")


def _find_in_broker(name: str, url: str) -> Iterator[CheckMessage]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _may_be_clear(host):
        return
    if parts.scheme != "rediss":
        words = f"{name} names a server on another host, {host}, by redis://: its password passes in clear."
        yield Error(words, hint=f"Begin it with rediss://, {NAME_IT}.", id="meshes.E021")
        return
    query = parse_qs(parts.query)
    asked = query.get("ssl_cert_reqs", ["required"])[-1].lower(), query.get("ssl_check_hostname", ["true"])[-1].lower()
    if asked != ("required", "true"):
        words = f"{name} does not ask who answers at {host}: ssl_cert_reqs={asked[0]}, ssl_check_hostname={asked[1]}."
        hint = f"Leave both out, and name the authority by ssl_ca_certs=<file> or SSL_CERT_FILE, {NAME_IT}."
        yield Error(words, hint=hint, id="meshes.E022")


def _may_be_clear(host: str) -> bool:
    return is_local(host) or host.lower() in settings.MESHES_CLEAR_TEXT_HOSTS
