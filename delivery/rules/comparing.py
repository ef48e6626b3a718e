"""How two JSON bodies differ, place by place."""

import json
from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import Any

_MISSING = object()


def differences(before: str, after: str, most: int) -> list[dict[str, Any]]:
    """The first places in which two JSON texts differ, in document order: `{pointer, before?, after?}`.

    A value that is not in one of them is left out of its entry. Objects are compared by name and arrays by index; the
    cost is linear in the texts. Numbers that are equal are the same however they are written.
    """
    return list(islice(_compare("", json.loads(before), json.loads(after)), most))


def _compare(pointer: str, before: Any, after: Any) -> Iterator[dict[str, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            part = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
            yield from _compare(part, before.get(name, _MISSING), after.get(name, _MISSING))
    elif isinstance(before, list) and isinstance(after, list):
        for index, (one, other) in enumerate(zip_longest(before, after, fillvalue=_MISSING)):
            yield from _compare(f"{pointer}/{index}", one, other)
    elif before != after or isinstance(before, bool) != isinstance(after, bool):
        shown = {"before": before, "after": after}
        yield {"pointer": pointer} | {side: value for side, value in shown.items() if value is not _MISSING}
