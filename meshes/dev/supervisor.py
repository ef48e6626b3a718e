"""Keeps programs running: one that dies is started again within seconds, and at the end all stop in order."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from meshes.dev.children import Child, Program, stop_together

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 5.0
STEADY_SECONDS = 10.0
"""A program that ran this long is no longer counted as failing."""


def restart_delay(failures: int) -> float:
    """Seconds from a death to the next start: doubling from 0.2 to 5."""
    return float(min(FIRST_DELAY_SECONDS * 2 ** min(failures, 10), LONGEST_DELAY_SECONDS))


@dataclass(slots=True)
class _Post:
    """One program's place, with its running child or the moment of its next start."""

    program: Program
    child: Child | None
    failures: int = 0
    start_at: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Programs in stages: a later stage uses an earlier one, so stages stop in reverse order.

    What dies is started again for ever, whatever it dies of: a full volume has space again some time.
    Has no thread of its own: the owner, on its main thread, calls ``tend`` every fraction of a second.
    """

    changed: Callable[[dict[str, int]], None]
    """Called with ``pids`` after each start and each death."""
    report: Callable[[str], None]
    """Called with a sentence for the person who watches."""
    _stages: list[list[_Post]] = field(default_factory=list)

    def start(self, programs: Sequence[Program]) -> None:
        """Start a stage."""
        stage: list[_Post] = []
        self._stages.append(stage)
        for program in programs:
            stage.append(_Post(program, Child(program)))
        self.changed(self.pids())

    def pids(self) -> dict[str, int]:
        """Program name to process id, of those that run."""
        return {post.program.name: post.child.pid for post in self._posts() if post.child}

    def is_running(self, name: str) -> bool:
        return any(
            post.program.name == name and post.child is not None and post.child.exit_code() is None
            for post in self._posts()
        )

    def tend(self) -> None:
        """One round: note who died, and start again whose delay is over."""
        for post in self._posts():
            if post.child is None:
                self._start_when_due(post)
            elif (code := post.child.exit_code()) is not None:
                self._note_death(post, post.child, code)

    def stop(self) -> None:
        """Stop everything, the last stage first, each program within its own ``stop_seconds``."""
        while self._stages:
            stage = self._stages.pop()
            stop_together([post.child for post in stage if post.child])

    def _posts(self) -> list[_Post]:
        return [post for stage in self._stages for post in stage]

    def _note_death(self, post: _Post, child: Child, code: int) -> None:
        post.failures = 0 if time.monotonic() - child.started_at > STEADY_SECONDS else post.failures + 1
        delay = restart_delay(post.failures)
        post.child, post.start_at = None, time.monotonic() + delay
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        self.report(f"{post.program.name} (pid {child.pid}) ended: {how}; its log is {post.program.log}")
        self.changed(self.pids())

    def _start_when_due(self, post: _Post) -> None:
        if time.monotonic() < post.start_at:
            return
        try:
            post.child = Child(post.program)
        except OSError as error:  # no process, no memory, no descriptor: it will pass
            post.failures += 1
            post.start_at = time.monotonic() + restart_delay(post.failures)
            self.report(f"{post.program.name} cannot be started yet: {error}")
            return
        self.report(f"{post.program.name} is running again (pid {post.child.pid})")
        self.changed(self.pids())
