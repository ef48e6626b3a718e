"""OAuth 2.0 as the vendors speak it: the page where a person agrees, the token endpoint, and an app's installations.

The person agrees at once: the page answers with a redirect that carries a code. Access tokens made here open the API
beside the developer token. What a vendor does its own way, it declares; replies and errors have its own form.
"""

import base64
import hashlib
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from meshes.dev.vendors.messages import Answer, Call, Reason, RefusedError
from meshes.dev.vendors.server import Route, State, VendorServer

CODE_SECONDS = 300.0


@dataclass
class Code:
    """What a person agreed to. `challenge` is of PKCE; empty without."""

    account: str
    redirect_uri: str
    scope: str
    challenge: str
    ends_at: float
    is_used: bool = False


@dataclass
class Installation:
    """An app in an account, by one agreement. `spent` are refresh tokens that were replaced by the next."""

    account: str
    scope: str
    refresh_token: str = ""
    access_tokens: list[str] = field(default_factory=list)
    spent: set[str] = field(default_factory=set)


class OAuthServer(VendorServer[State]):
    """A vendor with OAuth."""

    controls = VendorServer.controls | frozenset(
        {"fail_token", "expire_access_tokens", "sign_in", "deny_next", "change_reply", "uninstall"}
    )

    page_path: ClassVar[str]
    """Where a person agrees; this and the others are patterns, as those of routes."""
    token_path: ClassVar[str]
    revoke_path: ClassVar[str] = ""
    revoked: ClassVar[Answer] = Answer()
    unknown_token: ClassVar[Answer] = Answer()
    """What the vendor answers to a revocation, and to one of a token that it does not know."""
    client_auth: ClassVar[frozenset[str]] = frozenset({"body"})
    """Where the app's secret may stand: `body`, `basic`."""
    required: ClassVar[tuple[str, ...]] = ()
    """Parameters of the page beside `client_id` and `redirect_uri`."""
    default_grant: ClassVar[str] = ""
    """The grant where a request names none."""
    gives_refresh_tokens: ClassVar[bool] = True
    redirect_with: ClassVar[Mapping[str, str]] = {}
    """What stands in the redirect beside the code."""
    checks_redirect_uri: ClassVar[bool] = True
    """Whether the request for a code's tokens must name the page's redirect_uri again."""
    detects_reuse: ClassVar[bool] = False
    """A refresh token that was replaced, used again, ends the whole installation."""
    oauth_errors: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("invalid_code", "used_code", "expired_code", "wrong_redirect_uri"), "invalid_grant"),
        **dict.fromkeys(("wrong_verifier", "invalid_refresh_token"), "invalid_grant"),
        **dict.fromkeys(("unknown_client", "wrong_secret"), "invalid_client"),
        "unsupported_grant_type": "unsupported_grant_type",
    }
    """The vendor's names of what can be wrong at the token endpoint."""

    token_seconds: float | None = None
    """How long an access token lives; None: until it is revoked."""
    rotates = False
    """Whether each refresh gives a new refresh token and ends the old one."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        pages = [("agree", "GET", cls.page_path), ("exchange", "POST", cls.token_path)]
        pages += [("revoke_token", "POST", cls.revoke_path)] if cls.revoke_path else []
        cls._routes += tuple(Route.of(*page, access="open") for page in pages)

    def __init__(self, token: str = "", port: int = 0) -> None:
        super().__init__(token, port)
        self.client_id = f"{self.slug}-client-id"
        self.client_secret = f"{self.slug}-client-secret"
        self.redirect_uris: set[str] = set()
        """Where the app may send people back to; empty: anywhere."""
        self.signed_in = self.account
        """The account whose person agrees."""
        self.codes: dict[str, Code] = {}
        self.installations: list[Installation] = []
        self._ends_at: dict[str, float] = {}
        self._denials = 0
        self._changes: dict[str, Any] = {}

    def token_reply(self, installation: Installation, access_token: str, is_first: bool) -> dict[str, Any]:
        """The vendor's answer to a good request for tokens; it is the first for a code, not for a refresh token."""
        raise NotImplementedError

    def oauth_answer(self, error: str, message: str) -> Answer:
        """The vendor's answer to a bad one; `error` is a key of `oauth_errors`."""
        status = 401 if error in ("unknown_client", "wrong_secret") else 400
        return Answer.of({"error": self.oauth_errors[error], "error_description": message}, status)

    def new_token(self, kind: str) -> str:
        """A fresh token in the vendor's form; the kind is `access` or `refresh`."""
        return f"{self.slug}-{kind}-{secrets.token_urlsafe(24)}"

    # For tests.

    @property
    def token_requests(self) -> int:
        """How often the token endpoint was asked, whatever it answered."""
        return len(self.calls_to(f"^{self.token_path}$"))

    def sign_in(self, account: str) -> None:
        """From now on this account's person agrees."""
        self.signed_in = account

    def deny_next(self) -> None:
        """The next person does not agree."""
        self._denials += 1

    def fail_token(self, what: int | str) -> None:
        """`fail_next` for the token endpoint."""
        self.fail_next(what, path=f"^{self.token_path}$")

    def change_reply(self, **fields: Any) -> None:
        """Replace fields of the token endpoint's replies from now on, `expires_in` say; None leaves a field out."""
        self._changes.update(fields)

    def expire_access_tokens(self) -> None:
        """Every access token made here has come to its end; refresh tokens live on."""
        for token in [token for installation in self.installations for token in installation.access_tokens]:
            self.revoke(token, Reason.EXPIRED_TOKEN)

    def uninstall(self, account: str) -> None:
        """The account's people remove the app: all its tokens end."""
        for installation in [each for each in self.installations if each.account == account]:
            self.end(installation)

    def revoke(self, token: str, reason: Reason = Reason.REVOKED_TOKEN) -> None:
        """An access token, the developer token or a refresh token opens nothing any more."""
        super().revoke(token, reason)
        for installation in self.installations:
            if installation.refresh_token == token:
                installation.refresh_token = ""

    # The page where a person agrees.

    def agree(self, call: Call) -> Answer:
        """Back to the app with a code, or with what is wrong. Only where it is unclear who asks is there a page."""
        query, back = call.query, urlsplit(call.query.get("redirect_uri", ""))
        if query.get("client_id") != self.client_id:
            return Answer.text("There is no app with this client_id.", 400)
        is_absolute = back.scheme in ("http", "https") and back.netloc and not back.fragment
        if not is_absolute or (self.redirect_uris and back.geturl() not in self.redirect_uris):
            return Answer.text("The app does not know this redirect_uri.", 400)
        error = self._wrong_with(query)
        if not error and self._denials:
            self._denials, error = self._denials - 1, "access_denied"
        answer = {"error": error} if error else {"code": self._new_code(query), **self.redirect_with}
        if "state" in query:
            answer["state"] = query["state"]
        location = urlunsplit(back._replace(query=urlencode([*parse_qsl(back.query), *answer.items()])))
        return Answer(302, headers={"location": location})

    def _wrong_with(self, query: Mapping[str, str]) -> str:
        if any(not query.get(name) for name in self.required):
            return "invalid_request"
        if query.get("response_type", "code") != "code":
            return "unsupported_response_type"
        method, challenge = query.get("code_challenge_method"), query.get("code_challenge")
        is_right = method is None if challenge is None else method == "S256" and len(challenge) == 43  # RFC 7636
        return "" if is_right else "invalid_request"

    def _new_code(self, query: Mapping[str, str]) -> str:
        code = f"{self.slug}-code-{secrets.token_urlsafe(12)}"
        self.codes[code] = Code(
            self.signed_in,
            query["redirect_uri"],
            " ".join(filter(None, (query.get("scope"), query.get("optional_scope")))),
            query.get("code_challenge", ""),
            self.clock() + CODE_SECONDS,
        )
        return code

    def revoke_token(self, call: Call) -> Answer:
        """A refresh token takes its access tokens with it; an access token only itself."""
        token = call.fields().get("token", "")
        installation = self.installation_of(token)
        if installation is None:
            return self.unknown_token
        if token == installation.refresh_token:
            self.end(installation)
        self.revoke(token)
        return self.revoked

    # The token endpoint.

    def exchange(self, call: Call) -> Answer:
        """Tokens for a code or a refresh token."""
        fields = call.fields()
        self.check_client(call, fields)
        grant = fields.get("grant_type") or self.default_grant
        if grant == "authorization_code":
            installation = self._redeem(fields)
        elif grant == "refresh_token" and self.gives_refresh_tokens:
            installation = self._refreshed(fields)
        else:
            raise self.oauth_refused("unsupported_grant_type", f"The grant type {grant!r} is not supported.")
        return self.reply(installation, is_first=grant == "authorization_code")

    def reply(self, installation: Installation, is_first: bool, **more: str) -> Answer:
        """A new access token, in a reply with the changes that a test asked for."""
        token = self.new_token("access")
        self.tokens[token] = installation.account
        installation.access_tokens.append(token)
        if self.token_seconds is not None:
            self._ends_at[token] = self.clock() + self.token_seconds
        document = self.token_reply(installation, token, is_first) | more | self._changes
        absent = {name for name, value in self._changes.items() if value is None}
        kept = {name: value for name, value in document.items() if name not in absent}
        return Answer.of(kept, cache_control="no-store")

    def check_client(self, call: Call, fields: Mapping[str, Any]) -> None:
        """Who asks must be the app, by id and secret, where the vendor wants them."""
        basic = call.basic() if "basic" in self.client_auth else None
        in_body = (fields.get("client_id"), fields.get("client_secret")) if "body" in self.client_auth else None
        client, secret = basic or in_body or (None, None)
        if client != self.client_id:
            raise self.oauth_refused("unknown_client", "The client id is missing or unknown.")
        if secret != self.client_secret:
            raise self.oauth_refused("wrong_secret", "The client secret is missing or wrong.")

    def oauth_refused(self, error: str, message: str) -> RefusedError:
        return RefusedError(self.oauth_answer(error, message))

    def account_of(self, token: str) -> str:
        if token in self.tokens and self._ends_at.get(token, math.inf) <= self.clock():
            raise RefusedError(Reason.EXPIRED_TOKEN, "The credentials are not accepted (expired token).")
        return super().account_of(token)

    def end(self, installation: Installation) -> None:
        """The installation is over, and so are its tokens."""
        for token in installation.access_tokens:
            self.revoke(token)
        installation.refresh_token = ""
        self.installations.remove(installation)

    def installation_of(self, token: str) -> Installation | None:
        """Where an access token or a live refresh token belongs."""
        held = (each for each in self.installations if token in (*each.access_tokens, each.refresh_token))
        return next(held, None) if token else None

    def lacks(self, call: Call, scope: str) -> Installation | None:
        """The caller's installation where it was not granted the scope; the developer token may do everything."""
        installation = self.installation_of(self.token_of(call))
        return installation if installation and scope not in installation.scope.split(",") else None

    def _redeem(self, fields: Mapping[str, Any]) -> Installation:
        code = self.codes.get(fields.get("code", ""))
        if code is None:
            raise self.oauth_refused("invalid_code", "The code is unknown.")
        is_elsewhere = self.checks_redirect_uri and fields.get("redirect_uri") != code.redirect_uri
        is_unproved = not _proves(fields.get("code_verifier"), code.challenge)
        for is_wrong, error, message in (
            (code.is_used, "used_code", "The code was used before."),
            (code.ends_at <= self.clock(), "expired_code", "The code is too old."),
            (is_elsewhere, "wrong_redirect_uri", "The redirect_uri is not that of the code."),
            (is_unproved, "wrong_verifier", "The code_verifier does not fit the code_challenge."),
        ):
            if is_wrong:
                raise self.oauth_refused(error, message)
        code.is_used = True
        refresh_token = self.new_token("refresh") if self.gives_refresh_tokens else ""
        installation = Installation(code.account, code.scope, refresh_token)
        self.installations.append(installation)
        self.account_state(code.account)
        return installation

    def _refreshed(self, fields: Mapping[str, Any]) -> Installation:
        token = fields.get("refresh_token", "")
        for installation in [each for each in self.installations if self.detects_reuse and token in each.spent]:
            self.end(installation)
        live = next((each for each in self.installations if token and each.refresh_token == token), None)
        if live is None:
            raise self.oauth_refused("invalid_refresh_token", "The refresh token is unknown, used or revoked.")
        if self.rotates:
            live.spent.add(token)
            live.refresh_token = self.new_token("refresh")
        return live


def _proves(verifier: Any, challenge: str) -> bool:
    """Whether the verifier of PKCE fits. One without a challenge does not: somebody may have taken that away."""
    if not challenge or verifier is None:
        return not challenge and verifier is None
    digest = hashlib.sha256(str(verifier).encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == challenge
