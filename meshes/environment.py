"""Reads settings from the environment: each by its name, and with what is right where it cannot be read.

What is secret may stand in a file instead, which `NAME_FILE` names. A variable that is unset or empty falls back to
what a stack of `make up` keeps in its folder: its secrets and servers, and while it runs the settings that it was
started with. So a command in a second terminal has those of the stack. All functions raise ImproperlyConfigured with
one line, in which no value stands that may hold a password; a process that cannot work ends with it, without a
traceback.
"""

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

import dj_database_url
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError

from meshes.kit.spelling import nearest, none_of
from meshes.services import SECRETS_OF
from workspaces.vault.secret import refuse_unsound

PROJECT = Path(__file__).resolve().parent.parent
RUN_ID = "MESHES_RUN_ID"
"""The environment variable by which every process of one run is known, also after its supervisor was killed."""
MOST = 2**31 - 1
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
PREFIX = "MESHES_"
READ_ELSEWHERE = (
    *("MESHES_DATA_DIR", "MESHES_RUN_ID", "MESHES_PORT", "MESHES_FLOWER_PORT"),  # by `up`
    *("MESHES_ADMIN_PASSWORD", "MESHES_FLOWER_PASSWORD", "MESHES_ACCOUNT_KEY"),
    *("MESHES_BIND", "MESHES_IMAGE", "MESHES_FLOWER_IMAGE"),  # by compose.yaml
    *("MESHES_TEST_PATIENCE", "MESHES_FAULT_ROUNDS"),  # by the tests
)
"""Variables that are no settings."""
SECRETS = (
    *("SECRET_KEY", "SECRET_KEY_FALLBACKS", "FERNET_KEYS", "MESHES_OAUTH_CLIENTS"),
    *("DATABASE_URL", "MESHES_DIRECT_DATABASE_URL", "POSTGRES_PASSWORD"),
    *("REDIS_URL", "MESHES_REDIS_SHARDS", "VALKEY_PASSWORD"),
    *("FLOWER_BASIC_AUTH", "MESHES_ADMIN_PASSWORD", "MESHES_FLOWER_PASSWORD"),
)
"""Variables that are secret, or that may hold a password: each may be in a file, which `NAME_FILE` names."""
_LOGIN = re.compile(r"[!-+\--9;-~]+:[ -+\--~]+")
_HOST_PATTERN = re.compile(r"\.?[a-z0-9-]+(\.[a-z0-9-]+)*|\[[0-9a-f:.]+\]")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]\\]+")


def data_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """MESHES_DATA_DIR, or ``.meshes`` beside manage.py."""
    return Path(environment.get("MESHES_DATA_DIR") or PROJECT / ".meshes")


def parse_variables(text: str) -> dict[str, str]:
    """The lines ``NAME=value`` of a file such as ``stack.env``."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


@cache
def _defaults() -> dict[str, str]:
    """What the stack of `make up` keeps; read with the first setting, as `up` and `demo` choose their folder first."""
    kept: dict[str, str] = {}
    for name in ("stack.env", "run.env"):
        with suppress(OSError, UnicodeDecodeError):
            kept |= parse_variables((data_folder() / name).read_text())
    return kept


_asked: set[str] = set()


def env(name: str, default: str = "") -> str:
    _asked.add(name)
    return _given(name, os.environ) or _defaults().get(name) or default


def read_secret_files(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment with the secrets themselves in the place of the names of their files."""
    files = {f"{name}_FILE" for name in SECRETS}
    read = {name: text for name in SECRETS if (text := _given(name, environment))}
    return {name: value for name, value in environment.items() if name not in files} | read


def _given(name: str, environment: Mapping[str, str]) -> str:
    text = environment.get(name, "")
    path = environment.get(f"{name}_FILE", "") if name in SECRETS else ""
    if not path:
        return text
    if text:
        raise ImproperlyConfigured(f"{name} and {name}_FILE are both set: only one may be.")
    try:
        text = Path(path).read_text().rstrip("\r\n")
    except (OSError, ValueError):  # a ValueError of what is no text in UTF-8, or no path
        raise ImproperlyConfigured(f"{name}_FILE must be a file that can be read, not {path!r}.") from None
    if not text.strip():
        raise ImproperlyConfigured(f"{name}_FILE is {path!r}, which is empty.")
    return text


def envsecret(name: str) -> str:
    value = env(name)
    if not value.strip():
        raise ImproperlyConfigured(
            f"{name} is not set. `make up` generates it; in production set it in the environment."
        )
    return value


def envbool(name: str, default: bool) -> bool:
    text = env(name, str(int(default))).strip().lower()
    if text not in {"0", "1", "true", "false", "yes", "no"}:
        raise ImproperlyConfigured(f"{name} must be 0 or 1, not {text!r}.")
    return text in {"1", "true", "yes"}


def envint(name: str, default: int, least: int = 1, most: int = MOST) -> int:
    text = env(name, str(default))
    try:
        value = int(text)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be an integer, not {text!r}.") from None
    if not least <= value <= most:
        raise ImproperlyConfigured(f"{name} must be an integer from {least} to {most}, not {text!r}.")
    return value


def envchoice(name: str, options: Collection[str], default: str) -> str:
    """One of the options, which are in capitals, in letters of either size."""
    text = env(name, default).strip().upper()
    if text not in options:
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(options)}, not {text!r}.")
    return text


def envlist(name: str, default: str = "") -> list[str]:
    return [item.strip() for item in env(name, default).split(",") if item.strip()]


def envpairs(name: str) -> dict[str, str]:
    """`key=value` pairs, separated by commas."""
    pairs = [item.partition("=") for item in envlist(name)]
    if wrong := [key for key, sign, value in pairs if not (key.strip() and sign and value.strip())]:
        raise ImproperlyConfigured(f"{name} must be pairs like hubspot=https://…, not {wrong[0]!r}.")
    return {key.strip(): value.strip() for key, _, value in pairs}


def envkeys(name: str) -> list[str]:
    """Secret keys, separated by commas, without the blanks around them.

    Blanks once belonged to a key, so what such a key has sealed still opens: it stands behind all others.
    """
    texts = [text for text in envsecret(name).split(",") if text.strip()]
    if not texts:
        raise ImproperlyConfigured(f"{name} must be one key or more, with a comma between two.")
    return [text.strip() for text in texts] + [text for text in texts if text != text.strip()]


def envnets(name: str) -> list[str]:
    nets = envlist(name)
    for net in nets:
        try:
            ip_network(net)
        except ValueError as error:
            raise ImproperlyConfigured(f"{name} must be networks such as 10.1.0.0/16: {error}.") from None
    return nets


def envports(name: str, default: str) -> list[int] | Literal["*"]:
    texts = envlist(name, default)
    if texts == ["*"]:
        return "*"
    if not texts or not all(text.isascii() and text.isdecimal() and 0 < int(text[:9]) < 65536 for text in texts):
        raise ImproperlyConfigured(
            f"{name} must be ports from 1 to 65535 with a comma between two, or * for any, not {env(name, default)!r}."
        )
    return [int(text) for text in texts]


def envlogins(name: str) -> list[str]:
    """Logins for HTTP basic authentication, user:password, separated by commas."""
    logins = env(name).split(",") if env(name) else []
    check_logins(name, logins)
    return logins


def check_logins(name: str, logins: Collection[str]) -> None:
    """Raise ImproperlyConfigured for one that Flower could not compare with what a browser sends."""
    if not all(_LOGIN.fullmatch(login) for login in logins):
        raise ImproperlyConfigured(f"{name} must be user:password, in ASCII, with a comma between two such.")


def envvendors(name: str, slugs: Collection[str], known: Collection[str]) -> None:
    """Refuse what a setting says of vendors that there are not: it would be for nobody."""
    for slug in slugs:
        if slug not in known:
            raise ImproperlyConfigured(f"{name} must be of integrations that there are: {none_of(slug, known)}")


def known_settings() -> set[str]:
    """All variables that something reads; to be asked when the settings have been read."""
    return _asked | set(READ_ELSEWHERE) | {f"{name}_FILE" for name in SECRETS}


def unknown_settings() -> dict[str, str | None]:
    """Variables named as ours are that nothing reads, each with the nearest that is read; None where none is near."""
    known = {name.removeprefix(PREFIX) for name in known_settings() if name.startswith(PREFIX)}
    given = {name.removeprefix(PREFIX) for name in os.environ.keys() | _defaults().keys() if name.startswith(PREFIX)}
    near = {name: nearest(name, known) for name in sorted(given - known)}
    return {PREFIX + name: found and PREFIX + found for name, found in near.items()}


def envfile(name: str) -> str:
    """The path of a file that can be read; empty where it is unset."""
    path = env(name)
    if path and not os.access(path, os.R_OK):
        raise ImproperlyConfigured(f"{name} must be a file that can be read, not {path!r}.")
    return path


def envappended(name: str) -> str:
    """The path of a file to which lines can be added, in a folder that is there; empty where it is unset."""
    path = env(name)
    folder = os.path.dirname(path) or "."
    if path and not (os.path.isdir(folder) and os.access(path if os.path.exists(path) else folder, os.W_OK)):
        raise ImproperlyConfigured(f"{name} must be a file that can be written, not {path!r}.")
    return path


def envurl(name: str) -> str:
    """The base of web pages, `https://meshes.example.com`; empty where it is unset."""
    text = env(name).strip()
    if text and not is_base_url(text):
        raise ImproperlyConfigured(f"{name} must be a URL such as https://meshes.example.com.")
    return text


def envurls(name: str) -> dict[str, str]:
    """Pairs of a word and the base of a URL."""
    urls = envpairs(name)
    for key, url in urls.items():
        if not is_base_url(url):
            raise ImproperlyConfigured(f"{name} must be pairs like {key}=https://proxy.example.com.")
    return {key: url.rstrip("/") for key, url in urls.items()}


def envhosts(name: str) -> list[str]:
    """Names or addresses of hosts; with a full stop in front, a domain with all below it."""
    hosts = [host.lower() for host in envlist(name)]
    for host in hosts:
        if not _HOST_PATTERN.fullmatch(host):
            raise ImproperlyConfigured(
                f"{name} must be hosts such as admin.example.com, without https:// and port, not {host!r}."
            )
    return hosts


def envorigins(name: str) -> list[str]:
    origins = envlist(name)
    for origin in origins:
        if not is_base_url(origin.replace("://*.", "://")):
            raise ImproperlyConfigured(f"{name} must be origins such as https://meshes.example.com, not {origin!r}.")
    return origins


def envpostgres() -> str:
    """DATABASE_URL, or what POSTGRES_HOST and its like make of a password of any characters."""
    if (url := env("DATABASE_URL")) or not (host := env("POSTGRES_HOST")):
        return url or "postgresql://meshes@/meshes"
    user, password, name = env("POSTGRES_USER", "meshes"), env("POSTGRES_PASSWORD"), env("POSTGRES_DB", "meshes")
    if not password:
        raise ImproperlyConfigured("POSTGRES_PASSWORD is not set, and neither is DATABASE_URL.")
    return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{host}/{quote(name, safe='')}"


def envbroker() -> str:
    """REDIS_URL, or what VALKEY_HOST and VALKEY_PASSWORD make."""
    url = env("REDIS_URL")
    if not url and (host := env("VALKEY_HOST")):
        if not (password := env("VALKEY_PASSWORD")):
            raise ImproperlyConfigured("VALKEY_PASSWORD is not set, and neither is REDIS_URL.")
        url = f"redis://:{quote(password, safe='')}@{host}:6379/0"
    return _redis_url("REDIS_URL", url or "redis://127.0.0.1:6379/0")


def envservice() -> str:
    """Which service this process is; empty where one environment serves all."""
    service = env("MESHES_SERVICE")
    if service and service not in SECRETS_OF:
        raise ImproperlyConfigured(f"MESHES_SERVICE must be one of {', '.join(SECRETS_OF)}, not {service!r}.")
    return service


def envshards(name: str, default: str) -> list[str]:
    """The URLs of several."""
    return [_redis_url(name, url) for url in envlist(name, default)]


def envdatabase(name: str, default: str, **options: Any) -> dict[str, Any]:
    """A database of Django's, by its URL."""
    right = f"{name} must be a URL such as postgresql://user:password@host:5432/name, parts of it percent-encoded."
    text = env(name, default)
    if text.partition("://")[0] not in {"postgresql", "postgres", "pgsql"}:
        raise ImproperlyConfigured(f"{right} Meshes runs on PostgreSQL alone.")
    try:
        database = dict[str, Any](dj_database_url.parse(text, **options))
    except ValueError:
        raise ImproperlyConfigured(right) from None
    if not database["NAME"] and "service" not in database.get("OPTIONS", {}):
        raise ImproperlyConfigured(f"{right} It names no database.")
    return database


def is_base_url(text: str) -> bool:
    """Whether this is an http(s) URL of scheme, host, and perhaps port and path, and nothing else."""
    parts = _split(text)
    if parts is None or parts.scheme not in {"https", "http"} or parts.query or parts.fragment:
        return False
    host, colon, _ = parts.netloc.rpartition(":") if re.search(r":\d*$", parts.netloc) else (parts.netloc, "", "")
    return _HOST.fullmatch(host) is not None and not (colon and parts.port is None)


def _redis_url(name: str, text: str) -> str:
    parts = _split(text)
    if parts is None or parts.scheme not in {"redis", "rediss"} or not re.fullmatch(r"/?[0-9]*", parts.path):
        raise ImproperlyConfigured(
            f"{name} must be a URL such as redis://:password@host:6379/0 or rediss://…, its password percent-encoded."
        )
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):  # of which kombu makes: none
        return parts._replace(query="&".join(filter(None, (parts.query, "ssl_cert_reqs=required")))).geturl()
    return text


def _split(text: str) -> SplitResult | None:
    """The parts of a URL whose port is a number; None for what is no URL."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme and text.isprintable() and " " not in text else None


# --- what ends a process that cannot work -----------------------------------------------------------------------------

READ_NO_DATA = frozenset({"help", "--help", "-h", "version", "--version", "makemigrations", "write_integration_docs"})
"""Commands of `manage.py` that neither seal nor open anything."""


def refuse_unsound_keys(command: str = "") -> None:
    """Raise ImproperlyConfigured where FERNET_KEYS may not seal: before a process serves, or a command runs."""
    if command not in READ_NO_DATA and settings.FERNET_KEYS:  # which not every service has
        refuse_unsound(settings.FERNET_KEYS)


@contextmanager
def exit_where_misconfigured(code: int = 1) -> Iterator[None]:
    """Around whatever loads the settings first: `manage.py`, the web server's module, Celery's module."""
    try:
        yield
    except ImproperlyConfigured as error:
        sys.stderr.write(f"Meshes cannot start: {' '.join(str(error).split())}\n")
        sys.exit(code)


@contextmanager
def exit_without_database() -> Iterator[None]:
    """Around a command of `manage.py`: where PostgreSQL takes no connection, that is all there is to say."""
    try:
        yield
    except OperationalError as error:
        if getattr(error.__cause__, "pgcode", None):  # the server answered a statement
            raise
        sys.stderr.write(f"{words_of(error)}\n")
        sys.exit(1)


def words_of(error: OperationalError) -> str:
    """Why PostgreSQL cannot be reached, in one line. libpq names server and user, and never a password."""
    return f"PostgreSQL cannot be reached: {' '.join(str(error).split())}"
