"""What a provider is: a declaration, and two pure functions.

A provider file declares itself (slug, fields, actions, limits) and writes `build_request`, from a shipment to the HTTP
request, and, where the status alone does not tell, `classify`, from the answer to a verdict. It touches neither the
database nor a socket: everything it may know is in the `Shipment`. Vendors with a JSON API start from
`connections.providers.vendor.Vendor`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit, urlunsplit

from connections.messages import OutboundError, Request, Response
from connections.providers.fields import (
    Field,
    FieldProblem,
    InvalidFields,
    NotAuthorized,
    Unsendable,
    clean,
)
from connections.providers.verdicts import (
    Outcome,
    Verdict,
    of_repeatable,
    read_answer,
    with_known_end,
)

__all__ = [
    "CLIENT_CREDENTIALS", "Account", "Action", "Choice", "Exchange", "Field", "FieldProblem", "Granted",
    "InvalidFields", "Limits", "MappingField", "NotAuthorized", "OAuth", "Outcome", "Provider", "Shipment",
    "Unsendable", "Verdict",
]  # fmt: skip

Auth = Literal["none", "secret", "url", "api_key", "basic", "bearer", "oauth2"]
FieldKind = Literal["any", "string", "number", "boolean", "object", "array"]
Grant = Literal["authorization_code", "client_credentials"]

FIELD_IN_URL = re.compile(r"\{([a-z][a-z0-9_]*)\}")
"""A config field that a declared URL names."""

CODE_ENDED = frozenset({"invalid_grant"})
"""RFC 6749, section 5.2: the refresh token is invalid, expired or revoked."""
CLIENT_REFUSED = CODE_ENDED | {"invalid_client", "unauthorized_client", "invalid_scope", "unsupported_grant_type"}
"""Where the client is the customer's own, whatever is said against it is the customer's to fix."""


@dataclass(frozen=True, slots=True)
class MappingField:
    """A field of the body that a rule's mapping makes.

    `key` is its dotted path. `source` is the default, a JMESPath expression over `{event, payload, workspace}`, which a
    rule's mapping overrides. A required field without a default must be in every mapping. `type` is checked when a
    mapping is saved, as far as the mapping shows it.
    """

    key: str
    label: str
    type: FieldKind = "string"
    required: bool = False
    source: str = ""
    help: str = ""
    example: str = ""
    """A string that the vendor would take, where not any one does."""
    markup: Literal["", "html", "markdown", "slack"] = ""
    """How the vendor reads it; what a rule's mapping takes from a payload into it is escaped for that."""


@dataclass(frozen=True, slots=True)
class Action:
    """What a delivery can do at the vendor.

    `idempotent`: sent twice it has the effect of once, because it is an upsert or carries a key by which the vendor
    drops the second; only then is an uncertain attempt tried again, whichever of its calls was lost. `fields` are what
    its mapping can fill; without any the event's payload goes out as it is. `is_open`: also takes fields that are not
    declared, by the vendor's own names. `steps` names the calls of an action that needs several (`follow`).
    """

    slug: str
    name: str
    idempotent: bool
    help: str = ""
    fields: tuple[MappingField, ...] = ()
    is_open: bool = False
    steps: tuple[str, ...] = ()

    @property
    def default_mapping(self) -> list[dict[str, Any]]:
        """The mapping of a rule that brings none: an entry for each field with a default. The optional are skipped.

        Blank texts are left out, since many vendors take one as the wish to clear a field.
        """
        return [
            {"to": field.key, "from": field.source, "skip_blanks": True}
            | ({} if field.required else {"on_error": "skip"})
            for field in self.fields
            if field.source
        ]

    def describe(self) -> dict[str, Any]:
        """The action as the catalogue shows it."""
        lists = {"fields": [asdict(field) for field in self.fields], "steps": list(self.steps)}
        return asdict(self) | lists | {"default_mapping": self.default_mapping}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the vendor allows: requests open at once, requests per second, bytes of one body. None: nothing known."""

    in_flight: int | None = None
    rate: float | None = None
    body_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Shipment:
    """Everything that a provider may know of one attempt.

    `delivery_id` (`dlv_…`) is the same over all attempts and replays. `body` is JSON text: what the rule's mapping
    made, or the event's payload as it was received. `frozen` holds the config as it was when the event was routed, for
    the fields that shape the body. `credentials` is the sealed document, every string in it a `Secret`. `now` is the
    moment of this attempt.
    """

    delivery_id: str
    event_id: str
    event_type: str
    occurred_at: datetime
    body: str = field(repr=False)
    action: str
    config: Mapping[str, Any] = field(repr=False)
    frozen: Mapping[str, Any]
    credentials: Mapping[str, Any] = field(repr=False)
    attempt_number: int
    now: datetime
    replay: str = ""
    """The public id of the replay over a filter, or of the delivery, that is sent again; empty before any replay."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call of an attempt that was answered."""

    request: Request = field(repr=False)
    response: Response = field(repr=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """One live choice for a field: the value to store, and how the vendor's users call it."""

    value: str
    label: str


@dataclass(frozen=True, slots=True)
class Account:
    """The vendor's account behind a connection: its own id, and its name for people."""

    id: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class OAuth:
    """How a vendor authorizes connections (RFC 6749; `pkce` is RFC 7636 with S256).

    URLs are the vendor's own. One may name config fields, `https://{login_host}/token`; its host must then lie below
    one of `hosts`, as must the host of every URL that the vendor returns for the config. `hosts` are domains without a
    leading dot.

    `scopes` are asked for, and must be granted. `authorize_with` goes beside into the URL to which the browser is sent.
    `refreshes`: the vendor gives refresh tokens. `lifetime_seconds` is assumed where a reply names no lifetime, 0 or
    -1; None: the token is used until the vendor refuses it. `ends_with` are the error codes after which only the owner
    can help. `issuer`: the `iss` (RFC 9207) that the vendor adds to its redirect.

    `details_url` is asked once after an authorization, with `details_headers`, and `details_scheme` standing before the
    token, where the reply to the code does not tell everything. `revoke_with`: the token goes as a form with the
    client, or as a Bearer header. `shares_tokens`: all connections to one account have the same token, so that it is
    revoked with the last of them.

    `regional_hosts` are the hosts that stand for those of the URLs where the config's `region` is one of these.

    For client credentials, client id, secret, token URL and scope are the customer's own, in these fields.
    """

    token_url: str = ""
    authorize_url: str = ""
    revoke_url: str = ""
    details_url: str = ""
    scopes: tuple[str, ...] = ()
    scope_separator: str = " "
    authorize_with: tuple[tuple[str, str], ...] = ()
    client_auth: Literal["body", "basic"] = "body"
    pkce: bool = True
    grant: Grant = "authorization_code"
    refreshes: bool = True
    lifetime_seconds: float | None = None
    hosts: tuple[str, ...] = ()
    regional_hosts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    issuer: str = ""
    ends_with: frozenset[str] = CODE_ENDED
    details_scheme: str = "Bearer"
    details_headers: tuple[tuple[str, str], ...] = ()
    revoke_with: Literal["form", "bearer"] = "form"
    shares_tokens: bool = False
    client_id_field: str = "oauth_client_id"
    client_secret_field: str = "oauth_client_secret"  # noqa: S105  (the name of a field)
    token_url_field: str = "oauth_token_url"  # noqa: S105  (likewise)
    scope_field: str = "oauth_scope"

    @property
    def is_by_person(self) -> bool:
        """Whether somebody authorizes the connection in a browser."""
        return self.grant == "authorization_code"

    def has_client(self, config: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
        """Whether the connection has a client of the customer's own that can ask for tokens."""
        own = {self.client_id_field, self.client_secret_field}
        is_by_client = self.grant == "client_credentials"
        return is_by_client and bool(config.get(self.token_url_field)) and own <= document.keys()

    def gives_tokens(self, config: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
        """Whether a token endpoint gave what the document has, or can be asked; else a person typed it in."""
        return "issued_at" in document or self.has_client(config, document)

    @property
    def fields_in_urls(self) -> frozenset[str]:
        """The config fields that the URLs name."""
        urls = (self.token_url, self.authorize_url, self.revoke_url, self.details_url)
        return frozenset(name for url in urls for name in FIELD_IN_URL.findall(url))


CLIENT_CREDENTIALS = OAuth(
    grant="client_credentials", client_auth="basic", refreshes=False, lifetime_seconds=3600, ends_with=CLIENT_REFUSED
)
"""The customer's own authorization server, by the fields that `OAuth` names."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What a vendor's reply to an authorization says beside the tokens: what is added to the config, and whose account
    it is."""

    config: Mapping[str, Any] = field(default_factory=dict)
    account: Account | None = None


class Provider:
    """A kind of destination. One instance a process; its only state is what the settings say."""

    slug: ClassVar[str]
    name: ClassVar[str]
    description: ClassVar[str] = ""
    docs_url: ClassVar[str] = ""
    auth: ClassVar[Auth] = "none"
    oauth: ClassVar[OAuth | None] = None
    """How connections are authorized, where the vendor, or the customer's own server, gives tokens."""
    config_fields: ClassVar[Sequence[Field]] = ()
    credential_fields: ClassVar[Sequence[Field]] = ()
    actions: ClassVar[Sequence[Action]]
    limits: ClassVar[Limits] = Limits()
    """What the vendor allows one account."""
    system_limits: ClassVar[Limits] = Limits()
    """What the vendor allows one address: all connections of its kind share it, in place of those to one account."""
    base_urls: ClassVar[Mapping[str, str]] = {}
    """Where the vendor is reached, by the value of the config field `region`; with one entry for all."""
    live_options: ClassVar[Mapping[str, str]] = {}
    """Fields whose choices the vendor can list, and what they are."""
    answer_bytes: ClassVar[int] = 64 * 1024
    """Of an answer so much is read, where there is room for it; the first 64 KB are kept."""
    override: str = ""
    """The URL that stands for the vendor's own hosts: `MESHES_VENDOR_URLS`."""
    public_url: str = ""
    """Where this installation is reached, without a slash at its end: `MESHES_PUBLIC_URL`; empty where it is unset."""
    test: ClassVar[str] = "This vendor offers no check without side effects."
    """What testing a connection does, in words for the catalogue."""

    def build_request(self, shipment: Shipment) -> Request:
        """The request of one attempt: the same shipment gives the same bytes. Raises Unsendable."""
        raise NotImplementedError

    def classify(self, answer: Response | OutboundError, action: str) -> Verdict:
        """What an answer, or the lack of one, means. Total: it never raises. The default goes by HTTP alone."""
        verdict = read_answer(answer)
        if isinstance(answer, OutboundError) or self.is_idempotent(action):
            return verdict
        return with_known_end(verdict, answer, self.name)

    def follow(self, shipment: Shipment, exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        """What comes after these calls of an action with several steps: the next one, or a verdict on all of them.

        None: the last answer decides, by `classify`. It is asked after every answer, whatever its status. Of answers
        before the last one the first 64 KB are there.
        """
        return None

    def may_repeat(self, action: str, request: Request) -> bool:
        """Whether an attempt may be made again although the answer to this request of it was lost.

        The default: where the action is idempotent, or the method is one that reads or sets values.
        """
        return self.action(action).idempotent or request.method in ("GET", "PUT", "PATCH")

    def build_test(self, shipment: Shipment) -> Request | None:
        """The request that proves that the connection works, or None where the vendor has no such check.

        The shipment's event is made up and its type is `meshes.test`.
        """
        return None

    def classify_test(self, answer: Response | OutboundError) -> Verdict:
        """What the answer to `build_test` means. Total. The default: what it would mean to the first action."""
        return of_repeatable(self.classify(answer, self.actions[0].slug), answer)

    def read_account(self, response: Response) -> Account | None:
        """Whose account the test's answer speaks of. Connections to one account share its limits."""
        return None

    def read_redirect(self, answer: Mapping[str, str]) -> dict[str, Any]:
        """What the redirect that ends an authorization adds to the config, before its code is redeemed. Total."""
        return {}

    def read_grant(self, reply: Mapping[str, Any], details: Mapping[str, Any]) -> Granted:
        """What the reply to an authorization says beside the tokens; `details` is what `oauth.details_url` answered."""
        return Granted()

    def is_unauthorized(self, response: Response) -> bool:
        """Whether the vendor no longer takes the access token, so that a new one may help."""
        return response.status == 401

    def build_options(self, field: str, shipment: Shipment, cursor: str = "") -> Request:
        """The request that lists the choices for a field of `live_options`, from a cursor on. Raises KeyError,
        Unsendable."""
        raise KeyError(field)

    def options_cursor(self, field: str, response: Response) -> str:
        """Where the choices go on after this page of them; empty at their end."""
        return ""

    def classify_options(self, answer: Response | OutboundError) -> Verdict:
        """What the answer to `build_options` means. Total. The default: what it would mean to the first action."""
        return of_repeatable(self.classify(answer, self.actions[0].slug), answer)

    def read_options(self, field: str, response: Response) -> list[Choice]:
        """The choices in the answer to `build_options`, a 2xx. Raises Unsendable for one that cannot be read."""
        raise KeyError(field)

    def root(self, shipment: Shipment) -> str:
        """The URL without a slash at its end below which the vendor is reached for this connection."""
        region = shipment.config.get("region") if len(self.base_urls) > 1 else None
        return self.moved(self.base_urls.get(region or "", next(iter(self.base_urls.values()))))

    def moved(self, url: str) -> str:
        """A URL of the vendor's, at `override` where that is set."""
        if not self.override:
            return url
        parts = urlsplit(url)
        return self.override + urlunsplit(("", "", parts.path, parts.query, ""))

    def check(self, config: Mapping[str, Any], credentials: Mapping[str, Any]) -> Sequence[FieldProblem]:
        """What is wrong between fields that are each right; pointers begin with /config or /credentials.

        Of credentials only which are there counts: their values may be masks.
        """
        return ()

    def make_secrets(self) -> dict[str, Any]:
        """The generated credentials of a new connection, in plain text; they are shown once."""
        return {}

    def rotate_secrets(self, credentials: Mapping[str, Any], now: datetime) -> dict[str, Any] | None:
        """The credentials (Secrets allowed) with newly generated ones; None where nothing is generated."""
        return None

    def prepare(self, shipment: Shipment) -> Request:
        """`build_request`, and the vendor's limit on a body. Raises Unsendable."""
        return self.fitting(self.build_request(shipment))

    def fitting(self, request: Request) -> Request:
        """The request, if the vendor takes a body of its size. Raises Unsendable."""
        limit = self.limits.body_bytes
        if limit is not None and len(request.body) > limit:
            raise Unsendable(f"The request has {len(request.body):,} bytes; {self.name} takes at most {limit:,}.")
        return request

    def action(self, slug: str) -> Action:
        """The declared action. Raises KeyError."""
        return {declared.slug: declared for declared in self.actions}[slug]

    def is_idempotent(self, action: str) -> bool:
        """Whether the declared action may be done twice; false of one that is not declared."""
        return any(declared.slug == action and declared.idempotent for declared in self.actions)

    def clean_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config with defaults. Raises InvalidFields with pointers below /config."""
        return clean(self.config_fields, config, "/config")

    def clean_credentials(self, credentials: Mapping[str, Any], kept: Collection[str] = ()) -> dict[str, Any]:
        """What a user gives, in plain text. Raises InvalidFields with pointers below /credentials.

        `kept` names those that are stored and stay.
        """
        given = [declared for declared in self.credential_fields if not declared.generated]
        return clean(given, credentials, "/credentials", kept)

    def frozen_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The part of the config that shapes the body, to be stored with a delivery."""
        return {declared.key: config.get(declared.key, declared.default) for declared in self.frozen_fields}

    @property
    def frozen_fields(self) -> list[Field]:
        return [declared for declared in self.config_fields if declared.frozen]

    @property
    def host_fields(self) -> list[Field]:
        """The config fields that have a part in where requests, and credentials with them, are sent."""
        named = {"region"} | (self.oauth.fields_in_urls if self.oauth else set())
        return [
            declared
            for declared in self.config_fields
            if declared.selects_host or declared.type == "url" or declared.key in named
        ]

    def describe(self) -> dict[str, Any]:
        """The declaration as the catalogue shows it."""
        return {
            "type": self.slug,
            "name": self.name,
            "description": self.description,
            "docs_url": self.docs_url,
            "auth": self.auth,
            "authorization": {"scopes": list(self.oauth.scopes)} if self.oauth and self.oauth.is_by_person else None,
            "config_fields": [declared.describe() for declared in self.config_fields],
            "credential_fields": [declared.describe() for declared in self.credential_fields],
            "actions": [action.describe() for action in self.actions],
            "limits": asdict(self.limits),
            "system_limits": asdict(self.system_limits),
            "live_options": dict(self.live_options),
            "test": self.test,
        }
