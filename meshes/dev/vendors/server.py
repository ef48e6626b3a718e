"""What every vendor's server is: routes, tokens, an account's state for each, limits and trouble on demand.

A vendor's file declares routes as methods, and puts refusals in the vendor's words by `problem`:

    class Pigeon(VendorServer[Loft]):
        slug, account, developer_token = "pigeon", "loft-1", "pigeon-token"

        def new_account(self, account: str) -> Loft:
            return Loft()

        @route("POST", "/lofts/{loft}/messages")
        def send(self, call: Call, loft: str) -> Answer:
            self.state_of(call).messages.append(self.read_object(call))
            return Answer.of({"id": 1}, 201)

A test starts it with `with Pigeon() as pigeon:`, sends to `pigeon.url` and reads `pigeon.state` and `pigeon.requests`.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar
from urllib.parse import unquote

from meshes.dev.vendors.control import PREFIX, control
from meshes.dev.vendors.faults import Fault, Silence, Window
from meshes.dev.vendors.listening import Listener
from meshes.dev.vendors.messages import Answer, BadToken, Call, Malformed, Problem, Refused, Why

State = TypeVar("State")
Handler = TypeVar("Handler", bound=Callable[..., Answer])
Door = Literal["token", "url", "open"]


@dataclass(frozen=True, slots=True)
class Route:
    """`door` says who may come in: bearers of a token; whoever knows the URL, which is the secret; or everybody, which
    is for pages beside the API that no limit counts."""

    method: str
    path: re.Pattern[str]
    door: Door
    handler: str = ""


def route(method: str, path: str, door: Door = "token") -> Callable[[Handler], Handler]:
    """Mark a method as the answer to a path, a pattern in which `{name}` stands for one segment. The segment comes
    decoded, as a keyword."""
    pattern = re.compile(re.sub(r"\{([a-z_]+)\}", r"(?P<\1>[^/]+)", path))

    def mark(handler: Handler) -> Handler:
        routes = getattr(handler, "routes", ())
        handler.routes = (*routes, Route(method, pattern, door))  # type: ignore[attr-defined]
        return handler

    return mark


class VendorServer(Generic[State]):
    """One vendor. `account` is the vendor's own id of the account that `developer_token` opens; others begin to exist
    when they are first named."""

    slug: ClassVar[str]
    account: ClassVar[str]
    developer_token: ClassVar[str] = ""
    json_type: ClassVar[str] = "application/json"
    faults: ClassVar[Mapping[str, Answer]] = {}
    """The vendor's own kinds of trouble, by name, for `fail_next`."""
    controls: ClassVar[frozenset[str]] = frozenset(
        {"fail_next", "limit", "no_limit", "release", "revoke", "open_account"}
    )
    """Methods that another process may call (`meshes.dev.vendors.control`)."""
    _routes: ClassVar[tuple[Route, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = [
            replace(marked, handler=name)
            for name, member in vars(cls).items()
            for marked in getattr(member, "routes", ())
        ]
        cls._routes = (*own, *cls._routes)

    def __init__(self, token: str = "", port: int = 0) -> None:
        self.token = token or self.developer_token
        self.tokens: dict[str, str] = {self.token: self.account}
        """Whose account a token opens."""
        self.dead_tokens: dict[str, Why] = {}
        """Tokens that opened an account once, and why they do no more."""
        self.accounts: dict[str, State] = {}
        self.requests: list[Call] = []
        """Every call, in order, also those that were refused."""
        self.counts: Counter[str] = Counter()
        """Calls that came in by the API's doors, for each account, or URL that is a secret."""
        self.clock: Callable[[], float] = time.time
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        self._limit: tuple[int, float] | None = None
        self._windows: dict[str, Window] = {}
        self._released = threading.Event()
        self._listener = Listener(self.respond, port)
        self.url = self._listener.url

    def new_account(self, account: str) -> State:
        """What an account holds when it begins."""
        raise NotImplementedError

    def problem(self, problem: Problem) -> Answer:
        """A refusal in the vendor's words and form."""
        return Answer.text(problem.words, problem.status)

    def token_of(self, call: Call) -> str:
        """The credential of a call; empty without one."""
        return call.credential("Bearer")

    def rate_headers(self, call: Call, window: Window | None) -> dict[str, str]:
        """What the vendor's headers tell of its limits; the window is None while no limit is set."""
        return {}

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

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def state(self) -> State:
        """What the account of the developer token holds."""
        return self.account_state(self.account)

    def account_state(self, account: str) -> State:
        with self.lock:
            if account not in self.accounts:
                self.accounts[account] = self.new_account(account)
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
        """Let the next calls fail: with a status, with a trouble of the vendor's own (`faults`), or by a `Silence`.

        `body` is text, or a document for JSON; without one it is the vendor's usual. `path` is a pattern that the calls
        are chosen by; without one they are those of the API, not of its OAuth pages. Raises KeyError for unknown names.
        """
        effect: Answer | Silence
        if isinstance(what, int):
            effect = self._failure(what, body)
        else:
            effect = Silence(what) if what in Silence.__members__ else self.faults[what]
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

    def no_limit(self) -> None:
        with self.lock:
            self._limit = None
            self._windows.clear()

    def revoke(self, token: str) -> None:
        """The token opens nothing any more."""
        self.kill(token, Why.REVOKED_TOKEN)

    def kill(self, token: str, why: Why) -> None:
        with self.lock:
            if self.tokens.pop(token, None) is not None:
                self.dead_tokens[token] = why

    # For a vendor's routes.

    def state_of(self, call: Call) -> State:
        return self.account_state(call.account)

    def account_of(self, token: str) -> str:
        """Whose account a token opens. Raises BadToken."""
        if not token:
            raise BadToken(Why.MISSING_TOKEN)
        if token not in self.tokens:
            raise BadToken(self.dead_tokens.get(token, Why.UNKNOWN_TOKEN))
        return self.tokens[token]

    def read_object(self, call: Call) -> dict[str, Any]:
        """The JSON object of a body. Raises Refused for another content type, Malformed for anything else."""
        self.check_type(call)
        document = call.json()
        if not isinstance(document, dict):
            raise Malformed("not a JSON object")
        return document

    def check_type(self, call: Call) -> None:
        if call.media_type != self.json_type:
            raise Refused(self.problem(Problem(Why.WRONG_TYPE, 415, f"Content-Type must be {self.json_type}")))

    # The way of a call.

    def respond(self, call: Call) -> Answer | None:
        """The answer to one call; None closes the connection without one."""
        if call.path.startswith(PREFIX):
            return control(self, call)
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
            answer = self._answer(call)
        return None if fault is Silence.LOSE_ANSWER else answer

    def _answer(self, call: Call) -> Answer:
        return self._guarded(lambda: self._admit(call, *self._find(call)))

    def _guarded(self, act: Callable[[], Answer]) -> Answer:
        try:
            return act()
        except Refused as refused:
            return refused.answer
        except Malformed as error:
            return self.problem(Problem(Why.MALFORMED, 400, f"The body cannot be read: {error}"))

    def _find(self, call: Call) -> tuple[Route, dict[str, str]]:
        elsewhere = False
        for candidate in self._routes:
            if match := candidate.path.fullmatch(call.path):
                if candidate.method == call.method:
                    return candidate, {name: unquote(value) for name, value in match.groupdict().items()}
                elsewhere = True
        if elsewhere:
            raise Refused(self.problem(Problem(Why.WRONG_METHOD, 405, f"{call.method} is not supported here.")))
        raise Refused(self.problem(Problem(Why.NOT_FOUND, 404, "There is nothing here.")))

    def _admit(self, call: Call, found: Route, parameters: dict[str, str]) -> Answer:
        if found.door == "open":
            return self._handle(call, found, parameters)
        if found.door == "token":
            call = replace(call, account=self._authorize(call))
        self.counts[call.account or call.path] += 1
        window = self._window(call.account or call.path)
        if window is None or window.take():
            answer = self._handle(call, found, parameters)
        else:
            words = f"More than {window.requests} requests in {window.seconds:g} seconds."
            answer = self.problem(Problem(Why.THROTTLED, 429, words, max(window.rest, 0.0)))
        return answer.with_headers(self.rate_headers(call, window))

    def _handle(self, call: Call, found: Route, parameters: dict[str, str]) -> Answer:
        return self._guarded(lambda: getattr(self, found.handler)(call, **parameters))

    def _authorize(self, call: Call) -> str:
        try:
            return self.account_of(self.token_of(call))
        except BadToken as bad:
            words = f"The credentials are not accepted ({bad.why.replace('_', ' ')})."
            raise Refused(self.problem(Problem(bad.why, 401, words))) from None

    def _window(self, key: str) -> Window | None:
        if self._limit is None:
            return None
        return self._windows.setdefault(key, Window(*self._limit))

    def _take_fault(self, call: Call) -> Answer | Silence | None:
        is_api = not any(each.door == "open" and each.path.fullmatch(call.path) for each in self._routes)
        for fault in self._faults:
            if fault.meets(call.path, is_api):
                fault.times -= 1
                if not fault.times:
                    self._faults.remove(fault)
                return fault.effect
        return None

    def _failure(self, status: int, body: Any) -> Answer:
        if body is None:
            return self.problem(Problem(Why.DOWN, status, f"The server failed ({status})."))
        return Answer.text(body, status) if isinstance(body, str) else Answer.of(body, status)
