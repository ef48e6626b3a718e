"""Heavy events run one after the other, few wait for it, and their workspace's lane is paused."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from delivery.lanes import brokers
from delivery.rules import heavy
from tests.polling import eventually

pytestmark = pytest.mark.usefixtures("redis_client")

WORKSPACE = uuid.UUID(int=7)


@pytest.fixture(autouse=True)
def _nothing_is_known_of_workspaces():
    heavy._last_were_heavy.clear()
    yield
    heavy._last_were_heavy.clear()


def lane():
    return brokers.lanes_for(WORKSPACE).stats(f"fanout.{WORKSPACE}")


def test_an_event_that_is_not_heavy_never_waits_and_pauses_nothing():
    gate = heavy.Gate(most_waiting=0)
    gate.enter()
    with heavy.Turn(WORKSPACE, gate) as turn:
        turn.note(heavy.HEAVY_STEPS - 1)
    assert (turn.is_taken, lane().paused_until) == (False, None)


def test_an_event_that_is_heavy_is_told_so_once():
    with heavy.Turn(WORKSPACE, heavy.Gate()) as turn:
        with pytest.raises(heavy.HeavyError):
            turn.note(heavy.HEAVY_STEPS)
        turn.take()
        turn.note(2 * heavy.HEAVY_STEPS)


def test_where_the_last_event_of_a_workspace_was_heavy_the_next_waits_before_anything_is_done_for_it():
    def took_its_turn(steps):
        with heavy.Turn(WORKSPACE, heavy.Gate()) as turn:
            taken = turn.is_taken
            turn.take()
            turn.note(steps)
            return taken

    steps = [heavy.HEAVY_STEPS, heavy.HEAVY_STEPS, heavy.HEAVY_STEPS - 1, 1]
    assert [took_its_turn(each) for each in steps] == [False, True, True, False]


def test_heavy_events_run_one_after_the_other():
    gate, running, most = heavy.Gate(most_waiting=8), [], []

    def run(number):
        with heavy.Turn(WORKSPACE, gate) as turn:
            turn.take()
            running.append(number)
            most.append(len(running))
            turn.note(2 * heavy.HEAVY_STEPS)
            running.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    assert most == [1] * 8


def test_no_more_wait_than_there_is_room_for_and_their_lane_is_paused():
    gate, may_end = heavy.Gate(most_waiting=1), threading.Event()

    def hold():
        with heavy.Turn(uuid.UUID(int=8), gate) as turn:
            turn.take()
            may_end.wait(60)

    with ThreadPoolExecutor(2) as pool:
        holding = [pool.submit(hold) for _ in range(2)]
        eventually(lambda: gate._places._value == 0, 60)
        with pytest.raises(heavy.HeavyError), heavy.Turn(WORKSPACE, gate) as turn:
            turn.take()
        may_end.set()
        for each in holding:
            each.result(60)
    until = lane().paused_until
    assert until is not None
    assert until - datetime.now(UTC) <= timedelta(seconds=heavy.BUSY_PAUSE_SECONDS)
    with heavy.Turn(WORKSPACE, gate) as turn:  # all places are free again
        turn.take()


def test_a_lane_is_paused_by_what_its_event_cost():
    with heavy.Turn(WORKSPACE, heavy.Gate()) as turn:
        turn.take()
        turn.note(10**9)
    until = lane().paused_until
    assert until is not None
    seconds = heavy.PAUSE_SHARE * heavy.STEP_SECONDS * 10**9
    assert timedelta(seconds=seconds / 2) < until - datetime.now(UTC) <= timedelta(seconds=seconds)


def test_a_failure_gives_the_turn_back():
    gate = heavy.Gate(most_waiting=0)

    def fail():
        with heavy.Turn(WORKSPACE, gate) as turn:
            turn.take()
            raise ValueError("ours")

    for _ in range(3):
        with pytest.raises(ValueError, match="ours"):
            fail()


def test_few_threads_wait_for_rules_and_the_others_are_told_to_come_later():
    places = heavy.Places(1, 0.01)
    with places, pytest.raises(heavy.HeavyError), places:
        pass
    with places:
        pass
