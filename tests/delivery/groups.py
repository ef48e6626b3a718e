"""The groups of the tasks, and their waiting, as tests of one thread have them."""

import time
from types import SimpleNamespace

from django.db import transaction

from delivery import tasks


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
