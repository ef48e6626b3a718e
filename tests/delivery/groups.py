"""The groups of the tasks, and their waiting, as tests of one thread have them."""

import time
from types import SimpleNamespace

from django.db import transaction

from delivery import tasks
from delivery.events import setting_aside
from delivery.events.intake import LARGE_CHARACTERS
from delivery.rules import fanout


def sleep_by(monkeypatch, sleep):
    """In the module of the tasks alone: other threads of this process sleep as ever."""
    monkeypatch.setattr(tasks, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))


class Direct:
    """A group whose batches run in the test's own thread and transaction, each in a savepoint."""

    def __init__(self, run):
        self.run = run

    def submit(self, item):
        with transaction.atomic():
            return self.run([item])[0]


def run_fan_out_here(monkeypatch):
    """`tasks.fan_out` in the test's own transaction. Returns a list of the delays that it would have waited."""
    waited = []
    runs = {
        "_event_claims": lambda claims: fanout.claim_events(claims, LARGE_CHARACTERS),
        "_large_payloads": fanout.read_payloads,
        "_rule_loads": fanout.load_rules,
        "_routings": fanout.write,
        "_large_routings": fanout.write,
        "_hand_backs": setting_aside.hand_back,
    }
    for name, run in runs.items():
        monkeypatch.setattr(tasks, name, Direct(run))
    monkeypatch.setattr(tasks, "_forbid_database", lambda: None)
    sleep_by(monkeypatch, waited.append)
    return waited
