"""The steps of a token's renewal for threads that deliver: in batches, over one database connection of a process."""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any

from connections.oauth.refresh import Steps, begin_refresh, finish_refresh, read_states
from meshes.kit.batching import Group

Step = Callable[[Sequence[Any]], Sequence[Any]]
STEPS: tuple[Step, ...] = (begin_refresh, finish_refresh, read_states)


def _run(calls: list[tuple[Step, Any]]) -> list[Any]:
    """Run each step once with all its items; the answers in the order of the calls."""
    answers: dict[int, Any] = {}
    for step in STEPS:
        places = [place for place, (called, _) in enumerate(calls) if called is step]
        if places:
            answers |= zip(places, step([calls[place][1] for place in places]), strict=True)
    return [answers[place] for place in range(len(calls))]


_steps: Group[tuple[Step, Any], Any] = Group("tokens", _run)


def _submit(step: Step, item: Any) -> Any:
    return _steps.submit((step, item))


GROUPED = Steps(
    begin=partial(_submit, begin_refresh),
    finish=partial(_submit, finish_refresh),
    read=partial(_submit, read_states),
    keep_seconds=inf,  # nobody waits for a delivery's thread, and nothing else could be written either
)
