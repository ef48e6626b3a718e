"""What every vendor's server is: HTTP on loopback, routes, tokens, an account's state for each, limits and faults.

A vendor's file declares its routes as methods, and puts refusals in the vendor's form by `error`:

    class Pigeon(VendorServer[Loft]):
        slug, account, developer_token, new_account = "pigeon", "loft-1", "pigeon-token", Loft

        @route("POST", "/lofts/{loft}/messages")
        def send(self, call: Call, loft: str) -> Answer:
            self.state_of(call).messages.append(self.read_object(call))
            return Answer.of({"id": 1}, 201)

A test starts it with `with Pigeon() as pigeon:`, sends to `pigeon.url` and reads `pigeon.state` and `pigeon.requests`.
Another process reads and directs it over HTTP, as `make demo` does; no vendor has such paths:

    GET  /_vendor/requests      every call so far
    GET  /_vendor/state         what the accounts hold, by the vendor's id of the account
    POST /_vendor/fail_next     {"what": 503, "times": 2}: the keywords of a method named in `controls`; 204, or 400
"""

import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar
from urllib.parse import unquote

from meshes.dev.vendors.messages import Answer, Call, Listener, Reason, RefusedError

State = TypeVar("State")
Handler = TypeVar("Handler", bound=Callable[..., Answer])
Access = Literal["token", "url", "open"]
CONTROL = "/_vendor/"


class Silence(StrEnum):
    """Ways to leave a caller without an answer."""

    HANG = "HANG"
    """Nothing happens until the server stops, or `release` is called; then the connection closes."""
    DROP = "DROP"
    """The connection closes at once; nothing was done."""
    LOSE_ANSWER = "LOSE_ANSWER"
    """The vendor does as it was asked, and the connection closes before its answer."""


@dataclass
class Fault:
    """What becomes of the next `times` calls whose path contains a match of `path`; without one, of the API's calls."""

    effect: Answer | Silence
    times: int
    path: str


@dataclass
class Window:
    """A fixed window: so many requests, then none until it ends. The next request after its end begins another."""

    requests: int
    seconds: float
    count: int = 0
    began: float = field(default_factory=time.monotonic)

    def take(self) -> bool:
        """Count one request; whether the vendor lets it in."""
        if self.seconds_left <= 0:
            self.began, self.count = time.monotonic(), 0
        self.count += 1
        return self.count <= self.requests

    @property
    def remaining(self) -> int:
        return max(0, self.requests - self.count)

    @property
    def seconds_left(self) -> float:
        return self.began + self.seconds - time.monotonic()


@dataclass
class Events:
    """What a vendor of analytics stored, and what it said yes to and `lost`."""

    events: list[dict[str, Any]] = field(default_factory=list)
    lost: list[Any] = field(default_factory=list)

    def store(self, event: dict[str, Any], key: Callable[[dict[str, Any]], Hashable]) -> None:
        """The first with each key; an event whose key is empty is always another."""
        if not key(event) or all(key(each) != key(event) for each in self.events):
            self.events.append(event)


def route(method: str, path: str, access: Access = "token") -> Callable[[Handler], Handler]:
    """Mark a method as the answer to a path, a pattern in which `{name}` stands for one segment. The segment comes
    decoded, as a keyword. `access` is for bearers of a token; for whoever knows the URL, which is the secret; or for
    everybody, which is for pages beside the API that no limit counts."""

    def mark(handler: Handler) -> Handler:
        handler.routes = (*getattr(handler, "routes", ()), (method, path, access))  # type: ignore[attr-defined]
        return handler

    return mark


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: re.Pattern[str]
    access: Access
    handler: str

    @classmethod
    def of(cls, handler: str, method: str, path: str, access: Access) -> "Route":
        return cls(method, re.compile(re.sub(r"\{([a-z_]+)\}", r"(?P<\1>[^/]+)", path)), access, handler)


class VendorServer(Generic[State]):
    """One vendor. `account` is the vendor's own id of the account that `developer_token` opens; others begin to exist
    when they are first named."""

    slug: ClassVar[str]
    account: ClassVar[str]
    developer_token: ClassVar[str] = ""
    new_account: Callable[[], State]
    """What an account holds when it begins."""
    json_type: ClassVar[str] = "application/json"
    error_codes: ClassVar[Mapping[Reason, Any]] = {}
    """The vendor's code for a reason; `default_error` for the others."""
    default_error: ClassVar[Any] = ""
    rate_headers: ClassVar[Mapping[str, str]] = {}
    """The vendor's headers of its limits while one is set, as formats of the figures of `limit_headers`."""
    tells_wait: ClassVar[bool] = False
    """Whether a refusal by the limit has Retry-After."""
    faults: ClassVar[Mapping[str, Answer]] = {}
    """The vendor's own kinds of failure, by name, for `fail_next`."""
    controls: ClassVar[frozenset[str]] = frozenset({"fail_next", "limit", "release", "revoke", "open_account"})
    """Methods that another process may call."""
    _routes: ClassVar[tuple[Route, ...]] = ()

    def __init_subclass__(cls) -> None:
        marked = [(name, *each) for name, has in vars(cls).items() for each in getattr(has, "routes", ())]
        cls._routes = (*(Route.of(*each) for each in marked), *cls._routes)

    def __init__(self, token: str = "", port: int = 0) -> None:
        self.token = token or self.developer_token
        self.tokens: dict[str, str] = {self.token: self.account}
        """The account that a token opens."""
        self.dead_tokens: dict[str, Reason] = {}
        """Tokens that opened an account once, and why they do no more."""
        self.accounts: dict[str, State] = {}
        self.requests: list[Call] = []
        """Every call, in order, also those that were refused."""
        self.counts: Counter[str] = Counter()
        """Calls that came in to the API, for each account, or URL that is a secret."""
        self.clock: Callable[[], float] = time.time
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        self._limit: tuple[int, float] | None = None
        self._windows: dict[str, Window] = {}
        self._released = threading.Event()
        self._listener = Listener(self.respond, port)
        self.url = f"http://127.0.0.1:{self._listener.server_port}"

    # What a vendor says its own way.

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        """A refusal in the vendor's form."""
        return Answer.text(message, status)

    @classmethod
    def refused(cls, status: int, code: Any, message: str, **more: Any) -> RefusedError:
        return RefusedError(cls.error(status, code, message, **more))

    @classmethod
    def refuse_if(cls, is_wrong: Any, status: int, code: Any, message: str, **more: Any) -> None:
        if is_wrong:
            raise cls.refused(status, code, message, **more)

    def refusal(self, reason: Reason, status: int, message: str, seconds: float = 0.0) -> Answer:
        """What the vendor answers for a reason; `seconds` is how long the caller should wait, where that is known."""
        answer = self.error(status, self.error_codes.get(reason, self.default_error), message)
        is_told = self.tells_wait and reason is Reason.THROTTLED
        return answer.with_headers({"retry-after": whole(seconds)}) if is_told else answer

    def token_of(self, call: Call) -> str:
        """The credential of a call; empty without one."""
        return call.credential("Bearer")

    def limit_headers(self, call: Call, window: Window | None) -> dict[str, str]:
        if window is None:
            return {}
        left = max(window.seconds_left, 0.0)
        figures = {
            "limit": window.requests,
            "remaining": window.remaining,
            "milliseconds": int(window.seconds * 1000),
            "reset": whole(left),
            "seconds_left": left,
            "ends_at": self.clock() + left,
            "second_after": int(self.clock() + left) + 1,
        }
        return {name: text.format_map(figures) for name, text in self.rate_headers.items()}

    # For tests.

    def start(self) -> Self:
        self._listener.start()
        return self

    def stop(self) -> None:
        """Raises what went wrong in the server itself, so that no test takes its fault for the vendor's."""
        self.release()
        self._listener.stop()
        if self._listener.errors:
            raise self._listener.errors[0]

    __enter__ = start

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def state(self) -> State:
        """What the account of the developer token holds."""
        return self.account_state(self.account)

    def account_state(self, account: str) -> State:
        with self.lock:
            if account not in self.accounts:
                self.accounts[account] = self.new_account()
            return self.accounts[account]

    def open_account(self, account: str, token: str) -> None:
        """One more account, and a token that opens it."""
        self.account_state(account)
        self.tokens[token] = account

    def calls_to(self, path: str, method: str = "") -> list[Call]:
        """The calls whose path contains a match of the pattern, in order."""
        return [call for call in self.requests if re.search(path, call.path) and method in ("", call.method)]

    def fail_next(
        self,
        what: int | str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        times: int = 1,
        path: str = "",
    ) -> None:
        """Let the next calls fail: with a status, with a failure of the vendor's own (`faults`), or by a `Silence`.

        `body` is text, or a document for JSON; without one it is the vendor's usual. `path` is a pattern that the calls
        are chosen by; without one they are those of the API, not of its OAuth pages. Raises KeyError for unknown names.
        """
        effect: Answer | Silence
        if isinstance(what, str):
            effect = Silence(what) if what in Silence.__members__ else self.faults[what]
        elif body is None:
            effect = self.refusal(Reason.DOWN, what, f"The server failed ({what}).")
        else:
            effect = Answer.text(body, what) if isinstance(body, str) else Answer.of(body, what)
        if isinstance(effect, Answer):
            effect = replace(effect, headers={**effect.headers, **(headers or {})})
        with self.lock:
            self._faults.append(Fault(effect, times, path))

    def release(self) -> None:
        """End the calls that hang, and let none hang from now on."""
        self._released.set()

    def limit(self, requests: int, seconds: float) -> None:
        """From now on each account, or each URL that is a secret, may send so many requests in so many seconds."""
        with self.lock:
            self._limit = (requests, seconds)
            self._windows.clear()

    def revoke(self, token: str, reason: Reason = Reason.REVOKED_TOKEN) -> None:
        """The token opens nothing any more."""
        with self.lock:
            if self.tokens.pop(token, None) is not None:
                self.dead_tokens[token] = reason

    # For a vendor's routes.

    def state_of(self, call: Call) -> State:
        return self.account_state(call.account)

    def account_of(self, token: str) -> str:
        """The account that a token opens."""
        if token and token in self.tokens:
            return self.tokens[token]
        reason = self.dead_tokens.get(token, Reason.UNKNOWN_TOKEN) if token else Reason.MISSING_TOKEN
        raise RefusedError(reason, f"The credentials are not accepted ({reason.value[0]}).")

    def read_object(self, call: Call) -> dict[str, Any]:
        """The JSON object of a body, by its content type."""
        self.check_type(call)
        return call.object()

    def check_type(self, call: Call) -> None:
        if call.media_type != self.json_type:
            raise RefusedError(Reason.WRONG_TYPE, f"Content-Type must be {self.json_type}")

    # The way of a call.

    def respond(self, call: Call) -> Answer | None:
        """The answer to one call; None closes the connection without one."""
        if call.path.startswith(CONTROL):
            return self._control(call, call.path.removeprefix(CONTROL))
        with self.lock:
            self.requests.append(call)
            fault = self._take_fault(call)
        if isinstance(fault, Answer):
            return fault
        if fault is Silence.HANG:
            self._released.wait()
        if fault in (Silence.HANG, Silence.DROP):
            return None
        with self.lock:
            answer = self._guarded(lambda: self._admit(call))
        return None if fault is Silence.LOSE_ANSWER else answer

    def _control(self, call: Call, name: str) -> Answer:
        with self.lock:
            if name == "requests":
                return Answer.of(
                    [{**asdict(each), "body": each.body.decode("utf-8", "replace")} for each in self.requests]
                )
            if name == "state":
                accounts: dict[str, Any] = self.accounts
                return Answer.of({account: asdict(state) for account, state in accounts.items()})
        if call.method != "POST" or name not in self.controls:
            return Answer.text(f"{self.slug} has no control {name!r}; it has {', '.join(sorted(self.controls))}.", 404)
        try:
            getattr(self, name)(**(call.fields() if call.body else {}))
        except (TypeError, ValueError, KeyError, RefusedError) as error:
            return Answer.text(f"{name}: {error!r}", 400)
        return Answer(204)

    def _take_fault(self, call: Call) -> Answer | Silence | None:
        is_api = not any(each.access == "open" and each.path.fullmatch(call.path) for each in self._routes)
        for fault in self._faults:
            if re.search(fault.path, call.path) if fault.path else is_api:
                fault.times -= 1
                if not fault.times:
                    self._faults.remove(fault)
                return fault.effect
        return None

    def _guarded(self, act: Callable[[], Answer]) -> Answer:
        try:
            return act()
        except RefusedError as refused:
            if isinstance(refused.why, Answer):
                return refused.why
            return self.refusal(refused.why, refused.why.value[1], refused.message)

    def _admit(self, call: Call) -> Answer:
        found = [(each, match) for each in self._routes if (match := each.path.fullmatch(call.path))]
        if not found:
            raise RefusedError(Reason.NOT_FOUND, "There is nothing here.")
        of_method = [(each, match) for each, match in found if each.method == call.method]
        if not of_method:
            raise RefusedError(Reason.WRONG_METHOD, f"{call.method} is not supported here.")
        chosen, match = of_method[0]
        if chosen.access == "token":
            call = replace(call, account=self.account_of(self.token_of(call)))
        segments = {name: unquote(value) for name, value in match.groupdict().items()}

        def handle() -> Answer:
            answer: Answer = getattr(self, chosen.handler)(call, **segments)
            return answer

        return self._guarded(handle) if chosen.access == "open" else self._counted(call, handle)

    def _counted(self, call: Call, handle: Callable[[], Answer]) -> Answer:
        key = call.account or call.path
        self.counts[key] += 1
        window = self._windows.setdefault(key, Window(*self._limit)) if self._limit else None
        if window is None or window.take():
            answer = self._guarded(handle)
        else:
            message = f"More than {window.requests} requests in {window.seconds:g} seconds."
            answer = self.refusal(Reason.THROTTLED, 429, message, max(window.seconds_left, 0.0))
        return answer.with_headers(self.limit_headers(call, window))


def limit_names(prefix: str, reset: str = "{reset}") -> dict[str, str]:
    """The usual headers of limits."""
    return {f"{prefix}-limit": "{limit}", f"{prefix}-remaining": "{remaining}", f"{prefix}-reset": reset}


def whole(seconds: float) -> str:
    """For a header: whole seconds, one at least."""
    return str(max(1, math.ceil(seconds)))
