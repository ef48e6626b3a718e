"""Each scenario's reckoning, from samples made by hand."""

from array import array

import pytest

from bench.load import Answers
from bench.rig import Arrived
from bench.scenarios import (
    Spent,
    backlog,
    dear,
    delays,
    history,
    idle,
    ingest,
    isolation,
    lanes,
    latency,
    start,
    throughput,
)

SPENT = Spent({"web": 1.0, "deliver": 3.0}, load=0.5, receivers=0.25)


def answers(*rows):
    made = Answers()
    for due, number, template in rows:
        made.add(due, number, template)
    return made


def test_a_delay_counts_from_when_the_post_was_due_to_the_first_arrival():
    arrived = Arrived(array("d", [3.0, 2.5, 9.0]), array("q", [7, 7, 8]), array("q", [0, 0, 0]))
    assert delays(answers((2.0, 7, 0), (2.0, 8, 1), (4.0, 9, 0)), arrived, [0], until=10.0) == [0.5, 6.0]


def test_throughput_is_per_second_and_its_cpu_per_delivery():
    made = throughput.figures([throughput.Sample(5, 1000, 4.0, SPENT)])
    assert made == {
        "deliveries_per_second_at_5": 250.0,
        "cpu_ms_at_5": 4.0,
        "cpu_ms_at_5:web": 1.0,
        "cpu_ms_at_5:deliver": 3.0,
        "harness_cpu_ms_at_5:load": 0.5,
        "harness_cpu_ms_at_5:receivers": 0.25,
    }


def test_ingest_counts_every_event_of_a_bulk_request():
    made = Answers()
    for sent, answered in ((1.0, 1.1), (1.5, 1.8)):
        made.answered[made.add(sent, 0, 0)] = answered
        made.sent[-1] = sent
    sample = ingest.sample_of("bulk", 100, made, SPENT)
    figures = ingest.figures([sample])
    assert sample.events == 200
    assert figures["bulk_events_per_second"] == pytest.approx(250.0)
    assert figures["bulk_p50_ms"] == pytest.approx(100.0)
    assert figures["bulk_p99_ms"] == pytest.approx(300.0)


def test_latency_has_its_median_and_its_tail():
    assert latency.figures(latency.Sample([0.01] * 99 + [0.5])) == {"p50_ms": 10.0, "p99_ms": 10.0}


def test_isolation_divides_by_the_shorter_of_the_calm_p99s():
    taken = {"calm": [0.1, 0.4], "hung": [0.1, 0.3], "calm_after": [0.1, 0.2]}
    made = isolation.figures([isolation.Sample(name, delays, 2) for name, delays in taken.items()])
    assert made["hung_ratio"] == pytest.approx(1.5)
    assert "calm_ratio" not in made
    assert "calm_after_ratio" not in made


def test_dear_divides_by_the_calm_parts_around():
    p99s = {"calm": [0.1], "arrays": [0.3], "calm_between": [0.3], "regex": [0.3], "calm_after": [0.5]}
    parts = [dear.Part("calm" if kind.startswith("calm") else kind, taken) for kind, taken in p99s.items()]
    made = dear.figures(parts)
    assert made["arrays_ratio"] == pytest.approx(1.5)
    assert made["regex_ratio"] == pytest.approx(0.75)
    assert (made["calm_p99_ms_least"], made["calm_p99_ms_most"]) == pytest.approx((100, 500))


def test_the_plan_of_isolation_is_even_and_the_same_each_time():
    plan = isolation.plan(100, 20)
    assert plan == isolation.plan(100, 20)
    assert plan == sorted(plan)
    each = (20 + isolation.LEAD_SECONDS) * isolation.PER_SECOND
    assert {sum(template == tenant for _, template in plan) for tenant in range(100)} == {each}


def test_lanes_are_told_by_transport_and_number_of_queues():
    sample = {"transport": "stock", "queues": 100, "tasks_per_second": 50.0, "worker_cpu_ms": 2.0, "server_cpu_ms": 0.1}
    assert lanes.figures([sample]) == {
        "stock": {"tasks_per_second_at_100": 50.0, "cpu_ms_at_100:worker": 2.0, "cpu_ms_at_100:valkey": 0.1}
    }


def test_idle_connections_cost_what_was_not_spent_without_them():
    without = idle.Reading(0, keys=["a"], value_bytes=400, spent={"web": 0.1})
    made = idle.figures(without, idle.Reading(100_000, keys=["a", "b"], value_bytes=500, spent={"web": 0.3}))
    assert (made["valkey_keys"], made["valkey_bytes"]) == (1, 100)
    assert (made["cpu_ms_a_second"], made["cpu_ms_a_second_without"]) == (pytest.approx(30), pytest.approx(10))


def test_a_backlog_is_linear_when_both_halves_go_equally_fast():
    sample = backlog.Sample(1000, came=[(1.0, 100), (5.0, 500), (10.0, 1000)], most_bytes={"deliver": 2**20})
    made = backlog.figures(sample)
    assert made["drain_seconds"] == 10.0
    assert made["first_half_per_second"] == made["second_half_per_second"] == 100.0
    assert made["memory_mb:deliver"] == 1.0


def test_history_compares_each_pair_of_runs():
    few, many = (
        history.Sample(size, throughput.Sample(5, 1000, seconds, SPENT), ingest.Sample("single", 100, 1.0, [], SPENT))
        for size, seconds in ((10_000, 2.0), (500_000, 4.0))
    )
    (made,) = history.figures([[few, many]])
    assert made["deliveries_per_second_ratio"] == 0.5
    assert made["events_per_second_ratio"] == 1.0
    assert made["cpu_ms_per_delivery_ratio"] == 1.0


def test_start_has_two_moments():
    assert start.figures(start.Sample(2.0, 3.0)) == {"ready_seconds": 2.0, "first_delivery_seconds": 3.0}
