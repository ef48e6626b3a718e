"""What is measured, one module a question. Each has a pure `figures`, from samples to named numbers."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from bench import cpu
from bench.load import Answers
from bench.rig import Arrived, BenchError, Rig
from bench.systems import System

QUIET_SHARE = 0.25
"""Of a core: a system that spends less has nothing left to do."""


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds by process, and those of load generator and receivers."""

    system: dict[str, float]
    load: float
    receivers: float


class Meter:
    """CPU readings around one measurement."""

    def __init__(self, system: System, rig: Rig) -> None:
        self._system, self._rig = system, rig
        self._before = cpu.cpu_seconds(system.roots())
        self._receivers = cpu.cpu_seconds(rig.roots)

    def read(self, load_seconds: float) -> Spent:
        spent = cpu.spent(self._before, cpu.cpu_seconds(self._system.roots()))
        receivers = cpu.spent(self._receivers, cpu.cpu_seconds(self._rig.roots))
        return Spent(spent, load_seconds, sum(receivers.values()))


def settle(system: System, seconds: float = 60.0) -> None:
    """Wait until the system has worked off what it has, as its use of CPU shows."""
    deadline = time.monotonic() + seconds
    quiet = 0
    before = sum(cpu.cpu_seconds(system.roots()).values())
    while quiet < 2 and time.monotonic() < deadline:
        time.sleep(0.4)
        now = sum(cpu.cpu_seconds(system.roots()).values())
        quiet = quiet + 1 if now - before < 0.4 * QUIET_SHARE else 0
        before = now


def check_accepted(answers: Answers) -> None:
    """Raises BenchError unless every request was answered 202."""
    refused = [status for status in answers.status if status != 202]
    if refused:
        raise BenchError(f"{len(refused)} of {len(answers.status)} posts were not answered 202, but {set(refused)}")


def delays(answers: Answers, arrived: Arrived, templates: Iterable[int], until: float) -> list[float]:
    """Seconds from when each event was due to be posted until it first came; what has not come counts up to `until`.

    Of the requests made from the given templates, each of one event.
    """
    wanted, first = set(templates), arrived.first_by_number()
    return [
        first.get(number, until) - due
        for due, number, template in zip(answers.due, answers.number, answers.template, strict=True)
        if template in wanted
    ]
