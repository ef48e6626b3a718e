"""Nothing here reads the clock of its own host where PostgreSQL's is meant: the source says so."""

import ast
from collections.abc import Iterator
from pathlib import Path

from meshes.environment import PROJECT

PACKAGES = ("workspaces", "connections", "delivery", "meshes")
HOST_CLOCKS = {
    ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"),
    ("timezone", "now"), ("time", "time"), ("time", "time_ns"),
}  # fmt: skip
ALLOWED = {
    "connections/providers/answers.py": "a date without the vendor's own `Date` counts from now: it becomes a delay",
    "delivery/management/commands/lanes.py": "ages of what the broker holds, for a person",
    "meshes/dev/vendors/hubspot.py": "a vendor's clock is its own",
}
"""Where a host's own clock is read, and why it may be."""


def readings(source: str) -> Iterator[str]:
    """Every call in a source that reads the host's clock: `module.function:line`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if (name, node.func.attr) in HOST_CLOCKS:
                yield f"{name}.{node.func.attr}:{node.lineno}"


def sources() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py"))]
    assert len(found) > 200
    return found


def test_only_what_is_named_here_reads_the_clock_of_its_host():
    reading = {str(path.relative_to(PROJECT)): list(readings(path.read_text())) for path in sources()}
    assert {path: found for path, found in reading.items() if found and path not in ALLOWED} == {}
    assert [path for path in ALLOWED if not reading.get(path)] == []


def test_the_ways_to_read_it_are_seen():
    ways = "datetime.now(UTC); datetime.datetime.now(); timezone.now(); time.time(); datetime.utcnow(); date.today()"
    assert len(list(readings(ways))) == 6
    assert list(readings("time.monotonic(); clock.now(); Now(); self.now()")) == []
