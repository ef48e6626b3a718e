"""The two Celery tasks. They carry ids; rows carry everything else; sweeps start again what a lost task left."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, NoReturn

from celery import shared_task
from django.conf import settings
from django.db import Error, connections

from connections.oauth.refresh import Steps, begin_refresh, finish_refresh, read_states
from connections.providers.base import Outcome
from delivery.dispatch.attempts import Result, attempt
from delivery.dispatch.claims import Job, claim, regain_leases
from delivery.dispatch.settling import settle
from delivery.events import setting_aside
from delivery.events.intake import LARGE_CHARACTERS
from delivery.events.setting_aside import Claim, Failure
from delivery.lanes import brokers
from delivery.lanes.lease import report
from delivery.rules import fanout, heavy, routing
from delivery.rules.heavy import Evaluator
from delivery.rules.routing import Fact, Routed, Routing, evaluate
from meshes.kit import ids
from meshes.kit.batching import Group
from meshes.kit.database_faults import Fault, describe, fault_of, growing_delay
from workspaces.vault import vault

logger = logging.getLogger(__name__)

WORKER = vault.this_process()


_event_claims: Group[Claim, Fact | None] = Group(
    "event-claim", lambda claims: fanout.claim_events(claims, LARGE_CHARACTERS), most=32
)
_large_payloads: Group[Fact, Fact | None] = Group("large-payload", fanout.read_payloads, most=2)
_rule_loads: Group[Fact, Routing] = Group("rule-load", fanout.load_rules, most=4)
_routings: Group[Routed, list[brokers.DeliveryHint]] = Group("routing", fanout.write, most=32)
_large_routings: Group[Routed, list[brokers.DeliveryHint]] = Group("large-routing", fanout.write, most=1)
_hand_backs: Group[Failure, None] = Group("hand-back", setting_aside.hand_back)
_claims: Group[uuid.UUID, Job | None] = Group("claim", lambda ids: claim(ids, WORKER))
_settlements: Group[Result, bool] = Group("settle", lambda results: settle(results, WORKER))
_regains: Group[Job, bool] = Group("regain", regain_leases)

Step = Callable[[Sequence[Any]], Sequence[Any]]


def _renew_tokens(calls: list[tuple[Step, Any]]) -> list[Any]:
    """Run each step of a renewal once with all its items; the answers in the order of the calls."""
    answers: dict[int, Any] = {}
    for step in (begin_refresh, finish_refresh, read_states):
        if places := [place for place, (called, _) in enumerate(calls) if called is step]:
            answers |= zip(places, step([calls[place][1] for place in places]), strict=True)
    return [answers[place] for place in range(len(calls))]


_renewals: Group[tuple[Step, Any], Any] = Group("tokens", _renew_tokens)


def _submit_step(step: Step, item: Any) -> Any:
    return _renewals.submit((step, item))


GROUPED = Steps(
    begin=partial(_submit_step, begin_refresh),
    finish=partial(_submit_step, finish_refresh),
    read=partial(_submit_step, read_states),
    keep_seconds=inf,  # nobody waits for a delivery's thread, and nothing else could be written either
)
"""The steps of a token's renewal for threads that deliver: in batches, over one database connection of a process."""

_evaluator = Evaluator()

WRITE_AGAIN_SECONDS = (0.5, 10.0)
"""Between tries to write back what this process alone knows: the first delay, and the longest."""


@shared_task(name="delivery.fan_out", acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]  # Celery has no types
def fan_out(event_id: str) -> None:
    """Route one event: match rules, shape payloads, write deliveries, enqueue them on their connections' lanes."""
    _forbid_database()
    claim = Claim(uuid.UUID(event_id), ids.uuid7())
    try:
        fact = _event_claims.submit(claim)
    except Error as error:
        _tell("event %s is not claimed for now: %s", event_id, error)
        return  # a sweep enqueues it again
    if fact is None:
        return
    began_at = time.monotonic()
    try:
        with heavy.Turn(fact.workspace_id) as turn:
            fact = fact if fact.payload else _large_payloads.submit(fact)
            if fact is None:
                return  # it was deleted meanwhile
            rules = routing.kept(fact.workspace_id, fact.stamp)
            if rules is None:
                with heavy.loading:  # which may be many: few threads wait for that at once
                    rules = _rule_loads.submit(fact)
            wake_ups = _write(_evaluate(fact, rules, turn), turn)
    except heavy.HeavyError:
        _hand_back(Failure(claim, "", "So many heavy events are routed that it waits for its turn."))
    except Exception as error:  # noqa: BLE001  (judged by whose fault it is)
        _hand_back(setting_aside.judge(claim, error, began_at))
    else:
        brokers.publish_deliveries(wake_ups)


def _evaluate(fact: Fact, rules: Routing, turn: heavy.Turn) -> Routed:
    """Decide what the rules make of an event: here, or in the evaluator as soon as it turns out to be heavy."""
    try:
        if not turn.is_taken:
            turn.note(rules.compilation_steps(fact.type))
            return evaluate(fact, rules, turn.note)
    except heavy.HeavyError:
        turn.take()
    routed = _evaluator.evaluate(fact, rules)
    rules.compile(fact.type, heavy.HEAVY_STEPS)  # some at a time: until all are, the next event is heavy too
    return routed


def _write(routed: Routed, turn: heavy.Turn) -> list[brokers.DeliveryHint]:
    """Write what was decided: much of it by a group of its own, so that little of others does not wait."""
    size = heavy.writing_steps(routed)
    try:
        turn.note(routed.steps + size)
    except heavy.HeavyError:
        turn.take()
    return (_large_routings if size >= heavy.LARGE_STEPS else _routings).submit(routed)


def _hand_back(failure: Failure) -> None:
    """End the lease of an event that was not routed, with patience whatever refuses it: it is ours for as long as we
    live, as a lease that lapses counts a lost worker."""
    failures, event_id = 0, failure.claim.event_id
    while not _try(_hand_backs.submit, failure, "event %s is not handed back for now: %s", event_id):
        failures += 1
        time.sleep(growing_delay(failures, *WRITE_AGAIN_SECONDS))
        # under the same lease, which begins anew
        _try(_event_claims.submit, failure.claim, "event %s: its lease is not kept for now: %s", event_id)


@shared_task(name="delivery.deliver", acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]  # Celery has no types
def deliver(delivery_id: str) -> None:
    """Make one attempt of one delivery, unless it is not due, is held, or is being made elsewhere."""
    _forbid_database()
    try:
        job = _claims.submit(uuid.UUID(delivery_id))
    except Error as error:
        _tell("delivery %s is not claimed for now: %s", delivery_id, error)
        return  # a sweep enqueues it again
    if job is not None:
        result = attempt(job, GROUPED)
        _settle(result)
        tell_lane(result)


def tell_lane(result: Result) -> None:
    """Tell the lane how its endpoint does. A 429 is no failure: it pauses the lane; neither are our own faults."""
    if not result.verdict.is_ours:
        failed = result.verdict.outcome in (Outcome.RETRY, Outcome.UNCERTAIN) and not result.verdict.throttled
        report(str(result.job.delivery_id), result.duration_ms / 1000, is_failure=failed)


def _settle(result: Result) -> None:
    """Write the result back, with patience whatever refuses it: it is the only copy for as long as we live.

    Until then its lease is kept, and taken back where it ended, as nobody was lost; also where the attempt itself
    outlasted it, by keeping new tokens with the same patience.
    """
    failures, is_late = 0, result.duration_ms >= settings.MESHES_LEASE_SECONDS * 1000
    while True:
        try:
            if _write_back(result):
                return
            if not (failures or is_late) or not _regains.submit(result.job):
                logger.warning("delivery %s: its lease had ended before it settled", result.job.delivery_id)
                return
        except Exception as error:  # noqa: BLE001  (of whatever kind: nobody was lost)
            failures += 1
            _tell("delivery %s is not settled for now: %s", result.job.delivery_id, error)
            # so that nobody sends again what is only not written yet
            _try(_regains.submit, result.job, "delivery %s: its lease is not kept for now: %s", result.job.delivery_id)
            time.sleep(growing_delay(failures, *WRITE_AGAIN_SECONDS))


def _write_back(result: Result) -> bool:
    """Whether the result's lease was still its own. What the database takes in no case, the evidence, is left out."""
    try:
        return _settlements.submit(result)
    except Exception as error:
        if fault_of(error) is not Fault.ITEM:
            raise
        words = describe(error)
    verdict = replace(result.verdict, words=f"What was sent and answered could not be stored: {words}.")
    is_settled = _settlements.submit(replace(result, verdict=verdict, evidence={}))  # words may quote what was answered
    if is_settled:
        logger.error("delivery %s has settled without its evidence: %s", result.job.delivery_id, words)
    return is_settled


def _try(submit: Callable[[Any], object], item: Any, words: str, row_id: object) -> bool:
    """Whether a group has done it; an error of whatever kind is logged, as it is tried again."""
    try:
        submit(item)
    except Exception as error:  # noqa: BLE001  (nobody was lost)
        _tell(words, row_id, error)
        return False
    return True


def _tell(words: str, row_id: object, error: Exception) -> None:
    """Log what is tried again: a warning where it passes or was canceled, else an error for somebody to look at."""
    is_calm = fault_of(error) in (Fault.PASSING, Fault.CANCELED)
    trace = None if is_calm or isinstance(error, Error) else error  # what the database says may quote the row
    logger.log(logging.WARNING if is_calm else logging.ERROR, words, row_id, describe(error), exc_info=trace)


class DatabaseForbiddenError(RuntimeError):
    """A pool thread opened a database connection: a hundred open deliveries would then need a hundred of them."""


_guarded = threading.local()


def _forbid_database() -> None:
    if not getattr(_guarded, "done", False):
        connections["default"].connect = _refuse  # type: ignore[method-assign]
        _guarded.done = True


def _refuse() -> NoReturn:
    raise DatabaseForbiddenError("threads that deliver never touch the database: go through a group")
