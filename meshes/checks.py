"""Settings that can be read and are weak: told when a process starts, and errors of `manage.py check --deploy`.

An installation that ran with such a setting goes on running, so none refuses the start. What cannot be read does: see
`meshes.environment`. The ids `meshes.E001` and on are stable.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from itertools import zip_longest
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register
from django.db import connection
from django.http.request import validate_host

from meshes.console.signin.models import Authenticator
from meshes.environment import env, unknown_settings
from workspaces.vault import sealing, stored_keys
from workspaces.vault.secret import is_strong, is_well_formed

logger = logging.getLogger(__name__)

SECRET_KEY_LENGTH, SECRET_KEY_CHARACTERS = 50, 5
"""At least so many characters, and so many different ones: those of Django's own check, security.W009."""
LONGEST_ATTEMPT_SECONDS = 30
"""connections.outbound.client.MAX_DEADLINE_SECONDS; a claim must outlive it."""


@register(Tags.security, deploy=True)
def check_weak_settings(**kwargs: Any) -> list[CheckMessage]:
    """`meshes.E001` to `E008`, `E020` to `E022`, `W001` and `W003`."""
    return list(_find_weak_settings())


@register(Tags.security, deploy=True)
def check_stored_keys(**kwargs: Any) -> list[CheckMessage]:
    """`meshes.E009` and `E010`: stored credentials that `FERNET_KEYS` do not open; `I001` where that is not known."""
    waits = "Put it back, behind the first. Until then what needs it waits, and nothing is lost."
    changed = "Somebody may have changed it in the database. See docs/vault.md."
    found: list[CheckMessage] = []
    try:
        for is_missing, message in stored_keys.find_unopenable():
            hint, number = (waits, "E009") if is_missing else (changed, "E010")
            found.append(Error(message, hint=hint, id=f"meshes.{number}"))
        if "FERNET_KEYS" in settings.MESHES_SECRETS:
            missing = Authenticator.objects.exclude(key_id__in=sealing.key_ids()).order_by("key_id")
            for key_id in missing.values_list("key_id", flat=True).distinct():
                words = f"Second factors of operators need the key {key_id}, which is not among FERNET_KEYS."
                hint = "Put it back, behind the first; recovery codes work."
                found.append(Error(words, hint=hint, id="meshes.E009"))
    except Exception as error:  # noqa: BLE001  (whatever keeps it from looking: that is what it tells)
        words = f"Whether FERNET_KEYS open what is stored is not known: {type(error).__name__}."
        return [Info(words, hint="Run it where the database can be reached.", id="meshes.I001")]
    return found


@register(Tags.security, deploy=True)
def check_database_role(**kwargs: Any) -> list[CheckMessage]:
    """`meshes.W005`. Where the database cannot be asked, `I001` says so."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT rolsuper, rolname FROM pg_roles WHERE rolname = current_user")
            is_superuser, role = cursor.fetchone()
    except Exception:  # noqa: BLE001  (whatever keeps it from looking, as above)
        return []
    if not is_superuser:
        return []
    words = (
        f"The role {role} of DATABASE_URL is a superuser of PostgreSQL: no trigger binds it, and it may run commands."
    )
    return [Warning(words, hint='See "Roles in PostgreSQL" in docs/running.md.', id="meshes.W005")]


def warn_of_weak_settings() -> None:
    """A line at WARNING for each, when a process starts."""
    for found in _find_weak_settings():
        logger.warning("%s %s (%s)", found.msg, found.hint, found.id)


@register(Tags.security, deploy=True)
def check_loopback(**kwargs: Any) -> list[CheckMessage]:
    """`meshes.W002`: the stack that runs in this folder delivers to this machine."""
    try:
        state = json.loads((settings.DATA_DIR / "stack.json").read_text())
    except (OSError, ValueError):
        return []
    if not state.get("loopback"):
        return []
    words = "The running stack delivers to this machine (LOOPBACK=1): tenants reach what listens here."
    return [Warning(words, hint="Start it by `make up`, without LOOPBACK=1.", id="meshes.W002")]


def _find_weak_settings() -> Iterator[CheckMessage]:
    yield from _find_weak_secrets()
    yield from _find_weak_access()
    yield from find_clear_text()
    yield from _find_misfits()
    for name, near in unknown_settings().items():
        hint = f"Did you mean {near}?" if near else "docs/running.md has those that are read."
        yield Warning(f"{name} is set, and nothing reads it.", hint=hint, id="meshes.W003")


def _find_weak_access() -> Iterator[CheckMessage]:
    if settings.DEBUG:
        yield _weak(3, "MESHES_DEBUG is on: errors show code and settings to whoever causes them.", "Unset it.")
    if not settings.ALLOWED_HOSTS:
        yield _weak(4, "MESHES_ALLOWED_HOSTS names no host: every request is refused.", "Name one, or unset it.")
    for host in settings.ALLOWED_HOSTS:
        if host == "*":
            words = "MESHES_ALLOWED_HOSTS is *: links and redirects can be made to name any host."
            yield _weak(4, words, "Name the hosts under which Meshes is reached, with commas between them.")
        elif "/" in host:
            words = f"MESHES_ALLOWED_HOSTS has {host!r}, which no request matches."
            yield _weak(4, words, "A host is a name or an address, without https:// and without a path.")
    for name, url in brokers():
        parts = urlsplit(url)
        if not parts.password and not is_local(parts.hostname or ""):
            words = f"{name} names a server on another host, {parts.hostname}, and no password."
            yield _weak(5, words, "Set requirepass there and redis://:<password>@… here.")
    public = urlsplit(settings.MESHES_PUBLIC_URL)
    if validate_host((public.hostname or "").lower(), settings.MESHES_ADMIN_HOSTS):
        words = "MESHES_PUBLIC_URL has a host of MESHES_ADMIN_HOSTS: connect links are not served under it."
        yield _weak(11, words, "Name the host under which the API is reached.")
    if public.scheme == "http" and not is_local(public.hostname or ""):
        words = "MESHES_PUBLIC_URL is http://: connect links and authorizations pass unencrypted."
        yield _weak(6, words, "Begin it with https://.")


@register(Tags.security, deploy=True)
def check_https(**kwargs: Any) -> list[CheckMessage]:
    """`meshes.W004` and `W010`. Not told at the start: a stack on one machine has no certificate."""
    if settings.MESHES_HTTPS and settings.MESHES_TRUSTED_PROXIES:
        return []
    if settings.MESHES_HTTPS:
        words = "MESHES_TRUSTED_PROXIES is not set: whoever reaches web past the proxy can say that he came over https."
        return [Warning(words, hint="Name the addresses or networks of your proxies.", id="meshes.W010")]
    words = "MESHES_HTTPS is 0: cookies of operators may pass unencrypted, and browsers are not held to https."
    return [Warning(words, hint="Set it to 1 behind a proxy that does TLS.", id="meshes.W004")]


@register(Tags.security, deploy=True)
def check_second_factor(**kwargs: Any) -> list[CheckMessage]:
    """`meshes.W006`. Not told at the start: a stack on one machine is its owner's alone."""
    if settings.MESHES_SECOND_FACTOR:
        return []
    words = "MESHES_SECOND_FACTOR is 0: whoever knows an operator's password gets in with it alone."
    return [Warning(words, hint="Set it to 1: operators set up an app at their next login.", id="meshes.W006")]


@register(Tags.security, deploy=True)
def check_flower(**kwargs: Any) -> list[CheckMessage]:
    """`meshes.I002`: Flower would refuse to start with this environment. `up` has a password of its own for it."""
    if env("FLOWER_BASIC_AUTH") or env("MESHES_FLOWER_PASSWORD"):
        return []
    words = "FLOWER_BASIC_AUTH is not set: Flower refuses to start without."
    return [Info(words, hint="Set it to user:password where Flower is to run.", id="meshes.I002")]


@register(Tags.security, deploy=True)
def check_kept_files(**kwargs: Any) -> list[CheckMessage]:
    """`meshes.I003`: a restore would bring back what was erased, or leave the access log without its heads."""
    unset = [name for name in ("MESHES_JOURNAL", "MESHES_SEAL_HEADS") if not getattr(settings, name)]
    hint = "Name a file on another volume than the database: see docs/backup.md."
    return [Info(f"{name} is not set.", hint=hint, id="meshes.I003") for name in unset]


def _find_misfits() -> Iterator[CheckMessage]:
    """Settings that do not fit each other."""
    if not LONGEST_ATTEMPT_SECONDS < settings.MESHES_LEASE_SECONDS < settings.MESHES_LANE_LEASE_SECONDS:
        words = "MESHES_LEASE_SECONDS and MESHES_LANE_LEASE_SECONDS do not fit: deliveries may run twice at once."
        yield _weak(7, words, f"The first is above {LONGEST_ATTEMPT_SECONDS}, and the second above the first.")
    ages = settings.MESHES_RETENTION
    for name, setting, owner in OWNED:
        if ages[name] > ages[owner]:
            words = (
                f"{name.replace('_', ' ').capitalize()} are to be kept for longer than {owner}, which take them along."
            )
            yield _weak(8, words, f"{setting} is {ages[owner].days} at most.")


OWNED = (
    ("payloads", "MESHES_RETENTION_PAYLOAD_DAYS", "events"),
    ("routing_ledgers", "MESHES_RETENTION_LEDGER_DAYS", "events"),
    ("deliveries", "MESHES_RETENTION_DELIVERY_DAYS", "events"),
    ("attempts", "MESHES_RETENTION_ATTEMPT_DAYS", "deliveries"),
)
"""Tables, the settings of their ages, and the tables whose rows take theirs along."""

MAKE_KEY = 'python -c "import secrets; print(secrets.token_urlsafe({bytes}))"'
RIGHT_SECRET_KEY = f"Right: {SECRET_KEY_LENGTH} random characters or more, {MAKE_KEY.format(bytes=48)}."
RIGHT_FERNET_KEY = (
    f"Right: 32 random bytes in URL-safe base64, {MAKE_KEY.format(bytes=32)}; then rotate, see docs/vault.md."
)


def _find_weak_secrets() -> Iterator[CheckMessage]:
    """Of those that this process holds."""
    text = settings.SECRET_KEY if "SECRET_KEY" in settings.MESHES_SECRETS else None
    keys = settings.FERNET_KEYS if "FERNET_KEYS" in settings.MESHES_SECRETS else []
    first, others = (keys[0], keys[1:]) if keys else (None, [])
    if text is not None:
        is_short = len(text) < SECRET_KEY_LENGTH or len(set(text)) < SECRET_KEY_CHARACTERS
        if is_short or text.startswith("django-insecure-"):
            words = "SECRET_KEY is weak: sessions of operators and connect links can be forged by whoever guesses it."
            yield _weak(1, words, RIGHT_SECRET_KEY)
        elif text == first:
            yield _weak(2, "The first of FERNET_KEYS, which seals credentials, is SECRET_KEY too.", RIGHT_FERNET_KEY)
    if first is not None and not is_well_formed(first):
        yield _weak(2, "The first of FERNET_KEYS, which seals credentials, is no key.", RIGHT_FERNET_KEY)
    elif first is not None and not is_strong(first):
        yield _weak(2, "The first of FERNET_KEYS, which seals credentials, is weak.", RIGHT_FERNET_KEY)
    if any(not is_well_formed(key) for key in others if key.strip() == key):
        words = "One of FERNET_KEYS behind the first is no key. It opens what it has sealed."
        yield Warning(words, hint="Re-seal by `manage.py rotate_encryption_keys`, then take it out.", id="meshes.W001")


def _weak(number: int, words: str, hint: str) -> Error:
    return Error(words, hint=hint, id=f"meshes.E{number:03}")


# --- what passes in clear ---------------------------------------------------------------------------------------------

# Whether what goes to PostgreSQL and to Valkey is encrypted and reaches whom it is for: `meshes.E020` to `E022`.
# Payloads pass to the one and ids to the other, and with the first word of each a password. What stays on this machine
# may pass in clear, and what goes to a host that MESHES_CLEAR_TEXT_HOSTS names.

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
