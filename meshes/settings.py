"""All settings of Meshes, read once from the environment (`meshes.environment`).

What must not be guessed has no default, and what cannot be read refuses the start: it fails loudly. What can be read
and is weak, `meshes.checks` tells.
"""

import os
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from connections.oauth.tokens import read_clients
from meshes import services
from meshes.environment import (
    LEVELS,
    RUN_ID,
    data_folder,
    env,
    envappended,
    envbool,
    envbroker,
    envchoice,
    envdatabase,
    envfile,
    envhosts,
    envint,
    envkeys,
    envlist,
    envlogins,
    envnets,
    envorigins,
    envports,
    envpostgres,
    envsecret,
    envservice,
    envshards,
    envurl,
    envurls,
    envvendors,
)
from meshes.logs import to_stderr

DATA_DIR = data_folder()

# --- secrets and servers -------------------------------------------------------------------------------------------

MESHES_SERVICE = envservice()
"""Which service this process is, where each has an environment of its own and so not the others' secrets."""
MESHES_SECRETS = services.SECRETS_OF.get(MESHES_SERVICE, frozenset({"SECRET_KEY", "FERNET_KEYS"}))
"""The secrets that this process is to have. Django and the vault raise where one that it lacks is used."""
SECRET_KEY = envsecret("SECRET_KEY") if "SECRET_KEY" in MESHES_SECRETS else env("SECRET_KEY")
SECRET_KEY_FALLBACKS = envlist("SECRET_KEY_FALLBACKS")
"""Former SECRET_KEYs, by which what was made under them is still accepted; see docs/rotation.md."""
FERNET_KEYS = envkeys("FERNET_KEYS") if "FERNET_KEYS" in MESHES_SECRETS else []
"""Keys that seal credentials, newest first. Never derived from SECRET_KEY: see docs/vault.md."""

MESHES_SEALING = envchoice("MESHES_SEALING", ("FERNET", "AES-256-GCM"), "FERNET")
"""How sealed documents are encrypted from now on; both open. See docs/vault.md."""

DATABASE_URL = envpostgres()
MESHES_DIRECT_DATABASE_URL = env("MESHES_DIRECT_DATABASE_URL", DATABASE_URL)
"""The same database past any proxy that pools connections: for locks that die with a process. See docs/running.md."""
REDIS_URL = envbroker()
MESHES_REDIS_SHARDS = envshards("MESHES_REDIS_SHARDS", REDIS_URL)
"""All brokers. Each workspace is on one of them; a worker serves one, its own REDIS_URL. See docs/lanes.md."""
if REDIS_URL not in MESHES_REDIS_SHARDS:
    raise ImproperlyConfigured("MESHES_REDIS_SHARDS must name REDIS_URL too: a worker would serve nobody.")
MESHES_CLEAR_TEXT_HOSTS = [host.lower() for host in envlist("MESHES_CLEAR_TEXT_HOSTS")]
"""Hosts of servers to which passwords and payloads may pass unencrypted: see docs/running.md."""
DATABASES = {"default": envdatabase("DATABASE_URL", DATABASE_URL, conn_max_age=600, conn_health_checks=True)}
DATABASES["default"]["OPTIONS"] = {
    # A server that is gone without a word is noticed within 15 s, not after the quarter of an hour that TCP would try.
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
} | DATABASES["default"].get("OPTIONS", {})
DATABASES["direct"] = envdatabase(
    "MESHES_DIRECT_DATABASE_URL", MESHES_DIRECT_DATABASE_URL, conn_max_age=600, conn_health_checks=True
)
DATABASES["direct"]["TEST"] = {"MIRROR": "default"}
DATABASES["direct"]["OPTIONS"] = {
    # A worker must know that its session is gone about as soon as PostgreSQL does: see delivery/dispatch/sessions.py.
    "connect_timeout": 5,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
} | DATABASES["direct"].get("OPTIONS", {})

MESHES_JOURNAL = envappended("MESHES_JOURNAL")
"""A file outside the database, to which each erasure, deletion and revocation is added: see docs/backup.md."""
MESHES_SEAL_HEADS = envappended("MESHES_SEAL_HEADS")
"""A file outside the database, to which the sweeper adds the head of each seal of the access log."""

envint("WEB_CONCURRENCY", 1)  # which the web server reads by itself

# --- Django --------------------------------------------------------------------------------------------------------

DEBUG = envbool("MESHES_DEBUG", False)
ALLOWED_HOSTS = envlist("MESHES_ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]")
MESHES_ADMIN_HOSTS = envhosts("MESHES_ADMIN_HOSTS")
"""Hosts under which the admin answers, and nothing else does; empty: all hosts are for everything."""
ALLOWED_HOSTS += [host for host in MESHES_ADMIN_HOSTS if host not in ALLOWED_HOSTS]
CSRF_TRUSTED_ORIGINS = envorigins("MESHES_CSRF_TRUSTED_ORIGINS")
CSRF_FAILURE_VIEW = "meshes.api.problems.csrf_failure"
ROOT_URLCONF = "meshes.urls"
WSGI_APPLICATION = "meshes.wsgi.application"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
WHITENOISE_USE_FINDERS = True
APPEND_SLASH = False

INSTALLED_APPS = [
    "meshes.console.apps.OperatorsAdminConfig",
    "meshes.console.apps.SigninConfig",  # whose createsuperuser stands in the place of that of
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "corsheaders",
    "meshes",
    "meshes.console.apps.ConsoleConfig",
    *(["meshes.dev"] if find_spec("meshes.dev") else []),  # not in the production image
    "workspaces",
    "connections",
    "delivery",
]

MIDDLEWARE = [
    "meshes.middleware.AnswerHeaders",
    "meshes.middleware.RequireHttps",
    "django.middleware.security.SecurityMiddleware",
    "meshes.middleware.AdminHosts",
    "meshes.middleware.PageMethods",
    "meshes.middleware.CountRefusals",
    "meshes.middleware.GuessLimits",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "meshes.middleware.SessionActivity",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "meshes.api.views.ChunkedBodies",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [
            Path(__file__).parent / "templates",
            Path(__file__).parent / "console" / "templates",
        ],  # before those of Django's admin
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "libraries": {"operators": "meshes.console.display"},
        },
    },
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 15}},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "meshes.console.signin.passwords.GuessablePasswordValidator"},
    {"NAME": "meshes.console.signin.passwords.BreachedPasswordValidator"},
]
MESHES_PASSWORD_WORDS = envlist("MESHES_PASSWORD_WORDS")
"""More words that count for nothing in an operator's password, such as the name of your organisation."""

AUTHENTICATION_BACKENDS = ["meshes.console.signin.passwords.GuardedBackend"]
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"  # what they name stays out of cookies
MESHES_SECOND_FACTOR = envbool("MESHES_SECOND_FACTOR", False)
"""Whether every operator needs a second factor; who has set one up is asked for it either way."""
SESSION_ENGINE = "meshes.console.signin.sessions"
MESHES_SESSION_IDLE_SECONDS = envint("MESHES_SESSION_IDLE_SECONDS", 30 * 60)
"""After so long without a request an operator logs in again."""
MESHES_SESSION_SECONDS = SESSION_COOKIE_AGE = envint("MESHES_SESSION_SECONDS", 12 * 60 * 60)
"""After so long an operator logs in again in any case."""
MESHES_HTTPS = envbool("MESHES_HTTPS", False)
"""Whether browsers and programs reach Meshes by a proxy that does TLS: see meshes/middleware.py."""
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = MESHES_HTTPS
_prefix = "__Host-" if MESHES_HTTPS else ""
SESSION_COOKIE_NAME = f"{_prefix}sessionid"
CSRF_COOKIE_NAME = f"{_prefix}csrftoken"
CSRF_COOKIE_HTTPONLY = True  # forms bring the token along
MESHES_DEVICE_COOKIE_NAME = f"{_prefix}meshes_device"
SECURE_HSTS_SECONDS = 31_536_000 if MESHES_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
SECURE_CONTENT_TYPE_NOSNIFF = True
SILENCED_SYSTEM_CHECKS = [
    # Told in words of our own, by meshes.checks: MESHES_HTTPS,
    *("security.W004", "security.W011", "security.W012", "security.W016"),
    # SECRET_KEY, MESHES_DEBUG and MESHES_ALLOWED_HOSTS.
    *("security.W009", "security.W018", "security.W020"),
    "security.W008",  # redirects to https are made by meshes.middleware
    "security.W021",  # an operator's domain is not ours to enter in browsers' lists
]

# --- API -----------------------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["workspaces.authentication.KeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["workspaces.authentication.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "meshes.api.schema.ProblemSchema",
    "EXCEPTION_HANDLER": "meshes.api.problems.problem_response",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Meshes API",
    "DESCRIPTION": "Post one event; Meshes routes, shapes and delivers it to each customer's own destinations.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [],  # enums stay where they are used: several fields are called "status"
}

MESHES_BODY_LIMIT = 256 * 1024
"""Bytes of one request body; a bulk request may carry MESHES_BULK_BODY_LIMIT, each of its events this much."""
MESHES_BULK_BODY_LIMIT = 8 * 1024 * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = MESHES_BULK_BODY_LIMIT
MESHES_HEADER_SECONDS = envint("MESHES_HEADER_SECONDS", 10)
"""In which the header of a request must have arrived, from the opening of the connection or its first byte."""
MESHES_BODY_SECONDS = envint("MESHES_BODY_SECONDS", 30)
"""In which a body must have arrived, and in which an answer must have been taken."""
MESHES_INGEST_RATE = envint("MESHES_INGEST_RATE", 1_000)
"""Events per second that one workspace may post, unless the workspace brings its own rate."""
MESHES_INGEST_KEY_RATE = envint("MESHES_INGEST_KEY_RATE", 10_000)
"""Events per second that one key may post, to all its workspaces together."""
MESHES_API_RATE = envint("MESHES_API_RATE", 200)
"""Requests per second that one key may make, but for posting events: those have the rates above."""
MESHES_SEARCHES = envint("MESHES_SEARCHES", 2)
"""Searches that no index serves that one key may make at a time; see workspaces.endpoints."""
MESHES_RULES_PER_WORKSPACE = envint("MESHES_RULES_PER_WORKSPACE", 500)
"""Rules that a workspace may have when one more is made: all of them share what one event may cost."""
MESHES_KEYS_PER_WORKSPACE = envint("MESHES_KEYS_PER_WORKSPACE", 100)
"""Live keys that a workspace may have when one more is made: each has a rate of its own."""
MESHES_WEB_THREADS = services.WEB_THREADS
"""Threads of one web process; a quarter of them may wait for vendors and receivers."""
MESHES_CONNECTION_TESTS = envint("MESHES_CONNECTION_TESTS", 10)
"""Tests of connections a minute that one workspace may make."""
MESHES_WRONG_KEYS = envint("MESHES_WRONG_KEYS", 120)
"""Wrong keys a minute from one address; above, a wrong one is answered 429. A right one is never refused for them."""
MESHES_WRONG_PASSWORDS = envint("MESHES_WRONG_PASSWORDS", 10)
"""Wrong passwords of operators a minute from one address; above, the next one is tried some seconds later."""
MESHES_TRUSTED_PROXIES = envnets("MESHES_TRUSTED_PROXIES")
"""Networks whose `X-Forwarded-For` is believed; once it is set, `X-Forwarded-Proto` of these alone."""
MESHES_TOKEN_AUDIENCE = env("MESHES_TOKEN_AUDIENCE", "meshes-api")
"""What `aud` of a machine token must be."""
MESHES_BACKLOG_LIMIT = envint("MESHES_BACKLOG_LIMIT", 1_000_000, least=0)
"""Open deliveries and unrouted events of one workspace above which new events are answered 429."""

CORS_ALLOW_ALL_ORIGINS = False
CORS_URLS_REGEX = r"^/api/v1/events$"
"""And there only the origins that a publishable key lists: see workspaces.authentication."""
CORS_ALLOW_METHODS = ["POST"]
CORS_ALLOW_HEADERS = ["authorization", "content-type", "idempotency-key"]
CORS_EXPOSE_HEADERS = ["retry-after"]
CORS_PREFLIGHT_MAX_AGE = 600

# --- lanes and workers ---------------------------------------------------------------------------------------------

MESHES_LEASE_SECONDS = envint("MESHES_LEASE_SECONDS", 60)
"""A claim's lease: above the longest outbound deadline (30 s) plus settling, below a lane's lease."""
MESHES_LANE_LEASE_SECONDS = envint("MESHES_LANE_LEASE_SECONDS", 90)
"""A message's lease in its lane: what a lost worker had taken goes back to its lane after this."""
CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SEND_TASK_EVENTS = envbool("MESHES_TASK_EVENTS", True)  # each task is seen in Flower

# --- the outbound client -------------------------------------------------------------------------------------------

MESHES_OUTBOUND_ALLOW_NETS = envnets("MESHES_OUTBOUND_ALLOW_NETS")
envfile("SSL_CERT_FILE")  # OpenSSL's variable, which the client reads by itself
MESHES_OUTBOUND_ALLOW_HTTP = envbool("MESHES_OUTBOUND_ALLOW_HTTP", False)
MESHES_OUTBOUND_PORTS = envports("MESHES_OUTBOUND_PORTS", "443")
MESHES_OWN_PORTS: list[int] = []
if env("MESHES_OWN_PORTS"):
    MESHES_OWN_PORTS = [port for port in envports("MESHES_OWN_PORTS", "") if isinstance(port, int)]
"""Loopback ports of the stack itself, which `make up` names: no delivery reaches them, whatever is allowed."""
MESHES_LOOPBACK_WORDS = (
    "This stack does not deliver to this machine. Start it by `make up LOOPBACK=1`, and it does, for that run."
    if RUN_ID in os.environ
    else ""
)
"""What is said of a URL on this machine, by a stack that somebody tries out there."""
envlogins("FLOWER_BASIC_AUTH")  # which meshes.monitor reads by itself,
envbool("MESHES_FLOWER_CONTROL", False)  # as this
MESHES_FLOWER_URL = envurl("MESHES_FLOWER_URL")
"""Where the page at `/` says that Flower is; empty leaves it out."""
MESHES_OUTBOUND_TIMEOUT_SECONDS = 15
"""Deadline of one delivery unless its connection sets `limits.timeout` (1 to 30 s)."""

# --- retention -----------------------------------------------------------------------------------------------------

_longest = 36_500
_events = envint("MESHES_RETENTION_EVENT_DAYS", 120, most=_longest)
MESHES_RETENTION = {
    "events": timedelta(days=_events),
    "payloads": timedelta(days=envint("MESHES_RETENTION_PAYLOAD_DAYS", min(90, _events), most=_longest)),
    "routing_ledgers": timedelta(days=envint("MESHES_RETENTION_LEDGER_DAYS", _events, most=_longest)),
    "deliveries": timedelta(days=envint("MESHES_RETENTION_DELIVERY_DAYS", _events, most=_longest)),
    "attempts": timedelta(days=envint("MESHES_RETENTION_ATTEMPT_DAYS", min(30, _events), most=_longest)),
    "access_records": timedelta(days=envint("MESHES_RETENTION_ACCESS_DAYS", 365, most=_longest)),
}
"""How long the rows of each partitioned table are kept. An event takes along what belongs to it, a delivery its
attempts."""

# --- destinations --------------------------------------------------------------------------------------------------

MESHES_PROVIDERS = [
    "connections.providers.webhook",
    "connections.providers.hubspot",
    "connections.providers.salesforce",
    "connections.providers.intercom",
    "connections.providers.pipedrive",
    "connections.providers.klaviyo",
    "connections.providers.customerio",
    "connections.providers.mailchimp",
    "connections.providers.zoho",
    "connections.providers.slack",
    "connections.providers.discord",
    "connections.providers.teams",
    "connections.providers.resend",
    "connections.providers.segment",
    "connections.providers.mixpanel",
    "connections.providers.amplitude",
    "connections.providers.posthog",
    "connections.providers.ga4",
]
_slugs = [path.rpartition(".")[2] for path in MESHES_PROVIDERS]  # a provider's module is named as its integration
MESHES_VENDOR_URLS = envurls("MESHES_VENDOR_URLS")
envvendors("MESHES_VENDOR_URLS", MESHES_VENDOR_URLS, _slugs)
"""What stands for a vendor's own hosts, such as a test server or a proxy: `hubspot=https://hubspot.example.com, …`."""
try:
    MESHES_OAUTH_CLIENTS = read_clients(env("MESHES_OAUTH_CLIENTS"))
except ValueError as error:
    _form = 'hubspot=<client id>:<client secret>,… or {"hubspot": {"id": "…", "secret": "…"}}'
    raise ImproperlyConfigured(f"MESHES_OAUTH_CLIENTS must be {_form}: {error}.") from None
envvendors("MESHES_OAUTH_CLIENTS", MESHES_OAUTH_CLIENTS, _slugs)
"""The installation's apps at vendors: `hubspot=<client id>:<client secret>,…` or a JSON object; see docs/oauth.md."""
MESHES_PUBLIC_URL = envurl("MESHES_PUBLIC_URL")
"""Where browsers reach Meshes, `https://meshes.example.com`; unset: where the request came in."""
MESHES_OAUTH_CALLBACK = envchoice("MESHES_OAUTH_CALLBACK", ("AUTO", "SHARED", "VENDOR"), "AUTO").lower()
"""The redirect URI of new authorizations: `/oauth/callback/<vendor>`, or `/oauth/callback` for all vendors. `auto` goes
on with the latter while connections are authorized by it, because that is what their apps have registered."""

# --- logging -------------------------------------------------------------------------------------------------------

LOGGING = to_stderr(
    envchoice("MESHES_LOG_LEVEL", LEVELS, "INFO"),
    {
        "django.request": {"level": "ERROR"},
        "django.server": {"handlers": ["stderr"], "propagate": False},  # which would write in a form of its own
        "django.security.DisallowedHost": {"level": "CRITICAL"},  # a scanner's Host header is no error of ours
        "workspaces.vault.access_log": {"level": "INFO"},  # the heads of the chain: evidence, whatever else is left out
        "celery.worker.strategy": {"level": "WARNING"},  # two lines a task; what came of it stands in the database
        "celery.app.trace": {"level": "WARNING"},
    },
)
