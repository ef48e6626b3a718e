"""The demo's story in steps: two tenants, their endpoints and rules, their events, a dead letter and its replay."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from meshes.dev.demo import events
from meshes.dev.demo.client import Api
from meshes.dev.demo.receivers import Endpoint, Receivers, flaky, gone, healthy, hung, slow

PARTS = ("warm-up", "calm", "troubled", "calm", "troubled", "calm")
"""What is compared takes turns, so that a machine that slows down in between slows both."""
EVENTS = (36, 60, 60, 60, 60, 60)
"""Events posted in each part."""
PACE_PER_SECOND = 24.0
PATIENCE_SECONDS = 120.0
"""How long each step waits for what it expects, on a busy machine too; what has not come by then fails its claim."""
HUNG_TIMEOUT_SECONDS = 3
"""How long an attempt at the hung endpoint waits for an answer."""
QUICK = [0, 0.5, 0.5, 1]
"""A retry schedule in seconds, so that nobody waits a day for the demo; any connection may bring its own."""
ACME, GLOBEX = "ws_tenant_acme", "ws_tenant_globex"
INVOICE_MAPPING = [
    {"to": "number", "from": "payload.invoice"},
    {"to": "customer.email", "from": "payload.customer.email", "transforms": ["trim", "lower"]},
    {"to": "lines", "from": "length(payload.lines)"},
    {"to": "currency", "value": "EUR"},
]


Progress = Callable[[str, int, int], None]
"""Tells how far a step is: what is counted, how much of it there is, and of how much."""


@dataclass(frozen=True, slots=True)
class Posted:
    """An event that was answered 202; `at` is when it was handed in (monotonic seconds)."""

    id: str
    type: str
    workspace: str
    payload: Mapping[str, Any]
    at: float


@dataclass(frozen=True, slots=True)
class Part:
    """The events of one part of the comparison; `troubled` where the hung endpoint wanted them too."""

    troubled: bool
    posted: list[Posted]


@dataclass(slots=True)
class Destination:
    """A connection, the endpoint behind it, and which of the posted events its rules want."""

    workspace: str
    endpoint: Endpoint
    connection: str
    wants: Callable[[Posted], bool]


@dataclass(slots=True)
class Rescue:
    """A dead letter before and after its endpoint was mended."""

    letter: Mapping[str, Any]
    replayed: Mapping[str, Any]
    waiting: int
    """How many more deliveries of the endpoint waited for it, and how many of them arrived."""
    arrived: int


@dataclass
class Act:
    """The demo in steps. `say` tells what happens."""

    api: Api
    say: Callable[[str], None]
    progress: Progress
    destinations: list[Destination] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    answered: int = 0
    hung_rule: str = ""
    endpoints: dict[str, Endpoint] = field(default_factory=dict)

    def make_endpoints(self) -> list[Endpoint]:
        """Two healthy ones, and one of each trouble; the dead one does not listen yet."""
        tempers = {"healthy-a": healthy, "healthy-b": healthy, "slow": slow, "flaky": flaky, "dead": healthy,
                   "gone": gone, "hung": hung}  # fmt: skip
        self.endpoints = {name: Endpoint(name, temper, listens=name != "dead") for name, temper in tempers.items()}
        return list(self.endpoints.values())

    def set_up(self) -> None:
        """Two tenants, and endpoints that are healthy, slow, flaky, dead and gone, wanted by rules with patterns, a
        filter and a mapping."""
        self.say("Two tenants, Acme and Globex; their endpoints are healthy, slow, flaky, dead and gone")
        for external_id, name in ((ACME, "Acme"), (GLOBEX, "Globex")):
            self.api.post("/workspaces", {"name": name, "external_id": external_id})
        self._connect(ACME, "healthy-a", {"event": "*"}, lambda event: True)
        self._connect(GLOBEX, "healthy-b", {"event": "*"}, lambda event: True)
        self._connect(ACME, "slow", {"event": "lead.*"}, lambda event: event.type == "lead.created")
        self._connect(GLOBEX, "flaky", {"event": "deal.won"}, lambda event: event.type == "deal.won")
        invoices = {"event": "invoice.paid", "mapping": INVOICE_MAPPING}
        self._connect(GLOBEX, "flaky", invoices, lambda event: event.type == "invoice.paid")
        urgent = {"event": "ticket.opened", "filter": {"payload.priority": "urgent"}}
        self._connect(ACME, "dead", urgent, lambda event: event.payload.get("priority") == "urgent", schedule=[0, 0.5])
        self._connect(GLOBEX, "gone", {"event": "ticket.*"}, lambda event: event.type == "ticket.opened")

    def post_in_turns(self) -> None:
        """Post events in parts, some beside an endpoint that takes requests and never answers, and wait for those that
        are to arrive. Between the parts its connection is paused, and its open requests end."""
        self._connect(ACME, "hung", {"event": "*"}, lambda event: True, [0, 60, 60], HUNG_TIMEOUT_SECONDS)
        self._let_hang(False)
        for number, (kind, count) in enumerate(zip(PARTS, EVENTS, strict=True)):
            troubled = kind == "troubled"
            words = ", and one more endpoint wants them, which never answers" if troubled else ""
            self.say(f"Part {number + 1} of {len(PARTS)}, {kind}: {count} events{words}")
            self._let_hang(troubled)
            self.parts.append(Part(troubled, self._post(count, seed=number)))
            self._wait_for_arrivals()
            if troubled:
                self._let_hang(False)
                wait_for(self.progress, "ended", lambda: int(self._open_requests() == 0), 1)
        wait_for(self.progress, "dead letters", lambda: len(self._dead_letters()), 1)
        wait_for(self.progress, "held", lambda: self._count("gone", "held"), len(self.wanted("gone")))

    def _let_hang(self, hangs: bool) -> None:
        """Let the hung endpoint have its events, or neither those that come nor those that wait."""
        connection = self.of("hung")[0].connection
        self.api.patch(f"/rules/{self.hung_rule}", {"enabled": hangs})
        self.api.post(f"/connections/{connection}/{'resume' if hangs else 'pause'}")

    def _open_requests(self) -> int:
        return self._count("hung", "in_flight")

    def mend_the_dead(self, receivers: Receivers) -> Rescue | None:
        """Start the dead endpoint, replay one dead letter, and resume what waited behind the breaker."""
        letters = self._dead_letters()
        if not letters:
            return None
        destination = self.of("dead")[0]
        waiting = self._count("dead", "pending")
        self.say("The dead endpoint is mended: its connection resumed, one dead letter replayed")
        receivers.open(destination.endpoint)
        self.api.post(f"/connections/{destination.connection}/resume")
        letter = letters[0]
        self.api.post(f"/deliveries/{letter['id']}/replay")
        wait_for(self.progress, "delivered", lambda: self._count("dead", "succeeded"), waiting + 1)
        arrived = self._count("dead", "succeeded") - 1
        return Rescue(letter, self._delivery(letter["id"]), waiting, arrived)

    def own_endpoints(self) -> dict[str, Endpoint]:
        """A healthy endpoint of each tenant."""
        return {ACME: self.endpoints["healthy-a"], GLOBEX: self.endpoints["healthy-b"]}

    # --- what the claims are reckoned from

    def of(self, endpoint: str) -> list[Destination]:
        """The destinations with this endpoint."""
        return [destination for destination in self.destinations if destination.endpoint.name == endpoint]

    @property
    def posted(self) -> list[Posted]:
        """All events that were answered 202."""
        return [event for part in self.parts for event in part.posted]

    def wanted(self, endpoint: str) -> list[Posted]:
        """The events that the rules lead to this endpoint, reckoned here and not asked of the API."""
        return [
            event
            for destination in self.of(endpoint)
            for part in self.parts
            if part.troubled or endpoint != "hung"
            for event in part.posted
            if event.workspace == destination.workspace and destination.wants(event)
        ]

    def deliveries(self, endpoint: str) -> list[Any]:
        """What the API knows of the deliveries to an endpoint."""
        return [
            delivery
            for destination in self.of(endpoint)
            for delivery in self.api.all(f"/deliveries?connection={destination.connection}")
        ]

    # --- how

    def _connect(
        self,
        workspace: str,
        endpoint_name: str,
        rule: Mapping[str, Any],
        wants: Callable[[Posted], bool],
        schedule: list[float] | None = None,
        timeout: int | None = None,
    ) -> None:
        endpoint = self.endpoints[endpoint_name]
        made = self.api.post(
            "/connections",
            {
                "workspace": workspace,
                "type": "webhook",
                "name": endpoint.name,
                "config": {"url": endpoint.url},
                "retry": {"schedule": schedule or QUICK},
                "limits": {"timeout": timeout} if timeout else {},
            },
        )
        endpoint.secrets.append(made["signing_secret"])
        ruled = self.api.post("/rules", {"workspace": workspace, "connection": made["id"], "enabled": True, **rule})
        if endpoint_name == "hung":
            self.hung_rule = ruled["id"]
        self.destinations.append(Destination(workspace, endpoint, made["id"], wants))

    def _post(self, number: int, seed: int) -> list[Posted]:
        start = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            waiting = []
            for index, (kind, payload) in enumerate(events.events(number, seed)):
                time.sleep(max(0.0, start + index / PACE_PER_SECOND - time.monotonic()))
                workspace = (ACME, GLOBEX)[index // len(events.TYPES) % 2]
                waiting.append(pool.submit(self._post_one, workspace, kind, payload))
                self.progress("posted", index + 1, number)
            return [future.result() for future in waiting]

    def _post_one(self, workspace: str, kind: str, payload: Mapping[str, Any]) -> Posted:
        at = time.monotonic()
        answer = self.api.post("/events", {"workspace": workspace, "event": kind, "payload": payload})
        self.answered += 1
        return Posted(answer["id"], kind, workspace, payload, at)

    def _wait_for_arrivals(self) -> None:
        arriving = ("healthy-a", "healthy-b", "slow", "flaky")
        goal = sum(len(self.wanted(name)) for name in arriving)
        wait_for(self.progress, "arrived", lambda: self._arrived_in(*arriving), goal)

    def _arrived_in(self, *names: str) -> int:
        return sum(len(self.endpoints[name].arrived) for name in names)

    def _count(self, endpoint: str, status: str) -> int:
        return sum(delivery["status"] == status for delivery in self.deliveries(endpoint))

    def _dead_letters(self) -> list[Any]:
        return [
            letter for each in self.of("dead") for letter in self.api.all(f"/dead-letters?connection={each.connection}")
        ]

    def _delivery(self, delivery_id: str) -> Any:
        return self.api.get(f"/deliveries/{delivery_id}")


def wait_for(progress: Progress, what: str, count: Callable[[], int], goal: int) -> None:
    """Until `count` has reached the goal, or patience is over; what is missing then fails its claim."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (done := count()) < goal and time.monotonic() < deadline:
        progress(what, done, goal)
        time.sleep(0.2)
    progress(what, min(done, goal), goal)
