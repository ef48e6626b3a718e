"""Group commit among the threads of a process."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from meshes.kit.batching import Group


def test_each_thread_gets_the_answer_to_its_own_item():
    group = Group("square", lambda items: [item * item for item in items])
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(group.submit, range(200))) == [item * item for item in range(200)]


def test_items_that_gather_while_a_batch_runs_share_the_next_one():
    started, may_end, batches = threading.Event(), threading.Event(), []

    def run(items):
        batches.append(sorted(items))
        started.set()
        may_end.wait(5)
        return items

    group = Group("gather", run)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(group.submit, 0)
        started.wait(5)
        others = [pool.submit(group.submit, item) for item in range(1, 8)]
        while group._waiting.qsize() < 7:
            threading.Event().wait(0.001)
        may_end.set()
        assert [future.result() for future in [first, *others]] == list(range(8))
    assert batches == [[0], list(range(1, 8))]


def test_a_poisoned_item_hurts_only_itself():
    def run(items):
        if 3 in items:
            raise ValueError("poison")
        return items

    group = Group("poison", run)
    gate = threading.Barrier(8)

    def submit(item):
        gate.wait(5)
        return group.submit(item)

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(submit, item) for item in range(8)]
    with pytest.raises(ValueError, match="poison"):
        futures[3].result()
    assert [future.result() for item, future in enumerate(futures) if item != 3] == [0, 1, 2, 4, 5, 6, 7]


def test_a_batch_is_no_longer_than_allowed():
    sizes = []

    def run(items):
        sizes.append(len(items))
        return items

    group = Group("short", run, most=3)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(group.submit, range(60)))
    assert sum(sizes) == 60
    assert max(sizes) <= 3
